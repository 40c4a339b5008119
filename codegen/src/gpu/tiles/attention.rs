//! Attention and its gradient: their tiles on tensor cores.

use super::plain::HEADS;
use crate::gpu::kernels::attention_grad::Side;
use crate::gpu::kernels::attention_keys::{Keys, at};
use crate::gpu::target::{Target, TensorCores};
use crate::gpu::tensor::attention::AttentionTile;
use crate::gpu::tensor::attention_grad::GradTile;

/// So many rows on both sides are worth blocks of 128 kept ones, of which the last may be nearly empty, for the rate of `wgmma`.
const LARGE: usize = 257;

/// Queries of a group and the keys that they see, context tokens left out, by a kernel's sizes.
fn group(keys: Keys, sizes: &[u32]) -> (usize, usize) {
    let size = |i: usize| sizes.get(i).copied().unwrap_or_default() as usize;
    match keys {
        Keys::All => (size(at::QUERIES), size(at::KEYS).div_ceil(size(at::PARTS).max(1))),
        Keys::NearestFrame => (size(at::QUERIES).div_ceil(size(at::GROUPS).max(1)), size(at::PER_FRAME)),
        Keys::Windows(_) => (size(at::PER_FRAME), size(at::WINDOW).min(size(at::KEYS))),
    }
}

/// Channels of a head that some kernel has tiles for.
fn head(dim: usize) -> Option<u32> {
    u32::try_from(dim).ok().filter(|dim| HEADS.contains(dim))
}

/// What the choice of an attention's tile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionProblem {
    /// Channels of a head.
    pub dim: u32,
    /// Most queries of a group.
    pub queries: usize,
    /// Most keys of a query, context tokens included.
    pub keys: usize,
    /// Cubes of the grid if a cube took one query: batches, heads, groups and parts.
    pub cubes: usize,
}

impl AttentionProblem {
    /// The problem of an attention's kernel with these sizes.
    pub(super) fn of(dim: u32, keys: Keys, sizes: &[u32]) -> Self {
        let size = |i: usize| sizes.get(i).copied().unwrap_or_default() as usize;
        let (queries, seen) = group(keys, sizes);
        let cubes = [at::BATCHES, at::HEADS, at::GROUPS, at::PARTS].map(size).into_iter().product();
        Self { dim, queries, keys: seen + size(at::CONTEXT), cubes }
    }

    /// The problem of these sizes.
    pub(super) fn from_sizes([cubes, queries, keys, dim]: [usize; 4]) -> Option<Self> {
        Some(Self { dim: head(dim)?, queries, keys, cubes })
    }

    /// Name of the problem in a file of choices: `40x18480x18480x128`.
    pub fn key(&self) -> String {
        format!("{}x{}x{}x{}", self.cubes, self.queries, self.keys, self.dim)
    }

    /// The tiles, the one that is expected to be fastest first.
    pub fn tiles(&self, target: &Target) -> impl Iterator<Item = AttentionTile> {
        let tile = |warps_q, row_tiles, warps_k, keys| {
            let cores = TensorCores::Mma;
            AttentionTile { cores, warps_q, row_tiles, warps_k, keys, brings: false, holds: false }
        };
        let group = |warps_q, keys| AttentionTile { cores: TensorCores::Wgmma, ..tile(warps_q, 1, 1, keys) };
        let turns = |keys| AttentionTile { brings: true, ..group(8, keys) };
        let held = |tile| AttentionTile { holds: true, ..tile };
        let large = [
            group(8, 128),
            held(group(8, 128)),
            turns(128),
            held(turns(128)),
            group(4, 128),
            group(4, 64),
            tile(4, 2, 1, 64),
            tile(4, 2, 1, 32),
            tile(4, 1, 1, 64),
            tile(4, 1, 1, 32),
        ];
        let list: &[AttentionTile] = match (self.queries, self.keys) {
            // Few queries: the warps share the keys.
            (..=16, ..=64) => &[tile(1, 1, 2, 16), tile(1, 1, 1, 16)],
            (..=16, _) => &[tile(1, 1, 4, 32), tile(1, 1, 4, 16), tile(1, 1, 2, 16)],
            (..=64, _) => &[tile(2, 1, 2, 32), tile(4, 1, 1, 32), tile(2, 1, 1, 16)],
            // Few keys: a tile of all of them, and more cubes side by side.
            (_, ..=32) => &[tile(4, 1, 1, 32), tile(4, 2, 1, 32), tile(4, 1, 1, 16)],
            (_, ..=64) => &[tile(4, 1, 1, 64), tile(4, 2, 1, 32), tile(4, 1, 1, 32)],
            _ => &large,
        };
        let fitting: Vec<AttentionTile> = list.iter().copied().filter(|t| t.fits(target, self.dim)).collect();
        fitting.into_iter()
    }
}

