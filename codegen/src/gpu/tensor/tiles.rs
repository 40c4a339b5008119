//! How work is cut for tensor cores: the tiles that a kernel may have, what each is expected to take, and what was chosen by measuring.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::attention::AttentionTile;
use super::product::{DEPTH, ProductTile};
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::attention_keys::{Keys, at};
use crate::gpu::launch::Launch;
use crate::gpu::target::{Target, TensorCores};

/// Operations of a multiprocessor in a cycle with `mma.sync`: on compute capability 8.0 all there are, on 9.0 about what `mma.sync` reaches.
const MMA: f64 = 2048.0;
/// Likewise with `wgmma` (H100 data sheet: 989 TFLOP/s in 132 multiprocessors at 1.83 GHz).
const WGMMA: f64 = 4096.0;
/// Bytes that shared memory gives in a cycle.
const SHARED: f64 = 128.0;
/// Cycles of a cube before its first product and after its last one.
const ENDS: f64 = 2500.0;
/// How much longer a step of the depth takes where warps copy the tiles themselves and meet at every step, and cycles of it that nothing hides. With
/// these, fitted to 33 products measured on an H200, the expected tile takes 5 % longer than their best one in the mean.
const COPYING: (f64, f64) = (1.5, 100.0);
/// Bytes in a cycle that a multiprocessor reads of the shared memory of others, and cycles until all have met twice: not measured.
const OTHERS: (f64, f64) = (48.0, 1000.0);
/// Shared memory that a multiprocessor keeps for itself for each cube, in bytes.
pub const RESERVED: u32 = 1024;

/// Tiles that measuring found best, by problem. A problem that is not here takes the tile that is expected to be best.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Choices {
    /// Tiles of products, by [`ProductProblem::key`].
    pub products: BTreeMap<String, ProductTile>,
    /// Tiles of attention, by [`AttentionProblem::key`].
    pub attentions: BTreeMap<String, AttentionTile>,
    /// Products that the library of the device's maker does faster where it can ([`super::library`]) and is there; the tile serves where it is not.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub library: BTreeSet<String>,
}

/// A problem that has tiles to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A product.
    Product(ProductProblem),
    /// An attention.
    Attention(AttentionProblem),
}

/// A tile of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProblemTile {
    /// Of a product.
    Product(ProductTile),
    /// Of an attention.
    Attention(AttentionTile),
    /// None of ours: the library of the device's maker does the product.
    Library,
}

impl Problem {
    /// The problem that a launch solves, where it is one on tensor cores.
    pub fn of(launch: &Launch) -> Option<Self> {
        Self::of_kernel(&launch.blueprint.kernel, &launch.sizes)
    }

    /// The problem that a kernel solves with these sizes.
    pub fn of_kernel(kernel: &Kernel, sizes: &[u32]) -> Option<Self> {
        let size = |i: usize| sizes.get(i).copied().unwrap_or_default() as usize;
        match kernel {
            Kernel::TensorProduct(p) => {
                let [batches, m, n, k] = [0, 1, 2, 3].map(|i| size(i) as u64);
                let bulk = ProductProblem::is_bulk(batches, p.row_rank, [p.a.align, p.b.align]);
                Some(Self::Product(ProductProblem { batches, m, n, k, along: [p.a.along, p.b.along], bulk }))
            }
            Kernel::TensorAttention(a) => {
                let (queries, keys) = match a.keys {
                    Keys::All => (size(at::QUERIES), size(at::KEYS).div_ceil(size(at::PARTS).max(1))),
                    Keys::NearestFrame => (size(at::QUERIES).div_ceil(size(at::GROUPS).max(1)), size(at::PER_FRAME)),
                    Keys::Windows(_) => (size(at::PER_FRAME), size(at::WINDOW).min(size(at::KEYS))),
                };
                let keys = keys + size(at::CONTEXT);
                let cubes = [at::BATCHES, at::HEADS, at::GROUPS, at::PARTS].map(size).into_iter().product();
                Some(Self::Attention(AttentionProblem { dim: a.tile.dim, queries, keys, cubes }))
            }
            _ => None,
        }
    }

