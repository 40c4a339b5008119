//! Elementwise chains and everything that only moves elements.

use ccl_ir::plan::Call;
use ccl_ir::{Chain, Op};

use super::walk::{Walk, collapse, dense};
use crate::gpu::blueprint::{Kernel, Program};
use crate::gpu::kernels::elementwise::{Elementwise, Read};
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;

/// Units of a cube.
const UNITS: u32 = 64;

/// `Fused`, `Unary`, `Binary`, `Cast`, `Copy` and `Reshape`; the inputs `over` lie where the result goes.
pub(super) fn chain(call: &Call, target: &Target, over: &[usize]) -> Result<Launch, LowerError> {
    let program = match &call.op {
        Op::Fused(f) => Program::of(&f.chain),
        Op::Unary(u) => Program::of(&Chain::unary(u.kind)),
        Op::Binary(b) => Program::of(&Chain::binary(b.kind)),
        _ => Program::copy(),
    };
    let shape = &call.outputs[0].ty.shape;
    let reshaped = matches!(call.op, Op::Reshape(_));
    let dims = if reshaped { &call.inputs[0].ty.shape } else { shape };
    let inputs: Vec<Walk> = call.inputs.iter().map(|o| Walk::broadcast(o, dims)).collect();
    let output = Walk { offset: 0, strides: dense(dims) };
    walk(call, target, program, dims, inputs, output, (0..call.inputs.len(), over))
}

/// One copy for each input, into its part of the result.
pub(super) fn concat(call: &Call, target: &Target, axis: usize) -> Result<Vec<Launch>, LowerError> {
    let strides = dense(&call.outputs[0].ty.shape);
    let mut start = 0;
    let mut launches = Vec::new();
    for (i, operand) in call.inputs.iter().enumerate() {
        let output = Walk { offset: start * strides[axis], strides: strides.clone() };
        let input = Walk { offset: operand.offset, strides: operand.strides.clone() };
        launches.push(walk(call, target, Program::copy(), &operand.ty.shape, vec![input], output, (i..i + 1, &[]))?);
        start += operand.ty.shape[axis] as u64;
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
    walk(call, target, Program::copy(), over, vec![input], Walk { offset: 0, strides: dense(over) }, (0..1, &[]))
}

/// Latents `[B, C, g1 p1, ..]` to tokens `[B, g.., C p..]`: a copy over `[B, g.., C, p..]`.
pub(super) fn patchify(call: &Call, target: &Target, patch: &[usize]) -> Result<Launch, LowerError> {
    let from = &call.inputs[0];
    let (shape, strides) = (&from.ty.shape, &from.strides);
    let grid: Vec<usize> = shape[2..].iter().zip(patch).map(|(s, p)| s / p).collect();
    let over: Vec<usize> = [&shape[..1], &grid, &shape[1..2], patch].concat();
    let coarse: Vec<u64> = strides[2..].iter().zip(patch).map(|(s, p)| s * *p as u64).collect();
    let input = [&strides[..1], &coarse, &strides[1..2], &strides[2..]].concat();
    let output = Walk { offset: 0, strides: dense(&over) };
    walk(call, target, Program::copy(), &over, vec![Walk { offset: from.offset, strides: input }], output, (0..1, &[]))
}

/// Tokens `[B, g.., p.. C]` to latents `[B, C, g1 p1, ..]`: a copy over `[B, g.., p.., C]`.
pub(super) fn unpatchify(call: &Call, target: &Target, patch: &[usize], grid: &[usize]) -> Result<Launch, LowerError> {
    let from = &call.inputs[0];
    let to = &call.outputs[0].ty.shape;
    let over: Vec<usize> = [&to[..1], grid, patch, &to[1..2]].concat();
    let input = Walk { offset: from.offset, strides: dense(&over) };
    let strides = dense(to);
    let coarse: Vec<u64> = strides[2..].iter().zip(patch).map(|(s, p)| s * *p as u64).collect();
    let output = [&strides[..1], &coarse, &strides[2..], &strides[1..2]].concat();
    walk(call, target, Program::copy(), &over, vec![input], Walk { offset: 0, strides: output }, (0..1, &[]))
}

/// A launch over all elements of `over`. It reads a run of the call's inputs, of which some lie where the result goes.
fn walk(
    call: &Call,
    target: &Target,
    program: Program,
    over: &[usize],
    inputs: Vec<Walk>,
    output: Walk,
    (operands, in_place): (std::ops::Range<usize>, &[usize]),
) -> Result<Launch, LowerError> {
    let mut dims: Vec<usize> = over.to_vec();
    let mut walks = inputs;
    walks.push(output);
    collapse(&mut dims, &mut walks);
    let mut args = Args::new(call, target);
    let out = args.output(0)?;
    let input = |i: usize| match in_place.contains(&i) {
        true => Ok(Read::Output),
        false => args.input(i).map(Read::Input),
    };
    let inputs = operands.map(input).collect::<Result<Vec<_>, _>>()?;
    let elements: u64 = dims.iter().map(|&n| n as u64).product();
    args.size(elements)?;
    args.sizes(dims.iter().map(|&n| n as u64))?;
    walks.iter().try_for_each(|w| w.push(&mut args, &dims, 0))?;
    let kernel = Elementwise { rank: dims.len() as u32, inputs, output: out, program };
    args.launch(Kernel::Elementwise(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1])
}
