//! Sums over broadcast dimensions.

use ccl_ir::ops::Reduce;
use ccl_ir::plan::Call;
use ccl_ir::types::broadcast;

use super::walk::{Walk, collapse, fits};
use crate::gpu::blueprint::{Kernel, Program};
use crate::gpu::kernels::sum::Sum;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::{Target, Tiles};

/// Results of a cube where neighbours in memory are terms of different results: a plane of units.
const ACROSS: u32 = 32;
/// Terms of one result from which on a cube has as many units as the target allows, up to [`MOST`].
const LONG: u64 = 1 << 15;
/// Most units of a cube.
const MOST: u32 = 1024;

/// `Reduce`.
pub(super) fn reduce(call: &Call, target: &Target, op: &Reduce) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let common = call.inputs.iter().try_fold(Vec::new(), |all, o| broadcast(&all, &o.ty.shape));
    let common = common.ok_or_else(|| args.error("inputs do not broadcast"))?;
    let lead = common.len() - op.shape.len();
    let is_kept = |i: usize| i >= lead && op.shape[i - lead] == common[i];
    let walks: Vec<Walk> = call.inputs.iter().map(|o| Walk::broadcast(o, &common)).collect();
    // The dimensions of one kind, and how inputs are walked along them.
    let of = |wanted: bool| {
        let axes: Vec<usize> = (0..common.len()).filter(|&i| is_kept(i) == wanted).collect();
        let mut dims: Vec<usize> = axes.iter().map(|&i| common[i]).collect();
        let mut walks: Vec<Walk> = walks
            .iter()
            .map(|w| Walk { offset: w.offset, strides: axes.iter().map(|&i| w.strides[i]).collect() })
            .collect();
        collapse(&mut dims, &mut walks);
        (dims, walks)
    };
    let ((kept, results_walks), (summed, terms_walks)) = (of(true), of(false));
    let count = |dims: &[usize]| dims.iter().map(|&n| n as u64).product::<u64>();
    let (results, terms) = (count(&kept), count(&summed));

    // Units that are near each other read what is near in memory.
    let innermost = (0..common.len()).rev().find(|&i| common[i] > 1);
    let results_first = innermost.is_some_and(is_kept);
    let units = match target.tiles {
        Tiles::Small => 64,
        Tiles::Large if terms < LONG => 256,
        Tiles::Large => MOST,
    };
    let units = units.min(1 << target.max_units.ilog2());
    // Short sums of neighbours leave most units of a cube without terms: several results share it.
    let across = if results_first || terms <= u64::from(ACROSS) { ACROSS.min(units) } else { 1 };

    let lanes = u64::from(units / across);
    // Positions of masked terms are computed, though nothing is read there.
    fits(&args, results.saturating_add(across.into()).max(terms.saturating_add(lanes)))?;
    args.sizes([results, terms])?;
    args.sizes(kept.iter().chain(&summed).map(|&n| n as u64))?;
    let dims = [kept.as_slice(), &summed].concat();
    for (result, term) in results_walks.iter().zip(&terms_walks) {
        let strides = [result.strides.as_slice(), &term.strides].concat();
        Walk { offset: result.offset, strides }.push(&mut args, &dims, 0)?;
    }
    args.size(call.outputs[0].offset)?;
    let kernel = Sum {
        kept: kept.len() as u32,
        summed: summed.len() as u32,
        units,
        across,
        results_first,
        inputs: (0..call.inputs.len()).map(|i| args.input(i)).collect::<Result<_, _>>()?,
        program: op.chain.as_ref().map_or_else(Program::copy, Program::of),
        output: args.output(0)?,
    };
    args.launch(Kernel::Sum(kernel), results.div_ceil(across.into()), [units, 1, 1])
}
