//! Gradients of attention and of CCA's partitioned attention: a launch for the queries, one for keys and values, one for the context.

use ccl_ir::ops::{AttentionGrad, PartitionedContextAttentionGrad};
use ccl_ir::plan::Call;

use super::attention::{Plan, count, on_tensor_cores, readable, rows_of};
use super::cut::Cut;
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::attention_grad::{AttentionGrad as Blueprint, Side};
use crate::gpu::kernels::attention_keys::Keys;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;
use crate::gpu::tiles::{GradProblem, Problem, Work, tile_of};

/// `AttentionGrad`.
pub(super) fn attention(call: &Call, target: &Target, op: &AttentionGrad) -> Result<Vec<Launch>, LowerError> {
    let q = &call.inputs[0].ty;
    let (mask, counted) = (op.masked.then_some(6), op.counted.then(|| call.inputs.len() - 1));
    let plan = Plan::whole(q.shape[q.rank() - 3], mask, counted);
    [Side::Queries, Side::Keys].into_iter().map(|side| lower(call, target, &plan, side)).collect()
}

/// `PartitionedContextAttentionGrad`.
pub(super) fn partitioned(
    call: &Call,
    target: &Target,
    op: &PartitionedContextAttentionGrad,
) -> Result<Vec<Launch>, LowerError> {
    let plan = Plan::partitioned(&Args::new(call, target), &op.partition, 1, call.inputs[3].ty.shape[0])?;
    let sides = [Side::Queries, Side::Keys, Side::Context];
    sides.into_iter().map(|side| lower(call, target, &plan, side)).collect()
}

fn lower(call: &Call, target: &Target, plan: &Plan, side: Side) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let shape = &call.inputs[0].ty.shape;
    let r = shape.len();
    let [heads, dim] = [shape[r - 2], shape[r - 1]];
    let batches: usize = shape[..r - 3].iter().product();
    // Result, gradient and log-sum-exp come behind what is read as keys.
    let o = if plan.context > 0 { 5 } else { 3 };
    readable(&args, o + 2)?;
    // Rows whose gradients are summed up, and the outputs that they go to.
    let (rows, outputs) = match side {
        Side::Queries => (plan.queries, [Some(0), None]),
        Side::Keys => (call.inputs[1].ty.shape[r - 3], [Some(1), Some(2)]),
        Side::Context => (plan.context, [Some(3), Some(4)]),
    };
    let queries = shape[r - 3];
    let (met, cubes) = match side {
        Side::Queries => (plan.context + plan.most_keys(call), batches * heads * plan.groups),
        Side::Keys => (queries, batches * heads),
        Side::Context => (queries, heads),
    };
    let whole = side != Side::Keys || plan.keys == Keys::All;
    let work = Work::Gradient(GradProblem { side, dim: dim as u32, kept: rows, met, whole, cubes });
    // Keys and values, context, result and gradient: all in half precision.
    let tensor = on_tensor_cores(call, target, o + 2, dim).then_some(Problem::tensor(work));
    let tensor = tensor.and_then(|problem| tile_of(problem, target));
    let cut = Cut::new(&args, dim, tensor, || tile_of(Problem::plain(work), target))?;
    let (blocks, units) = (cut.blocks(rows), cut.units());
    let cubes = count([cubes, blocks]);
    plan.push(&mut args, cubes, blocks, outputs.map(|o| o.map_or(0, |o| call.outputs[o].offset)))?;
    for operand in &call.inputs[o..o + 2] {
        args.sizes(operand.strides[..r - 3].iter().copied())?;
    }
    for operand in &call.inputs[o..o + 2] {
        args.sizes(rows_of(operand))?;
    }
    args.size(call.inputs[o + 2].offset)?;

    let (kept, walked) = match side {
        Side::Queries => ([0, o + 1], [1, 2]),
        Side::Keys => ([1, 2], [0, o + 1]),
        Side::Context => ([3, 4], [0, o + 1]),
    };
    let with_context = side == Side::Queries && plan.context > 0;
    let kept = [args.input(kept[0])?, args.input(kept[1])?];
    let walked = [args.input(walked[0])?, args.input(walked[1])?];
    let context = if with_context { Some([args.input(3)?, args.input(4)?]) } else { None };
    let (o, g, lse) = (args.input(o)?, args.input(o + 1)?, args.input(o + 2)?);
    let mask = plan.mask.map(|i| args.input(i)).transpose()?;
    let count = plan.count.map(|i| args.input(i)).transpose()?;
    let out = args.output(outputs[0].unwrap_or_default())?;
    let values = outputs[1].map(|o| args.output(o)).transpose()?;
    // Context tokens are seen by all: one kernel for every partition.
    let keys = if side == Side::Context { Keys::All } else { plan.keys };
    let lead = (r - 3) as u32;
    let uncut = Blueprint { side, kept, walked, context, o, g, lse, mask, count, out, values, keys, lead, tile: () };
    let kernel = match cut {
        Cut::Tensor(tile) => Kernel::TensorAttentionGrad(uncut.cut(tile)),
        Cut::Plain(tile) => Kernel::AttentionGrad(uncut.cut(tile)),
    };
    args.launch(kernel, cubes, units)
}
