//! Rows of queries, keys and values in shared memory, and the products of a tile of them: parts of [`super::attention`] and of its gradient.
//!
//! A row lies there in fours of channels that are as far apart as a cube has units along a row, so that a unit reads four numbers at a time while
//! neighbouring units load and store neighbouring channels: four `b` of unit `x` has the channels `x + (4 b + e) columns` of a chunk, and zeros
//! where there are none.

// `#[cube]` takes `match` on what is known at compile time, not `if let`.
#![allow(clippy::single_match, clippy::collapsible_match)]

use cubecl::prelude::*;

use super::attention::{ROWS, Tile};
use super::attention_keys::Source;
use super::{Four, load};
use crate::gpu::blueprint::Slot;

/// A unit's four `b` of chunk `c` of the row that begins at `from`, times `scale`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn four<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    from: u32,
    scale: f32,
    c: u32,
    b: u32,
    #[comptime] slot: Slot,
    #[comptime] tile: Tile,
) -> Four {
    let mut four = Four::new(0.0f32);
    let before = c * comptime!(tile.chunk);
    #[unroll]
    for e in 0..4usize {
        let inner = UNIT_POS_X + (4u32 * b + comptime!(e as u32)) * comptime!(tile.columns);
        if inner < comptime!(tile.chunk) && before + inner < comptime!(tile.dim) {
            four.insert(e, load::<E>(halves, floats, (from + before + inner) as usize, slot) * scale);
        }
    }
    four
}

/// Brings the rows `first .. end` to shared memory, times `scale`; 0 behind them.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn keep<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    kept: &mut Shared<[Four]>,
    source: &Source,
    first: u32,
    end: u32,
    scale: f32,
    #[comptime] slot: Slot,
    #[comptime] tile: Tile,
) {
    for i in 0..comptime!(tile.queries / ROWS) {
        let row = UNIT_POS_Y + i * ROWS;
        let from = source.run + (first + row) * source.stride;
        for n in 0..comptime!(tile.chunks() * tile.blocks()) {
            let mut value = Four::new(0.0f32);
            if first + row < end {
                let (c, b) = (n / comptime!(tile.blocks()), n % comptime!(tile.blocks()));
                value = four::<E>(halves, floats, from, scale, c, b, slot, tile);
            }
            let to = row * comptime!(tile.query_stride()) + UNIT_POS_X + n * comptime!(tile.columns);
            kept[to as usize] = value;
        }
    }
}

/// Brings chunk `c` of the keys or values `first ..` to shared memory, 0 for those from `to` on: they are not read.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn fetch<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    kv: &mut Shared<[Four]>,
    source: &Source,
    first: u32,
    to: u32,
    #[comptime] c: u32,
    #[comptime] tile: Tile,
    #[comptime] slot: Slot,
    #[comptime] context: Option<Slot>,
) {
    for i in 0..comptime!(tile.keys / ROWS) {
        let row = UNIT_POS_Y + i * ROWS;
        let key = first + row;
        for b in 0..comptime!(tile.blocks()) {
            let mut value = Four::new(0.0f32);
            if key < to {
                match comptime!(context) {
                    Some(context) => {
                        if key < source.tokens {
                            let from = source.context + key * source.context_stride;
                            value = four::<E>(halves, floats, from, 1.0f32, c.runtime(), b, context, tile);
                        } else {
                            let from = source.run + (key - source.tokens) * source.stride;
                            value = four::<E>(halves, floats, from, 1.0f32, c.runtime(), b, slot, tile);
                        }
                    }
                    None => {
                        let from = source.run + key * source.stride;
                        value = four::<E>(halves, floats, from, 1.0f32, c.runtime(), b, slot, tile);
                    }
                }
            }
            let to = row * comptime!(tile.key_stride()) + UNIT_POS_X + b * comptime!(tile.columns);
            kv[to as usize] = value;
        }
    }
}

/// Adds the products of kept rows with chunk `c` of the walked rows: a unit's rows by its columns.
#[cube]
pub fn dots(
    sums: &mut Array<f32>,
    kept: &Shared<[Four]>,
    walked: &Shared<[Four]>,
    #[comptime] c: u32,
    #[comptime] tile: Tile,
) {
    let full = comptime!(tile.channels() / 4 * tile.columns);
    if comptime!(full > 0) {
        dots_of(sums, kept, walked, c, 0u32, full, 4usize, tile);
    }
    if comptime!(tile.channels() % 4 > 0) {
        dots_of(sums, kept, walked, c, full, tile.columns, comptime!((tile.channels() % 4) as usize), tile);
    }
}

/// The same for `count` fours of the chunk from the `first` on, which have `channels` channels each.
#[cube]
#[allow(clippy::too_many_arguments)]
fn dots_of(
    sums: &mut Array<f32>,
    kept: &Shared<[Four]>,
    walked: &Shared<[Four]>,
    #[comptime] c: u32,
    #[comptime] first: u32,
    #[comptime] count: u32,
    #[comptime] channels: usize,
    #[comptime] tile: Tile,
) {
    let rows = comptime!((tile.queries / ROWS) as usize);
    let columns = comptime!((tile.keys / tile.columns) as usize);
    for i in 0..count {
        let mut other = Sequence::<Four>::new();
        #[unroll]
        for j in 0..columns {
            let row = UNIT_POS_X + comptime!(j as u32 * tile.columns);
            other.push(walked[(row * comptime!(tile.key_stride()) + first + i) as usize]);
        }
        #[unroll]
        for r in 0..rows {
            let row = UNIT_POS_Y + comptime!(r as u32 * ROWS);
            let before = comptime!(c * tile.blocks() * tile.columns + first);
            let value = kept[(row * comptime!(tile.query_stride()) + before + i) as usize];
            #[unroll]
            for j in 0..columns {
                #[unroll]
                for e in 0..channels {
                    sums[comptime!(r * columns + j)] += value.extract(e) * other.index(j).extract(e);
                }
            }
        }
    }
}

/// Adds the walked rows' chunk `c`, weighted: a unit's channels of its rows.
#[cube]
pub fn spread(
    sums: &mut Array<f32>,
    weights: &Shared<[f32]>,
    walked: &Shared<[Four]>,
    #[comptime] c: u32,
    #[comptime] tile: Tile,
) {
    let rows = comptime!((tile.queries / ROWS) as usize);
    let channels = comptime!(tile.channels() as usize);
    let all = comptime!(tile.chunks() as usize * channels);
    for other in 0..comptime!(tile.keys) {
        let mut weight = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            let row = UNIT_POS_Y + comptime!(r as u32 * ROWS);
            weight[r] = weights[(row * comptime!(tile.score_stride()) + other) as usize];
        }
        #[unroll]
        for b in 0..comptime!(tile.blocks()) {
            let from = other * comptime!(tile.key_stride()) + UNIT_POS_X + comptime!(b * tile.columns);
            let value = walked[from as usize];
            #[unroll]
            for e in 0..comptime!(tile.in_four(b) as usize) {
                #[unroll]
                for r in 0..rows {
                    let to = comptime!(r * all + c as usize * channels + 4 * b as usize + e);
                    sums[to] += weight[r] * value.extract(e);
                }
            }
        }
    }
}
