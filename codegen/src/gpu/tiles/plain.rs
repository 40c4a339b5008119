//! Tiles of plain arithmetic, which every GPU has: of products, of attention and of its gradient.

use std::ops::RangeInclusive;

use super::{AttentionProblem, GradProblem, ProductProblem};
use crate::gpu::kernels::attention::{ROWS, Tile};
use crate::gpu::kernels::attention_grad::{AttentionGrad, Side};
use crate::gpu::kernels::product::Tile as ProductTile;
use crate::gpu::target::{Target, Tiles};

/// Widest head: a unit keeps its channels in registers.
pub const WIDEST: u32 = 256;
/// Channels that heads may have.
pub(super) const HEADS: RangeInclusive<u32> = 1..=WIDEST;
/// Most shared memory of a cube of attention, in bytes: kernels that gain by company keep a budget of their own.
const BUDGET: u32 = 48 * 1024;

/// Tiles of products that GPUs are expected to do well with, and how much of their arithmetic they are expected to reach, relatively.
const USUAL: [(ProductTile, u64); 2] = [(square(128, 8, 8), 4), (square(64, 16, 4), 3)];
/// What software adapters take: little to compile.
const SMALL: ProductTile = square(32, 8, 4);
/// Those that some GPU may do better with.
const OTHERS: [ProductTile; 6] =
    [square(128, 16, 8), square(64, 8, 8), square(64, 16, 8), square(64, 32, 4), square(32, 16, 4), SMALL];

const fn square(side: u32, depth: u32, micro: u32) -> ProductTile {
    ProductTile { side, depth, micro }
}

/// The tile that is expected to be best for a product: that by which the busiest multiprocessor has the least to do. Products of a class have the same, so
/// that a clip of another length takes the same kernels.
pub(super) fn product(target: &Target, problem: &ProductProblem) -> ProductTile {
    let ProductProblem { batches, m, n, .. } = problem.class();
    // Elements of the result over the rate; twelve keeps them whole.
    let busiest = |&(tile, rate): &(ProductTile, u64)| {
        let side = u64::from(tile.side);
        let cubes = batches.saturating_mul(m.div_ceil(side)).saturating_mul(n.div_ceil(side));
        cubes.div_ceil(target.multiprocessors() as u64).saturating_mul(side * side * 12 / rate)
    };
    match target.tiles {
        Tiles::Small => SMALL,
        Tiles::Large => USUAL.into_iter().min_by_key(busiest).map_or(USUAL[0].0, |(tile, _)| tile),
    }
}

/// The tiles of a product.
pub fn product_tiles(target: &Target) -> impl Iterator<Item = ProductTile> + use<> {
    let (shared, units) = (target.shared_bytes, target.max_units);
    let all = USUAL.into_iter().map(|(tile, _)| tile).chain(OTHERS);
    all.filter(move |tile| tile.shared_bytes() <= shared && tile.units() <= units)
}

/// How an attention's tiles are tried: units along a row, keys, and the most queries.
#[derive(Clone, Copy)]
struct Shape {
    columns: u32,
    keys: [u32; 2],
    most: usize,
}

/// The tiles of these shapes for heads of `dim` channels, from the largest on. Few queries take few rows; wide heads go through shared memory in chunks, few
/// rather than narrow ones: each costs barriers and code.
fn tiles(dim: u32, queries: usize, of: &Shape, heights: &'static [u32]) -> impl Iterator<Item = Tile> + use<> {
    let Shape { columns, keys, most } = *of;
    let needed = (queries.min(most).next_power_of_two() as u32).max(ROWS);
    heights.iter().copied().filter(move |&n| n <= needed).flat_map(move |queries| {
        let chunks = [1, 2, 4].into_iter().map(move |n| dim.div_ceil(n).next_multiple_of(columns).min(dim));
        // Narrower chunks cost more than a block of twice the queries saves.
        let chunks = chunks.filter(move |&chunk| chunk >= dim.min(32));
        chunks.flat_map(move |chunk| keys.map(|keys| Tile { dim, queries, keys, chunk, columns }))
    })
}

/// Units along a row of a GPU's cube: as many as leave each four channels of a head, which it reads together, where there are so many.
fn columns(dim: u32) -> u32 {
    if dim <= 32 { 8 } else { 16 }
}

/// The tiles with the least in shared memory, for wide heads: chunks without a channel that is not there.
fn least(dim: u32) -> [Tile; 2] {
    [16, 8].map(|keys| Tile { dim, queries: ROWS, keys, chunk: dim.min(32), columns: 8 })
}

/// Blocks of queries of an attention.
const QUERIES: &[u32] = &[32, 16, 8];
/// Blocks of rows of a gradient.
const KEPT: &[u32] = &[16, 8];

