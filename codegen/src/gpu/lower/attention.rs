//! Attention, CCA's partitioned attention, and partial results put together.

use ccl_ir::ops::{Attention, PartitionedContextAttention};
use ccl_ir::partition::Partition;
use ccl_ir::plan::{Call, Operand};

use super::cut::Cut;
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::attention::Attention as Blueprint;
use crate::gpu::kernels::attention_keys::Keys;
use crate::gpu::kernels::merge::Merge;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;
use crate::gpu::tiles::{AttentionProblem, Problem, Work, tile_of};

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
    /// Positions of the mask and of the number of keys among the inputs.
    pub(super) mask: Option<usize>,
    pub(super) count: Option<usize>,
}

impl Plan {
    /// All queries are one group.
    pub(super) fn whole(queries: usize, mask: Option<usize>, count: Option<usize>) -> Self {
        let window = [0, 0, 0, 1];
        Self { keys: Keys::All, groups: 1, queries, parts: 1, context: 0, per_frame: 0, window, mask, count }
    }

    /// A group is a frame.
    ///
    /// # Errors
    /// When the kernel cannot count so far.
    pub(super) fn partitioned(
        args: &Args<'_>,
        partition: &Partition,
        parts: usize,
        context: usize,
    ) -> Result<Self, LowerError> {
        let (keys, groups, queries, per_frame, window) = match *partition {
            Partition::Windows { frames, tokens_per_frame, size, scale, offset, divisor, edge, length } => {
                // The kernel computes windows with signed numbers.
                let last = scale as u64 * frames as u64 + offset as u64;
                let most = [last, size as u64, divisor as u64, length as u64, last + size as u64].into_iter().max();
                if most > Some(i32::MAX as u64) {
                    return Err(args.error(format!("windows of {size} tokens up to token {last} do not fit 31 bits")));
                }
                let window = [size, scale, offset, divisor];
                (Keys::Windows(edge), frames, tokens_per_frame, tokens_per_frame, window)
            }
            Partition::NearestFrame { frames, tokens_per_frame, length } => {
                if (frames as u64 + 1) * length as u64 + frames as u64 > u32::MAX.into() {
                    return Err(args.error(format!("{length} tokens in {frames} frames do not fit 32 bits")));
                }
                (Keys::NearestFrame, frames, length.div_ceil(frames), tokens_per_frame, [0, 0, 0, 1])
            }
        };
        Ok(Self { keys, groups, queries, parts, context, per_frame, window, mask: None, count: None })
    }

    /// The most keys that a query may see, without context tokens.
    pub(super) fn most_keys(&self, call: &Call) -> usize {
        let shape = &call.inputs[1].ty.shape;
        let all = shape[shape.len() - 3];
        match self.keys {
            Keys::All => all.div_ceil(self.parts),
            Keys::NearestFrame => self.per_frame,
            Keys::Windows(_) => self.window[0].min(all),
        }
    }

    /// Adds the sizes that attention and its gradient have in common. `blocks` are those of a group, `outputs` first elements.
    ///
    /// # Errors
    /// When one does not fit.
    pub(super) fn push(
        &self,
        args: &mut Args<'_>,
        cubes: u64,
        blocks: usize,
        outputs: [u64; 2],
    ) -> Result<(), LowerError> {
        let call = args.call;
        let shape = &call.inputs[0].ty.shape;
        let r = shape.len();
        let batches: usize = shape[..r - 3].iter().product();
        let keys = call.inputs[1].ty.shape[r - 3];
        args.size(cubes)?;
        let (heads, queries) = (shape[r - 2], shape[r - 3]);
        let header = [heads, queries, keys, batches, blocks, self.groups, self.parts, self.context, self.per_frame];
        args.sizes(header.map(|n| n as u64))?;
        args.sizes(self.window.map(|n| n as u64))?;
        let mask = self.mask.map(|i| &call.inputs[i]);
        let (first, rows) = mask.map_or((0, 1), |m| (m.offset, m.ty.elements() / keys as u64));
        args.sizes([first, rows, self.count.map_or(0, |i| call.inputs[i].offset)])?;
        args.sizes(outputs)?;
        let sources = if self.context > 0 { 5 } else { 3 };
        for i in 0..5 {
            args.sizes(if i < sources { rows_of(&call.inputs[i]) } else { [0; 3] })?;
        }
        args.sizes(shape[..r - 3].iter().map(|&n| n as u64))?;
        call.inputs[..3].iter().try_for_each(|o| args.sizes(o.strides[..r - 3].iter().copied()))
    }
}

/// First element and strides of rows and heads.
pub(super) fn rows_of(o: &Operand) -> [u64; 3] {
    let r = o.ty.rank();
    [o.offset, o.strides[r - 3], o.strides[r - 2]]
}

