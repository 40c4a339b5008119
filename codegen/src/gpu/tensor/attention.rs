//! Attention on tensor cores: blueprint, tiles and text.

use ccl_ir::DType;
use ccl_ir::ops::NO_KEYS;
use ccl_ir::partition::Edge;
use serde::{Deserialize, Serialize};

use super::{BARRIERS, COMMON, GROUP, OfHead, multiply_heads};
use crate::gpu::blueprint::{Class, Slot};
use crate::gpu::kernels::attention::Attention;
use crate::gpu::kernels::attention_keys::Keys;
use crate::gpu::launch::Launch;
use crate::gpu::target::{Target, TensorCores};
use crate::gpu::text::{Group, Prelude, input, output};

/// Attention over operands of half precision.
pub type TensorAttention = Attention<OfHead<AttentionTile>>;

/// What a cube works on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttentionTile {
    /// Which instructions multiply.
    pub cores: TensorCores,
    /// Warps along the queries.
    pub warps_q: u32,
    /// Tiles of 16 queries that each warp has.
    pub row_tiles: u32,
    /// Sets of warps that share the keys of a tile.
    pub warps_k: u32,
    /// Keys of one set, a multiple of 16.
    pub keys: u32,
    /// Whether four warps more bring the tiles for all others; else each copies its share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brings: bool,
    /// Whether warps hold their queries in registers, where `wgmma` multiplies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds: bool,
}

impl AttentionTile {
    /// The tile of a kernel that stores the weights of so many queries and keys.
    pub fn of_probabilities(queries: usize, keys: usize) -> Self {
        let (warps_q, keys) = match (queries, keys) {
            (..=16, _) => (1, 64),
            (..=32, _) => (2, 32),
            (_, ..=32) => (4, 32),
            _ => (4, 64),
        };
        Self { cores: TensorCores::Mma, warps_q, row_tiles: 1, warps_k: 1, keys, brings: false, holds: false }
    }

    /// Queries of a cube.
    pub fn queries(&self) -> u32 {
        16 * self.warps_q * self.row_tiles
    }

    /// Units of a cube.
    pub fn units(&self) -> u32 {
        32 * (self.warps_q * self.warps_k + if self.brings { 4 } else { 0 })
    }

    /// Shared memory of a cube in bytes: queries, two tiles of keys and two of values, two barriers for each of them where four warps bring them; at the end
    /// the results of half of the sets.
    pub fn shared_bytes(&self, dim: u32) -> u32 {
        let tiles = 2 * dim * (self.queries() + 4 * self.warps_k * self.keys);
        let sums = self.warps_k / 2 * self.warps_q * 32 * self.row_tiles * (dim / 2 + 4) * 4;
        let barriers = if self.brings { 64 } else { 0 };
        (tiles + barriers).max(sums)
    }

    /// Whether the target has room for it with heads of `dim` channels, and the instructions.
    pub(in crate::gpu) fn fits(&self, target: &Target, dim: u32) -> bool {
        // Registers hold 32 queries of a warp with 64 keys only where heads are narrow.
        let registers = self.row_tiles * self.keys * dim <= 2 * 32 * 128 || self.row_tiles == 1;
        let cores = multiply_heads(self.cores, target, dim) && registers;
        cores && self.shared_bytes(dim) <= target.shared_bytes && self.units() <= target.max_units
    }
}

impl TensorAttention {
    /// The text of the kernel that stores weights in place of results; the log-sum-exp's buffer is the result's.
    pub fn probabilities(&self, launch: &Launch) -> String {
        let parts =
            [COMMON, include_str!("keys.cuh"), include_str!("attention_parts.cuh"), include_str!("probabilities.cuh")];
        self.prelude(launch).finish(&parts)
    }

