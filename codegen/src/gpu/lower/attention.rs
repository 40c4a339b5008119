//! Attention, CCA's partitioned attention, and partial results put together.

use ccl_ir::ops::{Attention, PartitionedContextAttention};
use ccl_ir::partition::Partition;
use ccl_ir::plan::{Call, Operand};

use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::attention::{Attention as Blueprint, ROWS, Tile};
use crate::gpu::kernels::attention_keys::Keys;
use crate::gpu::kernels::merge::Merge;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::{Target, Tiles};

/// Widest head: a unit keeps its channels in registers.
pub(super) const WIDEST: usize = 256;
/// Units of a cube that merges.
const UNITS: u32 = 64;

/// How queries see keys: what the kernel computes its groups from.
pub(super) struct Plan {
    pub(super) keys: Keys,
    pub(super) groups: usize,
    /// Most queries of a group.
    pub(super) queries: usize,
    pub(super) parts: usize,
    pub(super) context: usize,
    pub(super) per_frame: usize,
    /// Size of a window, and slope, offset and divisor of its centre.
    pub(super) window: [usize; 4],
}

/// `Attention`: all queries are one group.
pub(super) fn attention(call: &Call, target: &Target, op: &Attention) -> Result<Vec<Launch>, LowerError> {
    let q = &call.inputs[0].ty;
    let queries = q.shape[q.rank() - 3];
    let plan = Plan { keys: Keys::All, groups: 1, queries, parts: 1, context: 0, per_frame: 0, window: [0, 0, 0, 1] };
    let mask = op.masked.then_some(3);
    let count = op.counted.then(|| call.inputs.len() - 1);
    lower(call, target, &plan, mask, count)
}

/// `PartitionedContextAttention`: a group is a frame.
pub(super) fn partitioned(
    call: &Call,
    target: &Target,
    op: &PartitionedContextAttention,
) -> Result<Vec<Launch>, LowerError> {
    let plan = plan(&Args::new(call, target), op.partition, op.splits, call.inputs[3].ty.shape[0])?;
    lower(call, target, &plan, None, None)
}

/// How the queries of a partition see keys.
pub(super) fn plan(args: &Args<'_>, partition: Partition, parts: usize, context: usize) -> Result<Plan, LowerError> {
    Ok(match partition {
        Partition::Windows { frames, tokens_per_frame, size, scale, offset, divisor, edge, length } => {
            // The kernel computes windows with signed numbers.
            let last = scale as u64 * frames as u64 + offset as u64;
            let most = [last, size as u64, divisor as u64, length as u64, last + size as u64].into_iter().max();
            if most > Some(i32::MAX as u64) {
                return Err(args.error(format!("windows of {size} tokens up to token {last} do not fit 31 bits")));
            }
            Plan {
                keys: Keys::Windows(edge),
                groups: frames,
                queries: tokens_per_frame,
                parts,
                context,
                per_frame: tokens_per_frame,
                window: [size, scale, offset, divisor],
            }
        }
        Partition::NearestFrame { frames, tokens_per_frame, length } => {
            if (frames as u64 + 1) * length as u64 + frames as u64 > u32::MAX.into() {
                return Err(args.error(format!("{length} tokens in {frames} frames do not fit 32 bits")));
            }
            Plan {
                keys: Keys::NearestFrame,
                groups: frames,
                queries: length.div_ceil(frames),
                parts,
                context,
                per_frame: tokens_per_frame,
                window: [0, 0, 0, 1],
            }
        }
    })
}

