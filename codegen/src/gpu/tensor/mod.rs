//! Kernels for NVIDIA's tensor cores: CUDA C++ of our own, where CubeCL's kernels would leave most of the device idle.
//!
//! Products and attention of half precision operands. CubeCL has `mma` but no `wgmma`, and no say over which registers hold what; here a
//! kernel is a text (`*.cuh`) with constants before it, made from a [`Blueprint`](super::Blueprint) like any other kernel's, with the same
//! arguments and the same sizes as the kernel of [`super::kernels`] that does the work where there are no tensor cores. So lowering differs in
//! the tile alone, and a plan may mix both.

pub mod attention;
pub mod attention_grad;
pub mod product;
mod text;
pub mod tiles;

use serde::{Deserialize, Serialize};

use super::blueprint::Kernel;
use super::emit::KernelText;
use super::launch::Launch;

/// What all kernels share.
const COMMON: &str = include_str!("common.cuh");

/// What those with `wgmma` share.
const GROUP: &str = include_str!("group.cuh");

/// A tile of attention, and what its heads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OfHead<T> {
    /// Channels of a head: 16, 32, 64 or 128.
    pub dim: u32,
    /// The tile.
    pub tile: T,
}

/// The text of a tensor-core kernel; `None` for the others, which CubeCL makes.
pub fn text(launch: &Launch) -> Option<KernelText> {
    let (text, shared_bytes) = match &launch.blueprint.kernel {
        Kernel::TensorProduct(p) => (p.text(launch), p.tile.shared_bytes()),
        Kernel::TensorAttention(a) => (a.text(launch), a.tile.tile.shared_bytes(a.tile.dim)),
        Kernel::TensorProbabilities(a) => (a.probabilities(launch), a.tile.tile.shared_bytes(a.tile.dim)),
        Kernel::TensorAttentionGrad(a) => (a.text(launch), a.tile.tile.shared_bytes(a.tile.dim)),
        _ => return None,
    };
    let (shared_bytes, units) = (shared_bytes as usize, launch.blueprint.units);
    Some(KernelText { language: "cuda".into(), text, shared_bytes, units })
}
