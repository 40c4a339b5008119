//! Native kernels for the host.
//!
//! [`run`] executes one call of a plan on the current rayon pool. It promises: arithmetic in `f32`; the same bytes for
//! any number of threads, because work is cut into parts by the call's sizes alone; scratch memory bounded per thread,
//! whatever the sizes; the host's best vector instructions, chosen at run time.

mod adam_w;
mod attention;
mod attention_grad;
mod attention_grad_tile;
mod attention_tile;
mod cast;
mod elementwise;
mod epilogue;
mod layout;
mod linear;
mod math;
mod matmul;
mod micro;
mod mix;
mod mix_grad;
mod movement;
mod norm_grad;
mod norms;
mod parallel;
mod patches;
mod product;
mod reduce;
mod rope;
mod scatter;
pub mod simd;
mod skinny;
mod softmax_math;
mod tables;
pub mod view;
pub mod weight;

use ccl_ir::{DType, Op};
use thiserror::Error;
use view::View;

/// Why a kernel did not run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KernelError {
    /// There is no CPU kernel for this operator or these element types.
    #[error("the CPU has no kernel for `{op}` {reason}")]
    Unsupported {
        /// Name of the operator.
        op: &'static str,
        /// What about it, and what to do.
        reason: String,
    },
    /// A value given at run time (not a shape) is out of range. Nothing has been written.
    #[error("`{op}` {reason}")]
    BadValue {
        /// Name of the operator.
        op: &'static str,
        /// The value and what it must be.
        reason: String,
    },
}

/// Runs one call of a plan on the current rayon pool.
///
/// Inputs may be strided as [`Op::access`] says. The call writes every element of every output.
///
/// # Errors
/// When the CPU has no kernel for the operator or its element types, or an index or a count given at run time is out
/// of range.
///
/// # Safety
/// The views are valid for the call, their types are what [`Op::infer`] takes and returns, outputs are dense and do not
/// overlap anything else; the first output may be the same memory as input `i`, both dense and of one type, where
/// [`Op::may_overwrite`]`(i)`, and output `j` the same as the input that [`Op::updates`]`(j)` names. Nobody else writes any of the memory during the call.
pub unsafe fn run(op: &Op, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<(), KernelError> {
    check_types(op, inputs, outputs)?;
    // SAFETY: the caller's promise, handed on unchanged; element types have just been checked.
    unsafe {
        match op {
            Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Route(_) => {
                let reason = "because it computes nothing: lower the graph to a plan first".into();
                return Err(KernelError::Unsupported { op: op.name(), reason });
            }
            Op::Constant(o) => tables::constant(o, outputs),
            Op::Copy(_) | Op::Detach(_) | Op::Reshape(_) => movement::copy(inputs, outputs),
            Op::Transpose(o) => movement::transpose(o, inputs, outputs),
            Op::Slice(o) => movement::slice(o, inputs, outputs),
            Op::Expand(o) => movement::expand(o, inputs, outputs),
            Op::Concat(o) => movement::concat(o, inputs, outputs),
            Op::Pad(o) => movement::pad(o, inputs, outputs),
            Op::Index(_) => movement::index(inputs, outputs)?,
            Op::Cast(_) => cast::cast(inputs, outputs),
            Op::Unary(o) => elementwise::unary(o, inputs, outputs),
            Op::Binary(o) => elementwise::binary(o, inputs, outputs),
            Op::Fused(o) => elementwise::fused(o, inputs, outputs),
            Op::Linear(o) => linear::linear(o, inputs, outputs),
            Op::MatMul(o) => matmul::matmul(o, inputs, outputs),
            Op::Softmax(_) => norms::softmax(inputs, outputs),
            Op::LayerNorm(o) => norms::layer_norm(o, inputs, outputs),
            Op::RmsNorm(o) => norms::rms_norm(o, inputs, outputs),
            Op::NormModulate(o) => norms::norm_modulate(o, inputs, outputs),
            Op::TimeFeatures(o) => tables::time_features(o, inputs, outputs),
            Op::RopeTable(o) => tables::rope_table(o, outputs),
            Op::Rope(o) => rope::rope(o, inputs, outputs),
            Op::RmsNormRope(o) => rope::rms_norm_rope(o, inputs, outputs),
            Op::Attention(o) => attention::attention(o, inputs, outputs)?,
            Op::PartitionedContextAttention(o) => attention::partitioned(o, inputs, outputs)?,
            Op::ContextProbabilities(o) => mix::probabilities(o, inputs, outputs)?,
            Op::WindowMix(o) => mix::window_mix(o, inputs, outputs),
            Op::WindowDots(o) => mix_grad::window_dots(o, inputs, outputs),
            Op::WindowSpread(o) => mix_grad::window_spread(o, inputs, outputs),
            Op::MergeAttention(o) => attention::merge(o, inputs, outputs),
            Op::WindowGather(o) => movement::window_gather(o, inputs, outputs),
            Op::WindowMask(o) => tables::window_mask(o, outputs),
            Op::Patchify(o) => patches::patchify(o, inputs, outputs),
            Op::Unpatchify(o) => patches::unpatchify(o, inputs, outputs),
            Op::Reduce(o) => reduce::reduce(o, inputs, outputs),
            Op::NormGrad(o) => norm_grad::norm_grad(o, inputs, outputs),
            Op::AttentionGrad(o) => attention_grad::attention(o, inputs, outputs)?,
            Op::PartitionedContextAttentionGrad(o) => attention_grad::partitioned(o, inputs, outputs)?,
            Op::WindowScatter(o) => scatter::window_scatter(o, inputs, outputs),
            Op::AdamW(o) => adam_w::adam_w(o, inputs, outputs),
        }
    }
    Ok(())
}

/// Refuses element types that a kernel does not read or write: arithmetic is `f32`, but data movers take all types,
/// and products widen weights in half precision.
fn check_types(op: &Op, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<(), KernelError> {
    let moves = matches!(
        op,
        Op::Input(_)
            | Op::Weight(_)
            | Op::State(_)
            | Op::Route(_)
            | Op::Constant(_)
            | Op::Copy(_)
            | Op::Detach(_)
            | Op::Pad(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Expand(_)
            | Op::Concat(_)
            | Op::Index(_)
            | Op::WindowGather(_)
            | Op::Patchify(_)
            | Op::Unpatchify(_)
    );
    // The types of data that is only moved, and of counts, are settled by `infer`.
    let takes = |i: usize, dtype: DType| match op {
        _ if moves => true,
        Op::Attention(o) if o.counted && i + 1 == inputs.len() => true,
        Op::AttentionGrad(o) if o.counted && i + 1 == inputs.len() => true,
        Op::Cast(_) => dtype.is_float(),
        Op::Linear(_) if i == 1 => dtype.is_float(),
        Op::MatMul(_) => dtype.is_float(),
        _ => dtype == DType::F32,
    };
    let refuse = |what: &str, i: usize, view: &View<'_>| {
        let reason = format!("with {what} {i} of type {}: cast to f32 first", view.ty);
        Err(KernelError::Unsupported { op: op.name(), reason })
    };
    for (i, view) in inputs.iter().enumerate() {
        if !takes(i, view.dtype()) {
            return refuse("input", i, view);
        }
    }
    for (i, view) in outputs.iter().enumerate() {
        let float = matches!(op, Op::Cast(_)) && view.dtype().is_float();
        if !moves && !float && view.dtype() != DType::F32 {
            return refuse("output", i, view);
        }
    }
    Ok(())
}
