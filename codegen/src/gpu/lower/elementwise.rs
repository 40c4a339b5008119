//! Elementwise chains and everything that only moves elements.

use ccl_ir::chain::{Arg, Instr};
use ccl_ir::ops::{BinaryKind, Pad};
use ccl_ir::plan::Call;
use ccl_ir::{Chain, Op};

use super::walk::{Walk, collapse, dense};
use crate::gpu::blueprint::{Class, Kernel, Program};
use crate::gpu::kernels::elementwise::{Elementwise, Read};
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;
use crate::gpu::wide::WIDTH;
use crate::gpu::wide::elementwise::WideElementwise;

/// Units of a cube.
const UNITS: u32 = 64;
/// Units of a cube where each moves eight elements.
const WIDE_UNITS: u32 = 128;

/// A loop over all elements of a shape.
struct Loop<'a> {
    program: Program,
    over: &'a [usize],
    /// The program's inputs: which of the call's, and how they are walked.
    inputs: Vec<(usize, Walk)>,
    /// The same of the output.
    output: (usize, Walk),
    /// Inputs that lie where the output goes.
    in_place: &'a [usize],
}

/// `Fused`, `Unary`, `Binary`, `Cast`, `Copy`, `Detach` and `Reshape`; the inputs `in_place` lie where the result goes.
pub(super) fn chain(call: &Call, target: &Target, in_place: &[usize]) -> Result<Launch, LowerError> {
    let program = match &call.op {
        Op::Fused(f) => Program::of(&f.chain),
        Op::Unary(u) => Program::of(&Chain::unary(u.kind)),
        Op::Binary(b) => Program::of(&Chain::binary(b.kind)),
        _ => Program::copy(),
    };
    let shape = &call.outputs[0].ty.shape;
    let reshaped = matches!(call.op, Op::Reshape(_));
    let over = if reshaped { &call.inputs[0].ty.shape } else { shape };
    let inputs = call.inputs.iter().map(|o| Walk::broadcast(o, over)).enumerate().collect();
    launch(call, target, Loop { program, over, inputs, output: (0, at(0, over)), in_place })
}

/// An input's elements, through a program of one input, into an output of its shape.
pub(super) fn through(
    call: &Call,
    target: &Target,
    program: Program,
    input: usize,
    output: usize,
) -> Result<Launch, LowerError> {
    let over = &call.outputs[output].ty.shape;
    let walk = Walk::broadcast(&call.inputs[input], over);
    launch(
        call,
        target,
        Loop { program, over, inputs: vec![(input, walk)], output: (output, at(0, over)), in_place: &[] },
    )
}

/// One copy for each input, into its part of the result.
pub(super) fn concat(call: &Call, target: &Target, axis: usize) -> Result<Vec<Launch>, LowerError> {
    let strides = dense(&call.outputs[0].ty.shape);
    let mut start = 0;
    let mut launches = Vec::new();
    for (i, operand) in call.inputs.iter().enumerate() {
        let output = Walk { offset: start * strides[axis], strides: strides.clone() };
        let input = Walk { offset: operand.offset, strides: operand.strides.clone() };
        launches.push(copy(call, target, &operand.ty.shape, (i, input), output)?);
        start += operand.ty.shape[axis] as u64;
    }
    Ok(launches)
}

/// `Pad`: zeros before, a copy, zeros behind, as far as there are any.
pub(super) fn pad(call: &Call, target: &Target, op: &Pad) -> Result<Vec<Launch>, LowerError> {
    let from = &call.inputs[0];
    let strides = dense(&call.outputs[0].ty.shape);
    let zero = || {
        let steps = vec![Instr::Binary(BinaryKind::Add, Arg::Const(0.0), Arg::Const(0.0))];
        Program::of(&Chain { inputs: 0, steps })
    };
    let walk = |start: usize| Walk { offset: start as u64 * strides[op.axis], strides: strides.clone() };
    let inside = from.ty.shape[op.axis];
    let mut launches = Vec::new();
    for (start, size) in [(0, op.before), (op.before + inside, op.after)] {
        let mut over = from.ty.shape.clone();
        over[op.axis] = size;
        if !over.contains(&0) {
            let output = (0, walk(start));
            launches.push(launch(
                call,
                target,
                Loop { program: zero(), over: &over, inputs: Vec::new(), output, in_place: &[] },
            )?);
        }
    }
    if !from.ty.shape.contains(&0) {
        let input = Walk { offset: from.offset, strides: from.strides.clone() };
        launches.push(copy(call, target, &from.ty.shape, (0, input), walk(op.before))?);
    }
    Ok(launches)
}

/// `Transpose`, `Slice` and `Expand` where a plan keeps no view for them.
pub(super) fn view(call: &Call, target: &Target) -> Result<Launch, LowerError> {
    let from = &call.inputs[0];
    let over = &call.outputs[0].ty.shape;
    let mut input = Walk { offset: from.offset, strides: from.strides.clone() };
    match &call.op {
        Op::Transpose(t) => input.strides = t.perm.iter().map(|&axis| from.strides[axis]).collect(),
        Op::Slice(s) => input.offset += s.start as u64 * from.strides[s.axis],
        _ => input = Walk::broadcast(from, over),
    }
    copy(call, target, over, (0, input), at(0, over))
}