/// What the choice of a tile for a part of attention's gradient depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradProblem {
    /// Whose gradients.
    pub side: Side,
    /// Channels of a head.
    pub dim: u32,
    /// Rows of a group, or of all, whose gradients are summed up.
    pub kept: usize,
    /// Rows that these meet.
    pub met: usize,
    /// Whether each meets all of them; else those of few frames, and a long block of rows hides most pairs.
    pub whole: bool,
    /// Cubes of the grid if a cube took one row.
    pub cubes: usize,
}

impl GradProblem {
    /// The problem of a gradient's kernel with these sizes.
    pub(super) fn of(dim: u32, side: Side, keys: Keys, sizes: &[u32]) -> Self {
        let size = |i: usize| sizes.get(i).copied().unwrap_or_default() as usize;
        let (queries, seen) = group(keys, sizes);
        let [heads, batches, context] = [at::HEADS, at::BATCHES, at::CONTEXT].map(size);
        let (kept, met, cubes) = match side {
            Side::Queries => (queries, seen + context, batches * heads * size(at::GROUPS)),
            Side::Keys => (size(at::KEYS), size(at::QUERIES), batches * heads),
            Side::Context => (context, size(at::QUERIES), heads),
        };
        Self { side, dim, kept, met, whole: side != Side::Keys || keys == Keys::All, cubes }
    }

    /// The problem of these sizes and this kind: `dq`.
    pub(super) fn from_name([cubes, kept, met, dim]: [usize; 4], kind: &str) -> Option<Self> {
        let (side, whole) = match kind {
            "dq" => (Side::Queries, true),
            "dkv" => (Side::Keys, true),
            "dkv-windows" => (Side::Keys, false),
            "dc" => (Side::Context, true),
            _ => return None,
        };
        Some(Self { side, dim: head(dim)?, kept, met, whole, cubes })
    }

    /// Name of the problem in a file of choices: `40x18480x18480x128 dq`.
    pub fn key(&self) -> String {
        let Self { side, dim, kept, met, whole, cubes } = self;
        let kind = match (side, whole) {
            (Side::Queries, _) => "dq",
            (Side::Keys, true) => "dkv",
            (Side::Keys, false) => "dkv-windows",
            (Side::Context, _) => "dc",
        };
        format!("{cubes}x{kept}x{met}x{dim} {kind}")
    }

    /// The tiles, the one that is expected to be fastest first.
    pub fn tiles(&self, target: &Target) -> impl Iterator<Item = GradTile> {
        let Self { side, dim, kept, met, whole, .. } = *self;
        let tile =
            |warps_kept, warps_walked, walk| GradTile { cores: TensorCores::Mma, warps_kept, warps_walked, walk };
        let group = GradTile { cores: TensorCores::Wgmma, ..tile(8, 1, 64) };
        let plain: &[GradTile] = match (side, kept) {
            // Few rows: the warps share those that they meet.
            (_, ..=16) => &[tile(1, 4, 16), tile(1, 2, 16)],
            (Side::Queries, _) => &[tile(4, 1, 64), tile(4, 1, 32), tile(4, 1, 16)],
            (Side::Keys | Side::Context, _) => &[tile(4, 1, 32), tile(4, 1, 16)],
        };
        // Of context tokens there are never so many.
        let grouped = side != Side::Context && whole && kept > 16;
        let large = kept >= LARGE && met >= LARGE;
        let before = (grouped && large).then_some(group);
        let behind = (grouped && !large).then_some(group);
        let tiles: Vec<GradTile> = before.into_iter().chain(plain.iter().copied()).chain(behind).collect();
        tiles.into_iter().filter(move |t| t.fits(target, side, dim))
    }
}