    /// Name of the problem in a file of choices.
    pub fn key(&self) -> String {
        match self {
            Self::Product(p) => p.key(),
            Self::Attention(a) => a.key(),
        }
    }

    /// The tiles that the target has for it.
    pub fn tiles(&self, target: &Target) -> Vec<ProblemTile> {
        match self {
            Self::Product(p) => p.tiles(target).map(ProblemTile::Product).collect(),
            Self::Attention(a) => a.tiles(target).map(ProblemTile::Attention).collect(),
        }
    }
}

impl Choices {
    /// Whether a tile was chosen for a problem.
    pub fn knows(&self, problem: &Problem) -> bool {
        match problem {
            Problem::Product(p) => self.products.contains_key(&p.key()),
            Problem::Attention(a) => self.attentions.contains_key(&a.key()),
        }
    }

    /// Takes over what others choose, and keeps what they say nothing of.
    pub fn replace(&mut self, others: Self) {
        self.library.retain(|key| !others.products.contains_key(key));
        self.products.extend(others.products);
        self.attentions.extend(others.attentions);
        self.library.extend(others.library);
    }

    /// Takes a tile for a problem from now on.
    pub fn choose(&mut self, problem: &Problem, tile: ProblemTile) {
        match tile {
            ProblemTile::Product(tile) => {
                self.products.insert(problem.key(), tile);
            }
            ProblemTile::Attention(tile) => {
                self.attentions.insert(problem.key(), tile);
            }
            ProblemTile::Library => {
                self.library.insert(problem.key());
            }
        }
    }
}

/// What the choice of a product's tile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductProblem {
    /// Products.
    pub batches: u64,
    /// Rows of the result.
    pub m: u64,
    /// Columns of the result.
    pub n: u64,
    /// Depth.
    pub k: u64,
    /// Whether the depth is contiguous, of the left factor and of the right one.
    pub along: [bool; 2],
    /// Whether the copy engine can bring the factors.
    pub bulk: bool,
}

impl ProductProblem {
    /// Name of the problem in a file of choices: `1x18480x5120x5120 tn`, as BLAS names the factors.
    pub fn key(&self) -> String {
        let Self { batches, m, n, k, along: [a, b], .. } = self;
        format!("{batches}x{m}x{n}x{k} {}{}", if *a { 't' } else { 'n' }, if *b { 'n' } else { 't' })
    }

    /// The tile: what was chosen by measuring, else what is expected to be fastest; `None` where the target has no tile for it.
    pub fn tile(&self, target: &Target) -> Option<ProductTile> {
        let chosen = target.choices.products.get(&self.key()).filter(|t| t.fits(target) && (self.bulk || !t.is_bulk()));
        let class = self.class();
        let cycles = |tile: &ProductTile| class.cycles(target, *tile);
        // Sets that take turns are taken where measuring found them faster: what they bring is not known yet.
        let expected = || self.tiles(target).filter(|t| !t.turns).min_by(|a, b| cycles(a).total_cmp(&cycles(b)));
        chosen.copied().or_else(expected)
    }

    /// The problem that stands for all that take the same tile. Tokens are told apart coarsely, so that a clip of another length takes the same
    /// kernels; of a linear map, which is what the copy engine brings with a left factor whose depth is contiguous, columns and depth are a weight's.
    pub(in crate::gpu) fn class(&self) -> Self {
        let of_weight = if self.bulk && self.along[0] { weight_class } else { token_class };
        let [m, n, k] = [token_class(self.m), of_weight(self.n), of_weight(self.k)];
        Self { batches: self.batches.min(2), m, n, k, ..*self }
    }