/// Latents `[B, C, g1 p1, ..]` to tokens `[B, g.., C p..]`: a copy over `[B, g.., C, p..]`.
pub(super) fn patchify(call: &Call, target: &Target, patch: &[usize]) -> Result<Launch, LowerError> {
    let from = &call.inputs[0];
    let (shape, strides) = (&from.ty.shape, &from.strides);
    let grid: Vec<usize> = shape[2..].iter().zip(patch).map(|(s, p)| s / p).collect();
    let over: Vec<usize> = [&shape[..1], &grid, &shape[1..2], patch].concat();
    let coarse: Vec<u64> = strides[2..].iter().zip(patch).map(|(s, p)| s * *p as u64).collect();
    let input = [&strides[..1], &coarse, &strides[1..2], &strides[2..]].concat();
    copy(call, target, &over, (0, Walk { offset: from.offset, strides: input }), at(0, &over))
}

/// Tokens `[B, g.., p.. C]` to latents `[B, C, g1 p1, ..]`: a copy over `[B, g.., p.., C]`.
pub(super) fn unpatchify(call: &Call, target: &Target, patch: &[usize], grid: &[usize]) -> Result<Launch, LowerError> {
    let from = &call.inputs[0];
    let to = &call.outputs[0].ty.shape;
    let over: Vec<usize> = [&to[..1], grid, patch, &to[1..2]].concat();
    let strides = dense(to);
    let coarse: Vec<u64> = strides[2..].iter().zip(patch).map(|(s, p)| s * *p as u64).collect();
    let output = [&strides[..1], &coarse, &strides[2..], &strides[1..2]].concat();
    copy(call, target, &over, (0, at(from.offset, &over)), Walk { offset: 0, strides: output })
}

/// A dense walk.
fn at(offset: u64, over: &[usize]) -> Walk {
    Walk { offset, strides: dense(over) }
}

/// A copy of one input to the first output.
fn copy(
    call: &Call,
    target: &Target,
    over: &[usize],
    input: (usize, Walk),
    output: Walk,
) -> Result<Launch, LowerError> {
    launch(
        call,
        target,
        Loop { program: Program::copy(), over, inputs: vec![input], output: (0, output), in_place: &[] },
    )
}

fn launch(call: &Call, target: &Target, work: Loop<'_>) -> Result<Launch, LowerError> {
    let mut dims: Vec<usize> = work.over.to_vec();
    let (operands, mut walks): (Vec<usize>, Vec<Walk>) = work.inputs.into_iter().unzip();
    let (result, output) = work.output;
    walks.push(output);
    collapse(&mut dims, &mut walks);
    let mut args = Args::new(call, target);
    let output = args.output(result)?;
    let input = |i: usize| match work.in_place.contains(&i) {
        true => Ok(Read::Output),
        false => args.input(i).map(Read::Input),
    };
    let inputs = operands.into_iter().map(input).collect::<Result<Vec<_>, _>>()?;
    let elements: u64 = dims.iter().map(|&n| n as u64).product();
    args.size(elements)?;
    args.sizes(dims.iter().map(|&n| n as u64))?;
    walks.iter().try_for_each(|w| w.push(&mut args, &dims, 0))?;
    let kernel = Elementwise { rank: dims.len() as u32, inputs, output, program: work.program };
    let Some(repeats) = wide(target, &dims, &walks, &kernel) else {
        return args.launch(Kernel::Elementwise(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1]);
    };
    let units = WIDE_UNITS;
    let cubes = elements.div_ceil(WIDTH as u64 * u64::from(units));
    args.launch(Kernel::WideElementwise(WideElementwise { kernel, repeats }), cubes, [units, 1, 1])
}

/// For each input whether eight of its elements are one number, where the target and all operands allow to move eight at a time; the last walk is
/// the output's. Numbers of single precision alone fill a warp's requests one by one.
fn wide(target: &Target, dims: &[usize], walks: &[Walk], kernel: &Elementwise) -> Option<Vec<bool>> {
    let reads = kernel.inputs.iter().map(|read| match read {
        Read::Input(slot) => slot.class,
        Read::Output => kernel.output.class,
    });
    let classes: Vec<Class> = reads.chain([kernel.output.class]).collect();
    let halves = classes.contains(&Class::Half) && !classes.contains(&Class::Int);
    let (last, outer) = dims.split_last()?;
    if !target.is_wide() || !halves || last % WIDTH != 0 {
        return None;
    }
    let steps = walks.iter().map(|walk| match walk.strides.last() {
        Some(0) => Some(true),
        Some(1) if walk.is_aligned(outer, WIDTH) => Some(false),
        _ => None,
    });
    let mut repeats = steps.collect::<Option<Vec<bool>>>()?;
    (repeats.pop() == Some(false)).then_some(repeats)
}
