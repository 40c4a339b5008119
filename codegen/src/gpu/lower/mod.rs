//! From a plan's calls to launches.

mod attention;
mod elementwise;
mod gather;
mod norm;
mod probabilities;
mod product;
mod walk;

use ccl_ir::plan::Call;
use ccl_ir::{DType, Op};

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

/// Lowers a call for a target.
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
        Op::Fused(_) | Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Copy(_) | Op::Reshape(_) => {
            vec![elementwise::chain(call, target)?]
        }
        Op::Attention(a) => attention::attention(call, target, a)?,
        Op::PartitionedContextAttention(p) => attention::partitioned(call, target, p)?,
        Op::ContextProbabilities(p) => probabilities::probabilities(call, target, p)?,
        Op::WindowMix(w) => product::window_mix(call, target, w)?,
        Op::MergeAttention(_) => attention::merge(call, target)?,
        Op::Concat(c) => elementwise::concat(call, target, c.axis)?,
        Op::Patchify(p) => vec![elementwise::patchify(call, target, &p.patch)?],
        Op::Unpatchify(p) => vec![elementwise::unpatchify(call, target, &p.patch, &p.grid)?],
        Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) => vec![elementwise::view(call, target)?],
        Op::Linear(l) => vec![product::linear(call, target, l)?],
        Op::MatMul(m) => vec![product::mat_mul(call, target, m)?],
        Op::LayerNorm(_) | Op::RmsNorm(_) | Op::NormModulate(_) => vec![norm::norm(call, target)?],
        Op::RmsNormRope(op) => vec![norm::rms_norm_rope(call, target, op)?],
        Op::Softmax(_) => vec![norm::softmax(call, target)?],
        Op::Rope(_) => vec![gather::rope(call, target)?],
        Op::Index(_) => vec![gather::index(call, target)?],
        Op::WindowGather(w) => vec![gather::windows(call, target, &w.partition)?],
        other => {
            let problem = format!("target {} has no kernel for it", target.name);
            return Err(LowerError { op: other.name(), at: call.at.clone(), problem });
        }
    };
    Ok(Lowered::Device(launches))
}