    /// Whether the copy engine can bring the factors: two matrices whose lines begin at multiples of 16 bytes.
    pub fn is_bulk(batches: u64, row_rank: u32, aligns: [u32; 2]) -> bool {
        batches == 1 && row_rank == 1 && aligns == [8, 8]
    }

    /// The tiles, largest first.
    pub fn tiles(&self, target: &Target) -> impl Iterator<Item = ProductTile> {
        product_tiles(target).filter(|tile| self.bulk || !tile.is_bulk())
    }

    /// Cycles that the product is expected to take. Cubes go over the multiprocessors in waves; in each the slower of arithmetic and
    /// shared memory counts. That sets of warps share the depth (`slices` without the copy engine) counts for nothing: it was never measured.
    pub fn cycles(&self, target: &Target, tile: ProductTile) -> f64 {
        let [bm, bn] = tile.sides.map(f64::from);
        let tiles = self.batches * self.m.div_ceil(tile.sides[0].into()) * self.n.div_ceil(tile.sides[1].into());
        let (depth, bulk) = (f64::from(DEPTH), tile.is_bulk());
        let warps = f64::from(tile.warps[0] * tile.warps[1]);
        let (rate, read) = match tile.cores {
            // What fragments read.
            TensorCores::Mma => (MMA, warps * (bm / f64::from(tile.warps[0]) + bn / f64::from(tile.warps[1]))),
            // Four warps read their rows and all columns.
            TensorCores::Wgmma | TensorCores::Bulk => (WGMMA, bm + bm / 64.0 * bn),
        };
        let moved = 2.0 * depth * (read + if bulk { 0.0 } else { bm + bn });
        let step = (2.0 * bm * bn * depth / rate).max(moved / SHARED);
        let (factor, more) = if bulk { (1.0, 0.0) } else { COPYING };
        let step = factor * step + more;
        let slices = if bulk { tile.slices } else { 1 };
        let steps = self.k.div_ceil((DEPTH * slices).into()) as f64;
        let exchange = if slices > 1 { 4.0 * bm * bn / OTHERS.0 + OTHERS.1 } else { 0.0 };
        // Cubes of one multiprocessor hide each other's beginnings and ends.
        let cubes = tiles * u64::from(slices);
        // A cluster lies within a group of 16 or 18.
        let multiprocessors = target.multiprocessors() as u64;
        let multiprocessors = if slices > 2 { (multiprocessors / 16 * 16).max(1) } else { multiprocessors };
        let most = u64::from(resident(target, tile.shared_bytes(), tile.units()));
        let beside = cubes.div_ceil(multiprocessors).min(most);
        let waves = cubes.div_ceil(multiprocessors * most) as f64;
        // Sets that take turns hide all ends but the last.
        let hidden = if tile.turns { (waves - 1.0) * ENDS } else { 0.0 };
        waves * (beside as f64 * steps * step + ENDS + exchange) - hidden
    }
}

/// The number of tokens that stands for all of a class: one row, few, a short stream, a prompt, a small clip, and what fills any device.
fn token_class(n: u64) -> u64 {
    match n {
        ..=16 => 16,
        ..=64 => 64,
        ..=320 => 192,
        ..=512 => 512,
        ..=4096 => 4096,
        _ => 1 << 17,
    }
}

/// The side of a weight that stands for all of a class: a power of two, or one and a half of one.
fn weight_class(n: u64) -> u64 {
    let whole = n.clamp(16, 1 << 17).next_power_of_two();
    if n <= whole / 4 * 3 { whole / 4 * 3 } else { whole }
}

impl ProductTile {
    fn fits(&self, target: &Target) -> bool {
        let cores = target.tensor_cores().contains(&self.cores);
        cores && self.shared_bytes() <= target.shared_bytes && self.units() <= target.max_units
    }
}

