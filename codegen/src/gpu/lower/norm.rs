//! What works on whole rows: normalisations, their gradient, and softmax.

use ccl_ir::Op;
use ccl_ir::ops::{self, RmsNormRope};
use ccl_ir::plan::Call;

use super::walk::{Walk, collapse, fits};
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::norm::Norm;
use crate::gpu::kernels::norm_grad::NormGrad;
use crate::gpu::kernels::norm_rope::NormRope;
use crate::gpu::kernels::softmax::Softmax;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::{Target, Tiles};
use crate::gpu::wide::WIDTH;
use crate::gpu::wide::rows::{Dealt, Wide};

/// Units of a cube: a row each.
fn units(target: &Target, d: usize) -> u32 {
    let most = match target.tiles {
        Tiles::Small => 64,
        Tiles::Large => 256,
    };
    // Units without elements only wait; one plane is the least that is worth having.
    (d.min(most) as u32).next_power_of_two().max(32)
}

/// Rows that are worked on.
struct Rows {
    /// Number of dimensions that number them.
    rank: u32,
    count: u64,
    /// Elements of each.
    d: usize,
    /// How they are dealt out to units that move eight numbers at a time, where the target has such units and all operands allow it.
    dealt: Option<Dealt>,
}

impl Rows {
    /// Units of a cube.
    fn units(&self, target: &Target) -> u32 {
        self.dealt.map_or_else(|| units(target, self.d), |dealt| dealt.units)
    }

    /// The kernel that works on them.
    fn kernel<K>(&self, kernel: K, plain: fn(K) -> Kernel, wide: fn(Wide<K>) -> Kernel) -> Kernel {
        match self.dealt {
            Some(Dealt { held, .. }) => wide(Wide { kernel, held }),
            None => plain(kernel),
        }
    }
}

/// The sizes of rows and of operands over them.
fn rows(args: &mut Args, operands: &[usize]) -> Result<Rows, LowerError> {
    let x = &args.operand(0).ty;
    let d = x.last() as u64;
    let mut dims = x.shape[..x.rank().saturating_sub(1)].to_vec();
    let mut walks: Vec<Walk> = operands.iter().map(|&i| Walk::rows(args.operand(i), &dims)).collect();
    collapse(&mut dims, &mut walks);
    let rows: u64 = dims.iter().map(|&n| n as u64).product();
    args.size(rows)?;
    args.size(d)?;
    args.sizes(dims.iter().map(|&n| n as u64))?;
    for walk in &walks {
        walk.push(args, &dims, d)?;
    }
    let first = args.result(0).offset;
    fits(args, first.saturating_add(rows.saturating_mul(d)))?;
    args.size(first)?;
    let aligned = walks.iter().all(|walk| walk.is_aligned(&dims, WIDTH)) && first % WIDTH as u64 == 0;
    let dealt =
        if args.target.is_wide() && aligned { Dealt::row(rows, d as usize, args.target.max_units) } else { None };
    Ok(Rows { rank: dims.len() as u32, count: rows, d: d as usize, dealt })
}

/// `LayerNorm`, `RmsNorm` and `NormModulate`.
pub(super) fn norm(call: &Call, target: &Target) -> Result<Launch, LowerError> {
    let (centered, eps, scale, shift) = match &call.op {
        Op::LayerNorm(op) => (true, op.eps, op.affine.then_some(1), op.affine.then_some(2)),
        Op::NormModulate(op) => (true, op.eps, Some(2), Some(1)),
        Op::RmsNorm(op) => (false, op.eps, Some(1), None),
        _ => return Err(Args::new(call, target).error("is no normalisation")),
    };
    let mut args = Args::new(call, target);
    let operands: Vec<usize> = [Some(0), scale, shift].into_iter().flatten().collect();
    let rows = rows(&mut args, &operands)?;
    let units = rows.units(target);
    let kernel = Norm {
        rank: rows.rank,
        units,
        centered,
        eps: (eps as f32).to_bits(),
        x: args.input(0)?,
        scale: scale.map(|i| args.input(i)).transpose()?,
        one_plus: matches!(call.op, Op::NormModulate(_)),
        shift: shift.map(|i| args.input(i)).transpose()?,
        output: args.output(0)?,
    };
    args.launch(rows.kernel(kernel, Kernel::Norm, Kernel::WideNorm), rows.count, [units, 1, 1])
}

/// `NormGrad`.
pub(super) fn norm_grad(call: &Call, target: &Target, op: &ops::NormGrad) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let operands: Vec<usize> = (0..call.inputs.len()).collect();
    let rows = rows(&mut args, &operands)?;
    let stats = args.result(1).offset;
    fits(&args, stats.saturating_add(rows.count.saturating_mul(2)))?;
    args.size(stats)?;
    let units = rows.units(target);
    let kernel = NormGrad {
        rank: rows.rank,
        units,
        centered: op.centered,
        eps: (op.eps as f32).to_bits(),
        x: args.input(0)?,
        g: args.input(1)?,
        factor: if op.scaled { Some(args.input(2)?) } else { None },
        one_plus: op.one_plus,
        output: args.output(0)?,
        stats: args.output(1)?,
    };
    args.launch(rows.kernel(kernel, Kernel::NormGrad, Kernel::WideNormGrad), rows.count, [units, 1, 1])
}

/// `RmsNormRope`.
pub(super) fn rms_norm_rope(call: &Call, target: &Target, op: &RmsNormRope) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let mut rows = rows(&mut args, &[0])?;
    let x = &call.inputs[0].ty;
    let (head, offsets) = (x.last() / op.heads, [1, 2].map(|i| call.inputs[i].offset));
    args.size(x.shape[1] as u64)?;
    args.size((head / 2) as u64)?;
    args.sizes(offsets)?;
    rows.dealt = rows.dealt.filter(|_| head % WIDTH == 0 && offsets.iter().all(|at| at % WIDTH as u64 == 0));
    let units = rows.units(target);
    let kernel = NormRope {
        rank: rows.rank,
        units,
        eps: (op.eps as f32).to_bits(),
        x: args.input(0)?,
        weight: args.input(1)?,
        table: args.input(2)?,
        output: args.output(0)?,
    };
    args.launch(rows.kernel(kernel, Kernel::NormRope, Kernel::WideNormRope), rows.count, [units, 1, 1])
}

/// `Softmax`.
pub(super) fn softmax(call: &Call, target: &Target) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let rows = rows(&mut args, &[0])?;
    let units = units(target, rows.d);
    let kernel = Softmax { rank: rows.rank, units, x: args.input(0)?, output: args.output(0)? };
    args.launch(Kernel::Softmax(kernel), rows.count, [units, 1, 1])
}
