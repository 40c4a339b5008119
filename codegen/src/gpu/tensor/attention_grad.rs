//! Gradient of attention on tensor cores: blueprint, tiles and text.

use serde::{Deserialize, Serialize};

use super::attention::{keys, products};
use super::{COMMON, GROUP, OfHead, multiply_heads};
use crate::gpu::kernels::attention_grad::{AttentionGrad, Side};
use crate::gpu::launch::Launch;
use crate::gpu::target::{Target, TensorCores};
use crate::gpu::text::{Prelude, output};
use crate::gpu::tiles::RESERVED;

/// A kernel of attention's gradient over operands of half precision.
pub type TensorAttentionGrad = AttentionGrad<OfHead<GradTile>>;

/// What a cube works on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GradTile {
    /// Which instructions multiply.
    pub cores: TensorCores,
    /// Warps along the kept rows, 16 rows each.
    pub warps_kept: u32,
    /// Sets of warps that share the walked rows of a tile.
    pub warps_walked: u32,
    /// Walked rows of one set, a multiple of 16, at most 64.
    pub walk: u32,
}

impl GradTile {
    /// Rows that a cube keeps.
    pub fn kept(&self) -> u32 {
        16 * self.warps_kept
    }

    /// Units of a cube.
    pub fn units(&self) -> u32 {
        32 * self.warps_kept * self.warps_walked
    }

    /// Shared memory of a cube in bytes: two kinds of kept rows, two of walked ones twice (thrice, where products go on into the next tile), two
    /// numbers a query (of walked ones twice, where a warp may be a tile ahead), and which keys each walked query sees.
    pub fn shared_bytes(&self, side: Side, dim: u32) -> u32 {
        let walked = self.warps_walked * self.walk;
        let (places, ahead) = if self.cores == TensorCores::Mma { (2, 2) } else { (3, 1) };
        let queries = match side {
            Side::Queries => 8 * self.kept(),
            // By `wgmma` all queries see all keys.
            Side::Keys => ahead * (8 + if self.cores == TensorCores::Mma { 16 } else { 0 }) * walked,
            Side::Context => ahead * 8 * walked,
        };
        4 * dim * (self.kept() + places * walked) + queries
    }

    /// Whether the target has room for it, and the instructions.
    pub(in crate::gpu) fn fits(&self, target: &Target, side: Side, dim: u32) -> bool {
        // Two cubes on a multiprocessor hide more than longer tiles save.
        let cubes = if self.cores == TensorCores::Mma && self.walk == 64 { 2 } else { 1 };
        let shared = cubes * (self.shared_bytes(side, dim) + RESERVED) <= target.shared_bytes + RESERVED;
        shared && multiply_heads(self.cores, target, dim) && self.units() <= target.max_units
    }
}

impl TensorAttentionGrad {
    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let mut p = Prelude::new(launch);
        let OfHead { dim, tile } = self.tile;
        for (name, value) in [
            ("DIM", dim),
            ("WARPS_KEPT", tile.warps_kept),
            ("WARPS_WALKED", tile.warps_walked),
            ("WALK", tile.walk),
            ("LEAD", self.lead),
        ] {
            p.constant(name, value);
        }
        keys(&mut p, self.keys, self.mask, self.count, self.context, dim);
        for (name, side) in [("OF_QUERIES", Side::Queries), ("OF_KEYS", Side::Keys), ("OF_CONTEXT", Side::Context)] {
            p.flag(name, self.side == side);
        }
        for (name, slot) in [
            ("KEPT_0", self.kept[0]),
            ("KEPT_1", self.kept[1]),
            ("WALKED_0", self.walked[0]),
            ("WALKED_1", self.walked[1]),
            ("O_BUFFER", self.o),
            ("LSE_BUFFER", self.lse),
        ] {
            p.input(name, slot);
        }
        p.define("OUT_BUFFER", output(self.out));
        if let Some(values) = self.values {
            p.define("VALUES_BUFFER", output(values));
        }
        let (keys, parts) = (include_str!("keys.cuh"), include_str!("attention_grad_parts.cuh"));
        if tile.cores == TensorCores::Mma {
            return p.finish(&[COMMON, keys, parts, include_str!("attention_grad.cuh")]);
        }
        let products = products(&mut p, launch.blueprint.half, tile.walk, dim, self.side == Side::Queries);
        p.finish(&[COMMON, GROUP, keys, parts, products, include_str!("attention_grad_group.cuh")])
    }
}
