//! Products: their tiles on tensor cores, and what each is expected to take.

use super::RESERVED;
use crate::gpu::target::{Target, TensorCores};
use crate::gpu::tensor::product::{DEPTH, ProductTile};

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

/// Alignments of two factors whose lines begin at multiples of eight elements. Plain arithmetic reads numbers one by one and takes all factors for such.
pub(in crate::gpu) const ALIGNED: [u32; 2] = [8; 2];

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
    /// Whether the copy engine can bring the factors; where it is not asked, whether they are two matrices.
    pub bulk: bool,
}

impl ProductProblem {
    /// The problem of a product's kernel with these sizes.
    pub(super) fn of(row_rank: u32, along: [bool; 2], aligns: [u32; 2], sizes: &[u32]) -> Self {
        let size = |i: usize| sizes.get(i).copied().unwrap_or_default().into();
        let [batches, m, n, k] = [0, 1, 2, 3].map(size);
        Self { batches, m, n, k, along, bulk: Self::is_bulk(batches, row_rank, aligns) }
    }

    /// The problem of these sizes whose factors are named so: `tn`.
    pub(super) fn from_name(sizes: [usize; 4], factors: &str) -> Option<Self> {
        let [batches, m, n, k] = sizes.map(|n| n as u64);
        let along = match factors {
            "tn" => [true, true],
            "tt" => [true, false],
            "nn" => [false, true],
            "nt" => [false, false],
            _ => return None,
        };
        Some(Self { batches, m, n, k, along, bulk: true })
    }

    /// Name of the problem in a file of choices: `1x18480x5120x5120 tn`, as BLAS names the factors.
    pub fn key(&self) -> String {
        let Self { batches, m, n, k, along: [a, b], .. } = self;
        format!("{batches}x{m}x{n}x{k} {}{}", if *a { 't' } else { 'n' }, if *b { 'n' } else { 't' })
    }

    /// The tile that is expected to be fastest; `None` where the target has no tile for it.
    pub(super) fn expected(&self, target: &Target) -> Option<ProductTile> {
        let class = self.class();
        let cycles = |tile: &ProductTile| class.cycles(target, *tile);
        // Sets that take turns are taken where measuring found them faster: what they bring is not known yet.
        self.tiles(target).filter(|t| !t.turns).min_by(|a, b| cycles(a).total_cmp(&cycles(b)))
    }

    /// The problem that stands for all that take the same tile. Tokens are told apart coarsely, so that a clip of another length takes the same
    /// kernels; of a linear map, which is what the copy engine brings with a left factor whose depth is contiguous, columns and depth are a weight's.
    pub(super) fn class(&self) -> Self {
        let of_weight = if self.bulk && self.along[0] { weight_class } else { token_class };
        let [m, n, k] = [token_class(self.m), of_weight(self.n), of_weight(self.k)];
        Self { batches: self.batches.min(2), m, n, k, ..*self }
    }

    /// Whether the copy engine can bring the factors: two matrices whose lines begin at multiples of 16 bytes.
    pub fn is_bulk(batches: u64, row_rank: u32, aligns: [u32; 2]) -> bool {
        batches == 1 && row_rank == 1 && aligns == ALIGNED
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
