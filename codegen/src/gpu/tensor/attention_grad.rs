//! Gradient of attention on tensor cores: blueprint, tiles and text.

use serde::{Deserialize, Serialize};

use super::attention::keys;
use super::tiles::RESERVED;
use super::{COMMON, OfHead};
use crate::gpu::kernels::attention_grad::{AttentionGrad, Side};
use crate::gpu::launch::Launch;
use crate::gpu::target::Target;
use crate::gpu::text::{Prelude, output};

/// A kernel of attention's gradient over operands of half precision.
pub type TensorAttentionGrad = AttentionGrad<OfHead<GradTile>>;

/// What a cube works on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GradTile {
    /// Warps along the kept rows, 16 rows each.
    pub warps_kept: u32,
    /// Sets of warps that share the walked rows of a tile.
    pub warps_walked: u32,
    /// Walked rows of one set, a multiple of 16.
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

    /// Shared memory of a cube in bytes: two kinds of kept rows, two of walked ones twice, two numbers a query (of walked ones twice), and
    /// which keys each walked query sees.
    pub fn shared_bytes(&self, side: Side, dim: u32) -> u32 {
        let walked = self.warps_walked * self.walk;
        let queries = match side {
            Side::Queries => 8 * self.kept(),
            Side::Keys => 2 * (8 + 16) * walked,
            Side::Context => 2 * 8 * walked,
        };
        4 * dim * (self.kept() + 2 * walked) + queries
    }

    /// The tile for so many rows that are kept; `None` where the target has no room for it.
    pub fn of(target: &Target, side: Side, dim: u32, rows: usize) -> Option<Self> {
        let tile = |warps_kept, warps_walked, walk| Self { warps_kept, warps_walked, walk };
        let list = match (side, rows) {
            // Few rows: the warps share those that they meet.
            (_, ..=16) => [tile(1, 4, 16), tile(1, 2, 16)],
            // Two cubes on a multiprocessor hide more than longer tiles save.
            (Side::Queries, _)
                if 2 * (tile(4, 1, 64).shared_bytes(side, dim) + RESERVED) <= target.shared_bytes + RESERVED =>
            {
                [tile(4, 1, 64), tile(4, 1, 32)]
            }
            (Side::Queries, _) => [tile(4, 1, 32), tile(4, 1, 16)],
            (Side::Keys | Side::Context, _) => [tile(4, 1, 32), tile(4, 1, 16)],
        };
        list.into_iter().find(|t| t.shared_bytes(side, dim) <= target.shared_bytes && t.units() <= target.max_units)
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
        p.finish(&[COMMON, include_str!("keys.cuh"), include_str!("attention_grad.cuh")])
    }
}
