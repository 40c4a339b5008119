//! Every operator, one file each.

mod adam_w;
mod attention;
mod attention_grad;
mod binary;
mod cast;
mod concat;
mod constant;
mod context_probabilities;
mod copy;
mod detach;
mod expand;
mod fused;
mod index;
mod input;
mod layer_norm;
mod linear;
mod matmul;
mod merge_attention;
mod norm_grad;
mod norm_modulate;
mod pad;
mod partitioned_context_attention;
mod partitioned_context_attention_grad;
mod patchify;
mod reduce;
mod reshape;
mod rms_norm;
mod rms_norm_rope;
mod rope;
mod rope_table;
mod route;
mod slice;
mod softmax;
mod state;
mod time_features;
mod transpose;
mod unary;
mod unpatchify;
mod weight;
mod window_dots;
mod window_gather;
mod window_mask;
mod window_mix;
mod window_scatter;
mod window_spread;

pub use adam_w::AdamW;
pub use attention::Attention;
pub use attention_grad::AttentionGrad;
pub use binary::{Binary, BinaryKind};
pub use cast::Cast;
pub use concat::Concat;
pub use constant::Constant;
pub use context_probabilities::ContextProbabilities;
pub use copy::Copy;
pub use detach::Detach;
pub use expand::Expand;
pub use fused::Fused;
pub use index::Index;
pub use input::Input;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use matmul::MatMul;
pub use merge_attention::MergeAttention;
pub use norm_grad::NormGrad;
pub use norm_modulate::NormModulate;
pub use pad::Pad;
pub use partitioned_context_attention::{NO_KEYS, PartitionedContextAttention, part_of_keys};
pub use partitioned_context_attention_grad::PartitionedContextAttentionGrad;
pub use patchify::Patchify;
pub use reduce::Reduce;
pub use reshape::Reshape;
pub use rms_norm::RmsNorm;
pub use rms_norm_rope::RmsNormRope;
pub use rope::Rope;
pub use rope_table::{Positions, RopeTable, axial_split};
pub use route::Route;
pub use slice::Slice;
pub use softmax::Softmax;
pub use state::State;
pub use time_features::TimeFeatures;
pub use transpose::Transpose;
pub use unary::{Unary, UnaryKind};
pub use unpatchify::Unpatchify;
pub use weight::Weight;
pub use window_dots::WindowDots;
pub use window_gather::WindowGather;
pub(crate) use window_gather::samples as window_samples;
pub use window_mask::WindowMask;
pub use window_mix::WindowMix;
pub use window_scatter::WindowScatter;
pub use window_spread::WindowSpread;

use crate::error::Problem;
use crate::types::{DType, TensorType};

/// Checks the number of inputs.
pub(crate) fn arity(inputs: &[&TensorType], want: usize) -> Result<(), Problem> {
    crate::ensure!(inputs.len() == want, "takes {want} inputs, got {}", inputs.len());
    Ok(())
}

/// Checks that an input holds real numbers.
pub(crate) fn float(inputs: &[&TensorType], index: usize) -> Result<(), Problem> {
    crate::ensure!(inputs[index].dtype.is_float(), "input {index} must be real numbers, is {}", inputs[index]);
    Ok(())
}

/// Type of arithmetic on two operands: their own where equal, else `f32`.
pub(crate) fn promote(a: DType, b: DType) -> DType {
    if a == b { a } else { DType::F32 }
}
