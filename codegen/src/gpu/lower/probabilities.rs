//! The weights of CCA's attention, apart from the values that they weigh.

use ccl_ir::ops::ContextProbabilities;
use ccl_ir::plan::Call;

use super::attention::{Plan, count, on_tensor_cores, readable, rows_of};
use super::cut::Cut;
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::attention::Attention as Blueprint;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;
use crate::gpu::tensor::attention::AttentionTile;
use crate::gpu::tiles::plain;

/// `ContextProbabilities`: sizes as for attention; in the log-sum-exp's place is the number of weights of a query and head.
pub(super) fn probabilities(
    call: &Call,
    target: &Target,
    op: &ContextProbabilities,
) -> Result<Vec<Launch>, LowerError> {
    let mut args = Args::new(call, target);
    let (q, ck, k) = (&call.inputs[0], &call.inputs[1], call.inputs.get(2));
    readable(&args, call.inputs.len())?;
    let [batches, queries, heads, dim] = [q.ty.shape[0], q.ty.shape[1], q.ty.shape[2], q.ty.shape[3]];
    let context = ck.ty.shape[0];
    let plan = match op.partition {
        Some(partition) => Plan::partitioned(&args, &partition, 1, context)?,
        None => Plan { context, ..Plan::whole(queries, None, None) },
    };
    let tensor = AttentionTile::of_probabilities(plan.queries, context + plan.window[0].max(plan.per_frame));
    let fits = tensor.shared_bytes(dim as u32) <= target.shared_bytes;
    let tensor = (fits && on_tensor_cores(call, target, call.inputs.len(), dim)).then_some(tensor);
    let cut = Cut::new(&args, dim, tensor, || plain::attention(target, dim as u32, plan.queries))?;
    let (blocks, units) = (cut.blocks(plan.queries), cut.units());
    let cubes = count([batches, plan.groups, heads, blocks]);

    args.size(cubes)?;
    let keys = k.map_or(0, |k| k.ty.shape[1]);
    let header = [heads, queries, keys, batches, blocks, plan.groups, plan.parts, plan.context, plan.per_frame];
    args.sizes(header.map(|n| n as u64))?;
    args.sizes(plan.window.map(|n| n as u64))?;
    // No mask, no count.
    args.sizes([0, 1, 0])?;
    args.sizes([call.outputs[0].offset, call.outputs[0].ty.shape[2] as u64])?;
    for sizes in [rows_of(q), k.map_or([0; 3], rows_of), [0; 3], rows_of(ck), [0; 3]] {
        args.sizes(sizes)?;
    }
    args.size(batches as u64)?;
    args.sizes([q.strides[0], k.map_or(0, |k| k.strides[0]), 0])?;

    let (q, ck) = (args.input(0)?, args.input(1)?);
    // Without a window its keys are never read.
    let k = if k.is_some() { args.input(2)? } else { ck };
    let out = args.output(0)?;
    let (v, context, keys, lead) = (k, Some([ck, ck]), plan.keys, 1);
    let (mask, count, lse) = (None, None, out);
    let uncut = Blueprint { q, k, v, context, mask, count, out, lse, keys, lead, tile: () };
    let kernel = match cut {
        Cut::Tensor(tile) => Kernel::TensorProbabilities(uncut.cut(tile)),
        Cut::Plain(tile) => Kernel::Probabilities(uncut.cut(tile)),
    };
    Ok(vec![args.launch(kernel, cubes, units)?])
}
