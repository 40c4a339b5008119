//! Kernels for NVIDIA's tensor cores: CUDA C++ of our own.
//!
//! Products and attention of half precision operands. CubeCL has `mma` but no `wgmma`, and no say over which registers hold what; here kernels
//! are texts ([`super::text`]). Lowering differs from that of the kernels without tensor cores in the tile alone.

pub mod attention;
pub mod attention_grad;
pub mod library;
pub mod product;

use serde::{Deserialize, Serialize};

use super::target::{Target, TensorCores};

/// What all of them share.
const COMMON: &str = include_str!("common.cuh");

/// What those with `wgmma` share.
const GROUP: &str = include_str!("group.cuh");

/// What those share in which some warps bring what others multiply.
const BARRIERS: &str = include_str!("barriers.cuh");

/// A tile of attention, and what its heads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OfHead<T> {
    /// Channels of a head: 16, 32, 64 or 128.
    pub dim: u32,
    /// The tile.
    pub tile: T,
}

/// Whether the target has these tensor cores, and they take heads of `dim` channels: `wgmma` takes blocks of 64.
pub(super) fn multiply_heads(cores: TensorCores, target: &Target, dim: u32) -> bool {
    target.tensor_cores().contains(&cores) && (cores == TensorCores::Mma || dim % 64 == 0)
}
