//! Gradients of attention and of CCA's partitioned attention: a launch for the queries, one for keys and values, one for the context.

use ccl_ir::ops::{AttentionGrad, PartitionedContextAttentionGrad};
use ccl_ir::plan::Call;

use super::attention::{Plan, WIDEST, columns, count, least, on_tensor_cores, readable, rows_of};
use super::cut::Cut;
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::attention::{ROWS, Tile};
use crate::gpu::kernels::attention_grad::{AttentionGrad as Blueprint, Side};
use crate::gpu::kernels::attention_keys::Keys;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::{Target, Tiles};
use crate::gpu::tensor::attention_grad::GradTile;

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
    let met = match side {
        Side::Queries => plan.context + plan.most_keys(call),
        Side::Keys | Side::Context => plan.queries * plan.groups,
    };
    // Keys of a partition meet the queries of few frames: a long block of them hides most pairs.
    let whole = side == Side::Queries || plan.keys == Keys::All;
    // Keys and values, context, result and gradient: all in half precision.
    let tensor = on_tensor_cores(call, target, o + 2, dim)
        .then(|| GradTile::of(target, side, dim as u32, [rows, met], whole))
        .flatten();
    let cut = Cut::new(&args, dim, tensor, || tile(target, side, dim, rows))?;
    let (blocks, units) = (cut.blocks(rows), cut.units());
    let cubes = match side {
        Side::Queries => count([batches, plan.groups, heads, blocks]),
        Side::Keys => count([batches, heads, blocks]),
        Side::Context => count([heads, blocks]),
    };
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

/// The largest tile for the target's shared memory: whole heads rather than more rows, because a chunked head is read twice. Context tokens
/// are few and meet many queries: small blocks make more cubes of them.
fn tile(target: &Target, side: Side, dim: usize, rows: usize) -> Option<Tile> {
    if dim > WIDEST {
        return None;
    }
    let dim = dim as u32;
    let (columns, walked, most, budget) = match target.tiles {
        Tiles::Small => (8, [8, 8], 8, 16 * 1024),
        Tiles::Large => (columns(dim), [32, 16], if side == Side::Context { 8 } else { 16 }, 48 * 1024),
    };
    let budget = target.shared_bytes.min(budget);
    let needed = (rows.min(most).next_power_of_two() as u32).max(ROWS);
    let kept = [16, 8].into_iter().filter(|&n| n <= needed);
    let tiles = kept.flat_map(|queries| {
        let chunks = [1, 2, 4].into_iter().map(|n| dim.div_ceil(n).next_multiple_of(columns).min(dim));
        let chunks = chunks.filter(|&chunk| chunk >= dim.min(32));
        chunks.flat_map(move |chunk| walked.map(|keys| Tile { dim, queries, keys, chunk, columns }))
    });
    tiles.chain(least(dim)).find(|tile| Blueprint::shared_bytes(side, tile) <= budget)
}
