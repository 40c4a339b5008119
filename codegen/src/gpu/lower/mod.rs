//! From a plan's calls to launches.

mod adam_w;
mod attention;
mod attention_grad;
mod cut;
mod elementwise;
mod gather;
mod norm;
mod probabilities;
pub(super) mod product;
mod sum;
mod walk;
mod window_product;

use std::borrow::Cow;

use ccl_ir::plan::{Call, Place};
use ccl_ir::{DType, Op, Plan};

use super::kernels::window_product::Side;
use super::launch::{Launch, LowerError};
use super::target::Target;

/// How a call runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lowered {
    /// On the host, by the operator's own evaluation: tables and other small things that are computed once.
    Host,
    /// As kernels, in order.
    Device(Vec<Launch>),
}

/// Lowers a call of a plan for a target. Where the call works in place, the kernel gets the buffer once, to read and to write: what
/// is bound twice must not overlap where one of the two is written, which WebGPU forbids.
///
/// # Errors
/// As for [`lower()`].
pub fn lower_in(plan: &Plan, call: &Call, target: &Target) -> Result<Lowered, LowerError> {
    let over = plan.in_place(call);
    match &call.op {
        Op::Fused(_) | Op::Unary(_) | Op::Binary(_) if !over.is_empty() => {
            Ok(Lowered::Device(vec![elementwise::chain(call, target, &over)?]))
        }
        _ => lower(&updated(plan, call), target),
    }
}

/// A call whose outputs are at the places of the inputs that they update. A plan has a buffer for every value, and several may be the
/// same bytes.
fn updated<'c>(plan: &Plan, call: &'c Call) -> Cow<'c, Call> {
    let mut call = Cow::Borrowed(call);
    for o in 0..call.outputs.len() {
        let Some(Place::Buffer(under)) = call.op.updates(o).map(|i| call.inputs[i].place) else { continue };
        let Place::Buffer(over) = call.outputs[o].place else { continue };
        if under != over && plan.buffers.get(under as usize) == plan.buffers.get(over as usize) {
            call.to_mut().outputs[o].place = Place::Buffer(under);
        }
    }
    call
}

/// Lowers a call whose outputs lie apart from its inputs, or have the places of those that they update.
///
/// # Errors
/// When the target lacks a type, or a size is beyond its limits.
pub fn lower(call: &Call, target: &Target) -> Result<Lowered, LowerError> {
    if call.outputs.iter().all(|o| o.ty.elements() == 0) {
        return Ok(Lowered::Device(Vec::new()));
    }
    // Kernels write real numbers. Whole ones are a few, and the host's.
    if call.outputs.iter().any(|o| o.ty.dtype == DType::I32) {
        return Ok(Lowered::Host);
    }
    let launches = match &call.op {
        // Angles are f64 (SPEC 2, 3): the host computes them, once per model or clip.
        Op::RopeTable(_) | Op::WindowMask(_) | Op::Constant(_) | Op::TimeFeatures(_) => return Ok(Lowered::Host),
        Op::Fused(_) | Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Copy(_) | Op::Detach(_) | Op::Reshape(_) => {
            vec![elementwise::chain(call, target, &[])?]
        }
        Op::Pad(p) => elementwise::pad(call, target, p)?,
        Op::Reduce(r) => vec![sum::reduce(call, target, r)?],
        Op::AdamW(a) => adam_w::adam_w(call, target, a)?,
        Op::Attention(a) => attention::attention(call, target, a)?,
        Op::PartitionedContextAttention(p) => attention::partitioned(call, target, p)?,
        Op::AttentionGrad(a) => attention_grad::attention(call, target, a)?,
        Op::PartitionedContextAttentionGrad(p) => attention_grad::partitioned(call, target, p)?,
        Op::ContextProbabilities(p) => probabilities::probabilities(call, target, p)?,
        Op::WindowMix(w) => product::window_mix(call, target, w)?,
        Op::WindowDots(w) => window_product::window_product(call, target, &w.partition, Side::Weights)?,
        Op::WindowSpread(w) => window_product::window_product(call, target, &w.partition, Side::Values)?,
        Op::MergeAttention(_) => attention::merge(call, target)?,
        Op::Concat(c) => elementwise::concat(call, target, c.axis)?,
        Op::Patchify(p) => vec![elementwise::patchify(call, target, &p.patch)?],
        Op::Unpatchify(p) => vec![elementwise::unpatchify(call, target, &p.patch, &p.grid)?],
        Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) => vec![elementwise::view(call, target)?],
        Op::Linear(l) => vec![product::linear(call, target, l)?],
        Op::MatMul(m) => vec![product::mat_mul(call, target, m)?],
        Op::LayerNorm(_) | Op::RmsNorm(_) | Op::NormModulate(_) => vec![norm::norm(call, target)?],
        Op::NormGrad(n) => vec![norm::norm_grad(call, target, n)?],
        Op::RmsNormRope(op) => vec![norm::rms_norm_rope(call, target, op)?],
        Op::Softmax(_) => vec![norm::softmax(call, target)?],
        Op::Rope(r) => vec![gather::rope(call, target, r)?],
        Op::Index(_) => vec![gather::index(call, target)?],
        Op::WindowGather(w) => vec![gather::windows(call, target, &w.partition)?],
        Op::WindowScatter(w) => vec![gather::scatter(call, target, &w.partition)?],
        other => {
            let problem = format!("target {} has no kernel for it", target.name);
            return Err(LowerError { op: other.name(), at: call.at.clone(), problem });
        }
    };
    Ok(Lowered::Device(launches))
}