    fn prelude(&self, launch: &Launch) -> Prelude {
        let mut p = Prelude::new(launch);
        let OfHead { dim, tile } = self.tile;
        for (name, value) in [
            ("DIM", dim),
            ("WARPS_Q", tile.warps_q),
            ("ROW_TILES", tile.row_tiles),
            ("WARPS_K", tile.warps_k),
            ("KEY_TILE", tile.keys),
            ("LEAD", self.lead),
        ] {
            p.constant(name, value);
        }
        keys(&mut p, self.keys, self.mask, self.count, self.context, dim);
        p.input("Q_BUFFER", self.q);
        p.input("K_BUFFER", self.k);
        p.input("V_BUFFER", self.v);
        p.define("OUT_BUFFER", output(self.out));
        p.define("LSE_BUFFER", output(self.lse));
        p.define("OUT_TYPE", if self.out.class == Class::Half { "half_t" } else { "float" });
        p
    }

    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let (mut p, OfHead { dim, tile }) = (self.prelude(launch), self.tile);
        let (keys, parts) = (include_str!("keys.cuh"), include_str!("attention_parts.cuh"));
        if tile.cores == TensorCores::Mma {
            return p.finish(&[COMMON, keys, parts, include_str!("attention.cuh")]);
        }
        let products = products(&mut p, launch.blueprint.half, tile.keys, dim, tile.holds);
        if !tile.brings {
            return p.finish(&[COMMON, GROUP, keys, parts, products, include_str!("attention_group.cuh")]);
        }
        p.finish(&[COMMON, GROUP, BARRIERS, keys, parts, products, include_str!("attention_turns.cuh")])
    }
}

/// Products with `wgmma`: what is defined for them, and their text. A tile is multiplied with `others` rows, which are added up in `dim` channels;
/// warps hold their rows in registers, or not.
pub(super) fn products(p: &mut Prelude, half: DType, others: u32, dim: u32, holds: bool) -> &'static str {
    p.flag("HOLDS", holds);
    for (name, first) in [("DOTS_FIRST", true), ("DOTS_MORE", false)] {
        let dots = Group { half, columns: others, sums: "sums", first, turn_b: false };
        p.define(name, if holds { dots.of_registers("held.of[d]") } else { dots.of_shared("left", false) });
    }
    let spread = Group { half, columns: dim, sums: "sums", first: false, turn_b: true };
    p.define("SPREAD", spread.of_registers("left[j]"));
    include_str!("attention_products.cuh")
}

/// Which keys a query sees, and what is added to their scores.
pub(super) fn keys(
    p: &mut Prelude,
    keys: Keys,
    mask: Option<Slot>,
    count: Option<Slot>,
    context: Option<[Slot; 2]>,
    dim: u32,
) {
    for (value, name) in ["KEYS_ALL", "KEYS_WINDOW", "KEYS_NEAREST"].into_iter().enumerate() {
        p.define(name, value);
    }
    for (value, name) in ["EDGE_SHIFT", "EDGE_MASK", "EDGE_REPLICATE"].into_iter().enumerate() {
        p.define(name, value);
    }
    let (kind, edge) = match keys {
        Keys::All => ("KEYS_ALL", "EDGE_SHIFT"),
        Keys::NearestFrame => ("KEYS_NEAREST", "EDGE_SHIFT"),
        Keys::Windows(Edge::Shift) => ("KEYS_WINDOW", "EDGE_SHIFT"),
        Keys::Windows(Edge::Mask) => ("KEYS_WINDOW", "EDGE_MASK"),
        Keys::Windows(Edge::Replicate) => ("KEYS_WINDOW", "EDGE_REPLICATE"),
    };
    p.define("KEYS_ARE", kind);
    p.define("EDGE", edge);
    p.flag("HAS_CONTEXT", context.is_some());
    p.flag("HAS_TERMS", mask.is_some() || keys == Keys::Windows(Edge::Replicate));
    p.flag("HAS_COUNT", count.is_some());
    if let Some([k, v]) = context {
        p.input("CK_BUFFER", k);
        p.input("CV_BUFFER", v);
    }
    if let Some(mask) = mask {
        p.input("MASK_BUFFER", mask);
    }
    p.define("COUNT_OF(sizes)", count.map_or("0".into(), |c| format!("{}[sizes[COUNT]]", input(c))));
    p.define("SCALE", format!("{:?}f", 1.0 / (dim as f32).sqrt()));
    p.define("NO_KEYS", format!("{:?}f", NO_KEYS as f32));
}