impl AttentionTile {
    fn fits(&self, target: &Target, dim: u32) -> bool {
        // Registers hold 32 queries of a warp with 64 keys only where heads are narrow.
        let registers = self.row_tiles * self.keys * dim <= 2 * 32 * 128 || self.row_tiles == 1;
        let cores = multiply_heads(self.cores, target, dim) && registers;
        cores && self.shared_bytes(dim) <= target.shared_bytes && self.units() <= target.max_units
    }
}

/// Whether the target has these tensor cores, and they take heads of `dim` channels: `wgmma` takes blocks of 64.
pub(super) fn multiply_heads(cores: TensorCores, target: &Target, dim: u32) -> bool {
    target.tensor_cores().contains(&cores) && (cores == TensorCores::Mma || dim % 64 == 0)
}

/// The tiles of a product, largest first.
pub fn product_tiles(target: &Target) -> impl Iterator<Item = ProductTile> + '_ {
    let mma =
        |sides, warps, stages| ProductTile { cores: TensorCores::Mma, sides, warps, stages, slices: 1, turns: false };
    let group = |sides: [u32; 2], stages| {
        let warps = [sides[0] / 16, 1];
        ProductTile { cores: TensorCores::Wgmma, ..mma(sides, warps, stages) }
    };
    let bulk = |sides, stages| ProductTile { cores: TensorCores::Bulk, ..group(sides, stages) };
    let turns = |sides, stages| ProductTile { warps: [4, 1], turns: true, ..bulk(sides, stages) };
    // Clusters whose cubes share the depth.
    let cluster = |sides, stages, slices| ProductTile { slices, ..bulk(sides, stages) };
    let sliced = |sides, warps, stages, slices| ProductTile { slices, ..mma(sides, warps, stages) };
    let all = [
        bulk([128, 256], 4),
        // Where it is as good as the next one: a short stream is one row of it.
        bulk([192, 128], 4),
        bulk([128, 192], 4),
        bulk([128, 128], 6),
        turns([128, 192], 4),
        turns([128, 128], 6),
        group([128, 256], 4),
        group([128, 192], 4),
        group([128, 128], 4),
        group([64, 128], 4),
        mma([128, 256], [2, 4], 3),
        mma([128, 128], [2, 2], 3),
        mma([128, 128], [2, 4], 3),
        mma([64, 128], [2, 2], 4),
        mma([64, 64], [2, 2], 4),
        // Few rows: more of the depth on its way, because nothing else hides how long that takes.
        mma([64, 64], [2, 2], 8),
        mma([32, 128], [1, 4], 4),
        mma([16, 64], [1, 4], 4),
        mma([16, 64], [1, 4], 8),
        cluster([192, 128], 4, 2),
        cluster([192, 128], 4, 4),
        cluster([192, 128], 4, 8),
        cluster([128, 128], 6, 4),
        cluster([64, 128], 8, 4),
        cluster([64, 128], 8, 8),
        sliced([64, 64], [2, 2], 3, 4),
        sliced([32, 64], [1, 4], 3, 4),
        sliced([16, 64], [1, 4], 4, 2),
        sliced([16, 64], [1, 4], 3, 4),
    ];
    all.into_iter().filter(|tile| tile.fits(target))
}

/// Cubes that a multiprocessor has at once.
fn resident(target: &Target, shared: u32, units: u32) -> u32 {
    // Two cubes of four warps with up to 255 registers a unit fill the registers.
    ((target.shared_bytes + RESERVED) / (shared + RESERVED)).min(256 / units).max(1)
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
    /// Name of the problem in a file of choices: `40x18480x18480x128`.
    pub fn key(&self) -> String {
        format!("{}x{}x{}x{}", self.cubes, self.queries, self.keys, self.dim)
    }

    /// The tile: what was chosen by measuring, else by rule; `None` where the target has no tile for it.
    pub fn tile(&self, target: &Target) -> Option<AttentionTile> {
        let chosen = target.choices.attentions.get(&self.key()).filter(|t| t.fits(target, self.dim));
        chosen.copied().or_else(|| self.tiles(target).next())
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