/// `Attention`.
pub(super) fn attention(call: &Call, target: &Target, op: &Attention) -> Result<Vec<Launch>, LowerError> {
    let q = &call.inputs[0].ty;
    let (mask, count) = (op.masked.then_some(3), op.counted.then(|| call.inputs.len() - 1));
    lower(call, target, &Plan::whole(q.shape[q.rank() - 3], mask, count))
}

/// `PartitionedContextAttention`.
pub(super) fn partitioned(
    call: &Call,
    target: &Target,
    op: &PartitionedContextAttention,
) -> Result<Vec<Launch>, LowerError> {
    let context = call.inputs[3].ty.shape[0];
    let plan = Plan::partitioned(&Args::new(call, target), &op.partition, op.splits, context)?;
    lower(call, target, &plan)
}

fn lower(call: &Call, target: &Target, plan: &Plan) -> Result<Vec<Launch>, LowerError> {
    if call.outputs[0].ty.elements() == 0 {
        return Ok(Vec::new());
    }
    let mut args = Args::new(call, target);
    let r = call.inputs[0].ty.rank();
    let shape = &call.inputs[0].ty.shape;
    let [heads, dim] = [shape[r - 2], shape[r - 1]];
    let sources = if plan.context > 0 { 5 } else { 3 };
    readable(&args, sources)?;
    let batches: usize = shape[..r - 3].iter().product();
    let (keys, queries, cubes) =
        (plan.context + plan.most_keys(call), plan.queries, batches * heads * plan.groups * plan.parts);
    let work = Work::Attention(AttentionProblem { dim: dim as u32, queries, keys, cubes });
    let tensor = on_tensor_cores(call, target, sources, dim).then_some(Problem::tensor(work));
    let tensor = tensor.and_then(|problem| tile_of(problem, target));
    let cut = Cut::new(&args, dim, tensor, || tile_of(Problem::plain(work), target))?;
    let (blocks, units) = (cut.blocks(plan.queries), cut.units());
    let cubes = count([batches, plan.groups, heads, plan.parts, blocks]);
    plan.push(&mut args, cubes, blocks, [call.outputs[0].offset, call.outputs[1].offset])?;

    let context = if plan.context > 0 { Some([args.input(3)?, args.input(4)?]) } else { None };
    let (q, k, v) = (args.input(0)?, args.input(1)?, args.input(2)?);
    let (mask, count) = (plan.mask.map(|i| args.input(i)).transpose()?, plan.count.map(|i| args.input(i)).transpose()?);
    let (out, lse, keys, lead) = (args.output(0)?, args.output(1)?, plan.keys, (r - 3) as u32);
    let uncut = Blueprint { q, k, v, context, mask, count, out, lse, keys, lead, tile: () };
    let kernel = match cut {
        Cut::Tensor(tile) => Kernel::TensorAttention(uncut.cut(tile)),
        Cut::Plain(tile) => Kernel::Attention(uncut.cut(tile)),
    };
    Ok(vec![args.launch(kernel, cubes, units)?])
}

/// Whether tensor cores can do it: heads of a width that they take, operands of half precision whose rows are aligned.
pub(super) fn on_tensor_cores(call: &Call, target: &Target, sources: usize, dim: usize) -> bool {
    let aligned = |o: &Operand| {
        let rows = o.ty.shape.iter().zip(&o.strides).take(o.ty.rank() - 1);
        // Of a dimension of one element the stride says nothing.
        o.ty.dtype.is_half() && o.offset % 8 == 0 && rows.into_iter().all(|(&n, s)| n == 1 || s % 8 == 0)
    };
    !target.tensor_cores().is_empty() && [16, 32, 64, 128].contains(&dim) && call.inputs[..sources].iter().all(aligned)
}

/// Checks that the first operands have packed channels, and that all are within the kernel's index.
///
/// # Errors
/// When they do not.
pub(super) fn readable(args: &Args<'_>, sources: usize) -> Result<(), LowerError> {
    for (i, operand) in args.call.inputs[..sources].iter().enumerate() {
        if !operand.has_packed_rows() {
            return Err(args.error(format!("input {i} has channels that are not packed: copy it first")));
        }
    }
    args.call.inputs.iter().chain(&args.call.outputs).try_for_each(|o| fits(args, o))
}

/// The number of cubes.
pub(super) fn count<const N: usize>(sizes: [usize; N]) -> u64 {
    sizes.iter().fold(1u64, |n, &m| n.saturating_mul(m as u64))
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
        return Err(args
            .error(format!("{} reaches beyond the kernel's 32-bit index; take a smaller clip or batch", operand.ty)));
    }
    Ok(())
}
