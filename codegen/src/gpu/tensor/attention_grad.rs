//! Gradient of attention on tensor cores: blueprint, tiles and text.

use serde::{Deserialize, Serialize};

use super::attention::{keys, products};
use super::tiles::{RESERVED, multiply_heads};
use super::{COMMON, GROUP, OfHead};
use crate::gpu::kernels::attention_grad::{AttentionGrad, Side};
use crate::gpu::launch::Launch;
use crate::gpu::target::{Target, TensorCores};
use crate::gpu::text::{Prelude, output};

/// A kernel of attention's gradient over operands of half precision.
pub type TensorAttentionGrad = AttentionGrad<OfHead<GradTile>>;

/// So many rows on both sides are worth blocks of 128 kept ones, of which the last may be nearly empty, for the rate of `wgmma`.
const LARGE: usize = 257;

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

    /// The tile where a group's `kept` rows meet as many as `met`, all of them where `whole`; `None` where the target has no room for it.
    pub fn of(target: &Target, side: Side, dim: u32, [kept, met]: [usize; 2], whole: bool) -> Option<Self> {
        let tile = |warps_kept, warps_walked, walk| Self { cores: TensorCores::Mma, warps_kept, warps_walked, walk };
        let group = Self { cores: TensorCores::Wgmma, ..tile(8, 1, 64) };
        let plain: &[Self] = match (side, kept) {
            // Few rows: the warps share those that they meet.
            (_, ..=16) => &[tile(1, 4, 16), tile(1, 2, 16)],
            (Side::Queries, _) => &[tile(4, 1, 64), tile(4, 1, 32), tile(4, 1, 16)],
            (Side::Keys | Side::Context, _) => &[tile(4, 1, 32), tile(4, 1, 16)],
        };
        let large = side != Side::Context && whole && kept >= LARGE && met >= LARGE;
        let tiles = large.then_some(&group).into_iter().chain(plain).copied();
        tiles.into_iter().find(|t| t.fits(target, side, dim))
    }

    fn fits(&self, target: &Target, side: Side, dim: u32) -> bool {
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