fn lower(
    call: &Call,
    target: &Target,
    plan: &Plan,
    mask: Option<usize>,
    count: Option<usize>,
) -> Result<Vec<Launch>, LowerError> {
    if call.outputs[0].ty.elements() == 0 {
        return Ok(Vec::new());
    }
    let mut args = Args::new(call, target);
    let r = call.inputs[0].ty.rank();
    let shape = &call.inputs[0].ty.shape;
    let [queries, heads, dim] = [shape[r - 3], shape[r - 2], shape[r - 1]];
    let sources = if plan.context > 0 { 5 } else { 3 };
    for (i, operand) in call.inputs[..sources].iter().enumerate() {
        if !operand.has_packed_rows() {
            return Err(args.error(format!("input {i} has channels that are not packed: copy it first")));
        }
    }
    call.inputs.iter().chain(&call.outputs).try_for_each(|o| fits(&args, o))?;
    let tile = tile(target, dim, plan.queries).ok_or_else(|| {
        args.error(format!("heads of {dim} channels do not fit target {}, the widest have {WIDEST}", target.name))
    })?;
    let batches: usize = shape[..r - 3].iter().product();
    let blocks = plan.queries.div_ceil(tile.queries as usize);
    let cubes = [batches, plan.groups, heads, plan.parts, blocks].iter().fold(1u64, |n, &m| n.saturating_mul(m as u64));

    args.size(cubes)?;
    let keys = call.inputs[1].ty.shape[r - 3];
    let header = [heads, queries, keys, batches, blocks, plan.groups, plan.parts, plan.context, plan.per_frame];
    args.sizes(header.map(|n| n as u64))?;
    args.sizes(plan.window.map(|n| n as u64))?;
    let (first, rows) = mask.map_or((0, 1), |i| (call.inputs[i].offset, call.inputs[i].ty.elements() / keys as u64));
    args.sizes([first, rows, count.map_or(0, |i| call.inputs[i].offset)])?;
    args.sizes([call.outputs[0].offset, call.outputs[1].offset])?;
    for i in 0..5 {
        let rows = |o: &Operand| {
            let r = o.ty.rank();
            [o.offset, o.strides[r - 3], o.strides[r - 2]]
        };
        args.sizes(if i < sources { rows(&call.inputs[i]) } else { [0; 3] })?;
    }
    args.sizes(shape[..r - 3].iter().map(|&n| n as u64))?;
    for operand in &call.inputs[..3] {
        args.sizes(operand.strides[..r - 3].iter().copied())?;
    }

    let context = if plan.context > 0 { Some([args.input(3)?, args.input(4)?]) } else { None };
    let kernel = Blueprint {
        q: args.input(0)?,
        k: args.input(1)?,
        v: args.input(2)?,
        context,
        mask: mask.map(|i| args.input(i)).transpose()?,
        count: count.map(|i| args.input(i)).transpose()?,
        out: args.output(0)?,
        lse: args.output(1)?,
        keys: plan.keys,
        lead: (r - 3) as u32,
        tile,
    };
    Ok(vec![args.launch(Kernel::Attention(kernel), cubes, [tile.columns, ROWS, 1])?])
}

/// The largest tile for the target's shared memory. Few queries take few rows; wide heads go through it in chunks, few rather than
/// narrow ones: each costs barriers and code.
pub(super) fn tile(target: &Target, dim: usize, queries: usize) -> Option<Tile> {
    if dim > WIDEST {
        return None;
    }
    let dim = dim as u32;
    let (columns, keys, most, budget) = match target.tiles {
        Tiles::Small => (8, [16, 8], 8, 16 * 1024),
        Tiles::Large => (16, [32, 16], 32, 48 * 1024),
    };
    let budget = target.shared_bytes.min(budget);
    let needed = (queries.min(most).next_power_of_two() as u32).max(ROWS);
    let tiles = [32, 16, 8].into_iter().filter(|&n| n <= needed).flat_map(|queries| {
        let chunks = [1, 2, 4].into_iter().map(|n| dim.div_ceil(n).next_multiple_of(columns).min(dim));
        // Narrower chunks cost more than a block of twice the queries saves.
        let chunks = chunks.filter(|&chunk| chunk >= dim.min(32));
        chunks.flat_map(move |chunk| keys.map(|keys| Tile { dim, queries, keys, chunk, columns }))
    });
    tiles.into_iter().find(|tile| tile.shared_bytes() <= budget)
}

/// `MergeAttention`.
pub(super) fn merge(call: &Call, target: &Target) -> Result<Vec<Launch>, LowerError> {
    let elements = call.outputs[0].ty.elements();
    let &[parts, _, queries, heads, dim] = call.inputs[0].ty.shape.as_slice() else { return Ok(Vec::new()) };
    let mut args = Args::new(call, target);
    if dim == 0 {
        return Err(args.error("heads have no channels"));
    }
    if elements == 0 {
        return Ok(Vec::new());
    }
    call.inputs.iter().chain(&call.outputs).try_for_each(|o| fits(&args, o))?;
    let kernel = Merge { parts: args.input(0)?, sums: args.input(1)?, out: args.output(0)?, lse: args.output(1)? };
    args.size(elements)?;
    args.sizes([parts, queries, heads, dim].map(|n| n as u64))?;
    args.sizes(call.inputs.iter().chain(&call.outputs).map(|o| o.offset))?;
    Ok(vec![args.launch(Kernel::Merge(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1])?])
}

/// Refuses operands whose last element is beyond the kernel's index.
pub(super) fn fits(args: &Args<'_>, operand: &Operand) -> Result<(), LowerError> {
    let steps = operand.ty.shape.iter().zip(&operand.strides);
    let reach =
        steps.fold(operand.offset, |sum, (&n, &s)| sum.saturating_add((n as u64).saturating_sub(1).saturating_mul(s)));
    if reach > u32::MAX.into() {
        return Err(args.error(format!("{} reaches beyond the kernel's 32-bit index", operand.ty)));
    }
    Ok(())
}