/// The shapes of an attention's tiles: what is expected to be best, and what another device may do better with.
fn attention_shapes(target: &Target, dim: u32) -> [Shape; 2] {
    let small = Shape { columns: 8, keys: [16, 8], most: 8 };
    shapes(target, dim, small, Shape { columns: columns(dim), keys: [32, 16], most: 32 })
}

/// Likewise of a gradient's. Context tokens are few and meet many queries: small blocks make more cubes of them.
fn gradient_shapes(target: &Target, side: Side, dim: u32) -> [Shape; 2] {
    let small = Shape { columns: 8, keys: [8, 8], most: 8 };
    let most = if side == Side::Context { 8 } else { 16 };
    shapes(target, dim, small, Shape { columns: columns(dim), keys: [32, 16], most })
}

fn shapes(target: &Target, dim: u32, small: Shape, large: Shape) -> [Shape; 2] {
    match target.tiles {
        Tiles::Small => [small, large],
        // With more channels than eight a unit, kernels take drivers long to compile.
        Tiles::Large => [large, if dim <= 64 { Shape { columns: 8, ..large } } else { large }],
    }
}

/// Shared memory that a cube may have.
fn budget(target: &Target) -> u32 {
    let usual = match target.tiles {
        Tiles::Small => 16 * 1024,
        Tiles::Large => BUDGET,
    };
    target.shared_bytes.min(usual)
}

/// The tile that is expected to be best for an attention; `None` for heads that are too wide. The largest one that has room.
pub(in crate::gpu) fn attention(target: &Target, dim: u32, queries: usize) -> Option<Tile> {
    let [usual, _] = attention_shapes(target, dim);
    let fits = |tile: &Tile| tile.shared_bytes() <= budget(target);
    let all = tiles(dim, queries, &usual, QUERIES).chain(least(dim));
    HEADS.contains(&dim).then_some(all)?.find(fits)
}

/// The tiles of an attention, the one that is expected to be best first.
pub fn attention_tiles(target: &Target, problem: &AttentionProblem) -> impl Iterator<Item = Tile> + use<> {
    let AttentionProblem { dim, queries, .. } = *problem;
    let most = target.shared_bytes.min(BUDGET);
    let others = attention_shapes(target, dim).into_iter().flat_map(move |shape| tiles(dim, queries, &shape, QUERIES));
    let others = others.filter(move |tile| HEADS.contains(&dim) && tile.shared_bytes() <= most);
    first(attention(target, dim, queries), widest(others))
}

/// The tile that is expected to be best for a gradient; `None` for heads that are too wide. The largest one that has room: whole heads rather than more
/// rows, because a chunked head is read twice.
pub(super) fn gradient(target: &Target, problem: &GradProblem) -> Option<Tile> {
    let GradProblem { side, dim, kept, .. } = *problem;
    let [usual, _] = gradient_shapes(target, side, dim);
    let fits = |tile: &Tile| AttentionGrad::shared_bytes(side, tile) <= budget(target);
    let all = tiles(dim, kept, &usual, KEPT).chain(least(dim));
    HEADS.contains(&dim).then_some(all)?.find(fits)
}

/// The tiles of a gradient, the one that is expected to be best first.
pub fn gradient_tiles(target: &Target, problem: &GradProblem) -> impl Iterator<Item = Tile> + use<> {
    let GradProblem { side, dim, kept, .. } = *problem;
    let most = target.shared_bytes.min(BUDGET);
    let others = gradient_shapes(target, side, dim).into_iter().flat_map(move |shape| tiles(dim, kept, &shape, KEPT));
    let others = others.filter(move |tile| HEADS.contains(&dim) && AttentionGrad::shared_bytes(side, tile) <= most);
    first(gradient(target, problem), widest(others))
}

/// Of tiles that differ in their chunks alone the one with the widest, which comes first; half of a head at least.
fn widest(tiles: impl Iterator<Item = Tile>) -> impl Iterator<Item = Tile> {
    let mut kept: Vec<Tile> = Vec::new();
    for tile in tiles.filter(|tile| 2 * tile.chunk >= tile.dim) {
        if kept.iter().all(|k| Tile { chunk: tile.chunk, ..*k } != tile) {
            kept.push(tile);
        }
    }
    kept.into_iter()
}

/// The expected tile, then the others, each once.
fn first(expected: Option<Tile>, others: impl Iterator<Item = Tile>) -> impl Iterator<Item = Tile> {
    let mut list: Vec<Tile> = Vec::new();
    for tile in expected.into_iter().chain(others) {
        if !list.contains(&tile) {
            list.push(tile);
        }
    }
    list.into_iter()
}
