//! The one entry of all GPU kernels.
//!
//! Every kernel takes the same arguments: lists of buffers by element type, a list of sizes, and its [`Blueprint`] as a compile-time value
//! which chooses the code. So launching a kernel, and emitting its text without a device, is written once.

use cubecl::prelude::*;

use super::blueprint::{Blueprint, Kernel};
use super::kernels::adam_w::adam_w;
use super::kernels::attention::attention;
use super::kernels::attention_grad::attention_grad;
use super::kernels::elementwise::elementwise;
use super::kernels::gather::{scatter, table_row, windows};
use super::kernels::merge::merge;
use super::kernels::norm::norm;
use super::kernels::norm_grad::norm_grad;
use super::kernels::norm_rope::norm_rope;
use super::kernels::probabilities::probabilities;
use super::kernels::product::product;
use super::kernels::rope::rope;
use super::kernels::softmax::softmax;
use super::kernels::sum::sum;
use super::kernels::window_product::window_product;

/// Expands to the kernel that the blueprint names.
#[cube(launch_unchecked)]
pub fn universal<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    ints: &Sequence<Box<[i32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] blueprint: Blueprint,
) {
    match comptime!(blueprint.kernel) {
        Kernel::Attention(a) => attention::<E>(halves, floats, ints, half_outs, float_outs, sizes, comptime!(a)),
        Kernel::AttentionGrad(a) => {
            attention_grad::<E>(halves, floats, ints, half_outs, float_outs, sizes, comptime!(a))
        }
        Kernel::Probabilities(a) => {
            probabilities::<E>(halves, floats, ints, half_outs, float_outs, sizes, comptime!(a))
        }
        Kernel::Merge(m) => merge::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(m)),
        Kernel::Elementwise(e) => elementwise::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(e)),
        Kernel::Product(p) => product::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(p)),
        Kernel::WindowProduct(w) => {
            window_product::<E>(halves, floats, ints, half_outs, float_outs, sizes, comptime!(w))
        }
        Kernel::Norm(n) => norm::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(n)),
        Kernel::NormGrad(n) => norm_grad::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(n)),
        Kernel::NormRope(n) => norm_rope::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(n)),
        Kernel::Softmax(s) => softmax::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(s)),
        Kernel::Rope(r) => rope::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(r)),
        Kernel::TableRow(t) => table_row::<E>(halves, floats, ints, half_outs, float_outs, sizes, comptime!(t)),
        Kernel::Windows(w) => windows::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(w)),
        Kernel::Scatter(s) => scatter::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(s)),
        Kernel::Sum(s) => sum::<E>(halves, floats, half_outs, float_outs, sizes, comptime!(s)),
        // Texts of their own: they never come here (see `super::text`), and no other language has them.
        Kernel::TensorAttention(_)
        | Kernel::TensorAttentionGrad(_)
        | Kernel::TensorProbabilities(_)
        | Kernel::TensorProduct(_)
        | Kernel::WideAdamW(_)
        | Kernel::WideElementwise(_)
        | Kernel::WideNorm(_)
        | Kernel::WideNormGrad(_)
        | Kernel::WideNormRope(_) => {
            comptime!(panic!("a kernel that has a text of its own is not CubeCL's to make"))
        }
        Kernel::AdamW(a) => adam_w::<E>(halves, floats, float_outs, sizes, comptime!(a)),
    }
}
