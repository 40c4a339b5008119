//! Softmax attention over tiles of keys, one pass, keys and values read in place.
//!
//! A cube takes a block of queries of one group, batch and head, and one part of the group's keys. It walks the keys tile by tile, keeps
//! a running maximum and sum for each query, and its results in registers. All queries of a group see the same keys: first the context
//! tokens, if any, then a run of the others that [`Keys`] tells. Nothing is gathered and no table of indices is read. A row whose keys
//! are all hidden gives 0 and the log-sum-exp [`ccl_ir::ops::NO_KEYS`].
//!
//! Units `(x, y)` with `y < `[`ROWS`]: unit `(x, y)` has the queries `y, y + ROWS, ..` of the block, the keys `x, x + columns, ..` of a
//! tile and the channels `x, x + columns, ..` of a chunk.
//!
//! Sizes, by the names in [`super::attention_keys::at`]: the header; then for `q, k, v, ck, cv` the first element and the strides of rows and heads; then the
//! leading dimensions' sizes, outermost first, and the strides along them of `q`, of `k` and of `v`. Mask, result and log-sum-exp are
//! dense.

use ccl_ir::ops::NO_KEYS;
use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::attention_keys::{FLOOR, HIDDEN, Keys, at, group, queries, source, term};
use super::attention_rows::{dots, fetch, keep, spread};
use super::{Four, store};
use crate::gpu::blueprint::Slot;

/// Rows of units in a cube.
pub const ROWS: u32 = 8;

/// What a cube works on at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Channels of a head.
    pub dim: u32,
    /// Queries, a multiple of [`ROWS`].
    pub queries: u32,
    /// Keys, a multiple of `columns` and of [`ROWS`].
    pub keys: u32,
    /// Channels of keys or values that are in shared memory at a time.
    pub chunk: u32,
    /// Units along a row.
    pub columns: u32,
}

impl Tile {
    /// Chunks of a head.
    pub fn chunks(&self) -> u32 {
        self.dim.div_ceil(self.chunk)
    }

    /// Channels of chunk `c`.
    pub fn width(&self, c: u32) -> u32 {
        self.chunk.min(self.dim - c * self.chunk)
    }

    /// Channels of a chunk that one unit has.
    pub fn channels(&self) -> u32 {
        self.chunk.div_ceil(self.columns)
    }

    /// Fours of channels of a chunk that one unit has; the last may have fewer.
    pub fn blocks(&self) -> u32 {
        self.channels().div_ceil(4)
    }

    /// Channels of four `b` of a chunk.
    pub fn in_four(&self, b: u32) -> u32 {
        (self.channels() - 4 * b).min(4)
    }

    /// Distance between queries in shared memory, in fours. Distances are odd, so that a column's elements lie in different banks.
    pub fn query_stride(&self) -> u32 {
        (self.chunks() * self.blocks() * self.columns) | 1
    }

    /// Distance between keys or values in shared memory, in fours.
    pub fn key_stride(&self) -> u32 {
        (self.blocks() * self.columns) | 1
    }

    /// Distance between rows of scores.
    pub fn score_stride(&self) -> u32 {
        self.keys | 1
    }

    /// Shared memory, in bytes.
    pub fn shared_bytes(&self) -> u32 {
        let rows = 4 * self.query_stride() + self.score_stride() + self.columns;
        4 * (self.queries * rows + 4 * self.keys * self.key_stride())
    }
}

/// An attention kernel, cut by a tile of plain arithmetic or of another kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attention<T = Tile> {
    /// Queries.
    pub q: Slot,
    /// Keys.
    pub k: Slot,
    /// Values.
    pub v: Slot,
    /// Keys and values of the context tokens.
    pub context: Option<[Slot; 2]>,
    /// Terms added to the scores.
    pub mask: Option<Slot>,
    /// The number of keys.
    pub count: Option<Slot>,
    /// The result.
    pub out: Slot,
    /// Its log-sum-exp.
    pub lse: Slot,
    /// Which keys a query sees.
    pub keys: Keys,
    /// Leading dimensions.
    pub lead: u32,
    /// The tile.
    pub tile: T,
}

impl<T> Attention<T> {
    /// The same kernel with another tile.
    pub fn cut<U>(self, tile: U) -> Attention<U> {
        let Self { q, k, v, context, mask, count, out, lse, keys, lead, .. } = self;
        Attention { q, k, v, context, mask, count, out, lse, keys, lead, tile }
    }
}

/// The kernel.
#[cube]
pub fn attention<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    ints: &Sequence<Box<[i32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] a: Attention,
) {
    let tile = comptime!(a.tile);
    let rows = comptime!((tile.queries / ROWS) as usize);
    let columns = comptime!((tile.keys / tile.columns) as usize);
    let channels = comptime!(tile.channels() as usize);
    let chunks = comptime!(tile.chunks() as usize);
    let all = comptime!(chunks * channels);
    let (x, y) = (UNIT_POS_X, UNIT_POS_Y);

    // Which block this is. A surplus cube has no queries and no keys, but meets every barrier.
    let item = CUBE_POS as u32;
    let there = item < *sizes.index(at::CUBES);
    let block = item % *sizes.index(at::BLOCKS);
    let rest = item / *sizes.index(at::BLOCKS);
    let part = rest % *sizes.index(at::PARTS);
    let rest = rest / *sizes.index(at::PARTS);
    let head = rest % *sizes.index(at::HEADS);
    let rest = rest / *sizes.index(at::HEADS);
    let index = rest % *sizes.index(at::GROUPS);
    let batch = rest / *sizes.index(at::GROUPS);
    let group = group(ints, sizes, index, comptime!(a.keys), comptime!(a.count));
    let query = group.query + block * comptime!(tile.queries);
    let query_end = select(there, group.query_end, 0u32);
    let tokens = *sizes.index(at::CONTEXT);
    let keys = select(there, tokens + group.keys, 0u32);
    let size = keys.div_ceil(*sizes.index(at::PARTS));
    let from = min(part * size, keys);
    let to = min(part * size + size, keys);

    let mut q = Shared::<[Four]>::new_slice(comptime!((tile.queries * tile.query_stride()) as usize));
    // A tile of keys, then of values.
    let mut kv = Shared::<[Four]>::new_slice(comptime!((tile.keys * tile.key_stride()) as usize));
    let mut scores = Shared::<[f32]>::new_slice(comptime!((tile.queries * tile.score_stride()) as usize));
    // What the units of a row tell each other.
    let mut shares = Shared::<[f32]>::new_slice(comptime!((tile.queries * tile.columns) as usize));

    let lead = comptime!(a.lead as usize);
    let scale = f32::new(comptime!(1.0 / (tile.dim as f32).sqrt()));
    let q_from = queries(sizes, batch, head, lead);
    keep::<E>(halves, floats, &mut q, &q_from, query, query_end, scale, comptime!(a.q), tile);
    let k_from = source(sizes, batch, head, group.key, comptime!([at::K, at::CK]), lead, 2usize);
    let v_from = source(sizes, batch, head, group.key, comptime!([at::V, at::CV]), lead, 3usize);
    let mut result = Array::<f32>::new(comptime!(rows * all));
    let mut top = Array::<f32>::new(rows);
    // A unit sums the weights of its own keys.
    let mut sum = Array::<f32>::new(rows);
    #[unroll]
    for r in 0..rows {
        top[r] = f32::new(FLOOR);
        sum[r] = 0.0;
        #[unroll]
        for d in 0..all {
            result[comptime!(r * all + d)] = 0.0;
        }
    }

    for t in 0..(to - from).div_ceil(comptime!(tile.keys)) {
        let first = from + t * comptime!(tile.keys);
        let mut score = Array::<f32>::new(comptime!(rows * columns));
        #[unroll]
        for i in 0..comptime!(rows * columns) {
            score[i] = 0.0;
        }
        #[unroll]
        for c in 0..chunks {
            let context = comptime!(a.context.map(|slots| slots[0]));
            fetch::<E>(halves, floats, &mut kv, &k_from, first, to, comptime!(c as u32), tile, comptime!(a.k), context);
            sync_cube();
            dots(&mut score, &q, &kv, comptime!(c as u32), tile);
            // The keys are read, before values or other channels take their place.
            sync_cube();
        }
        #[unroll]
        for j in 0..columns {
            let key = first + x + comptime!(j as u32 * tile.columns);
            let term = term::<E>(halves, floats, sizes, &group, batch, key, to, comptime!(a.mask), comptime!(a.keys));
            #[unroll]
            for r in 0..rows {
                let s = score[comptime!(r * columns + j)];
                score[comptime!(r * columns + j)] = select(key < to, s + term, f32::new(FLOOR));
            }
        }
        #[unroll]
        for r in 0..rows {
            let mut most = score[comptime!(r * columns)];
            #[unroll]
            for j in 1..columns {
                most = max(most, score[comptime!(r * columns + j)]);
            }
            let row = y + comptime!(r as u32 * ROWS);
            shares[(row * comptime!(tile.columns) + x) as usize] = most;
        }
        sync_cube();
        #[unroll]
        for r in 0..rows {
            let row = y + comptime!(r as u32 * ROWS);
            let mut most = top[r];
            for i in 0..comptime!(tile.columns) {
                most = max(most, shares[(row * comptime!(tile.columns) + i) as usize]);
            }
            let keep = (top[r] - most).exp();
            top[r] = most;
            sum[r] *= keep;
            #[unroll]
            for d in 0..all {
                result[comptime!(r * all + d)] *= keep;
            }
            #[unroll]
            for j in 0..columns {
                let s = score[comptime!(r * columns + j)];
                // NaN is not below anything and goes on to the result.
                let weight = select(s < f32::new(HIDDEN), 0.0f32, (s - most).exp());
                sum[r] += weight;
                let key = x + comptime!(j as u32 * tile.columns);
                scores[(row * comptime!(tile.score_stride()) + key) as usize] = weight;
            }
        }
        #[unroll]
        for c in 0..chunks {
            let context = comptime!(a.context.map(|slots| slots[1]));
            fetch::<E>(halves, floats, &mut kv, &v_from, first, to, comptime!(c as u32), tile, comptime!(a.v), context);
            sync_cube();
            spread(&mut result, &scores, &kv, comptime!(c as u32), tile);
            sync_cube();
        }
    }

    #[unroll]
    for r in 0..rows {
        let row = y + comptime!(r as u32 * ROWS);
        shares[(row * comptime!(tile.columns) + x) as usize] = sum[r];
    }
    sync_cube();
    // Parts come before the batch.
    let entry = part * *sizes.index(at::BATCHES) + batch;
    #[unroll]
    for r in 0..rows {
        let row = y + comptime!(r as u32 * ROWS);
        let mut total = 0.0f32;
        for i in 0..comptime!(tile.columns) {
            total += shares[(row * comptime!(tile.columns) + i) as usize];
        }
        if query + row < query_end {
            let (query, top) = (query + row, top[r]);
            let a = comptime!(a.clone());
            finish::<E>(half_outs, float_outs, sizes, &result, entry, head, query, top, total, comptime!(r * all), a);
        }
    }
}

/// Stores a unit's channels of one query, `result[skip ..]`, and the log-sum-exp. `total` is the sum of the weights relative to the
/// score `top`, 0 where no key was seen.
#[cube]
fn finish<E: Float>(
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    result: &Array<f32>,
    entry: u32,
    head: u32,
    query: u32,
    top: f32,
    total: f32,
    #[comptime] skip: usize,
    #[comptime] a: Attention,
) {
    let tile = comptime!(a.tile);
    let channels = comptime!(tile.channels() as usize);
    let (heads, queries) = (*sizes.index(at::HEADS), *sizes.index(at::QUERIES));
    let nothing = total == 0.0f32;
    let inverse = select(nothing, 0.0f32, 1.0 / total);
    let out = ((entry * queries + query) * heads + head) * comptime!(tile.dim) + *sizes.index(at::OUT);
    #[unroll]
    for c in 0..comptime!(tile.chunks() as usize) {
        #[unroll]
        for d in 0..channels {
            let inner = UNIT_POS_X + comptime!(d as u32 * tile.columns);
            if inner < comptime!(tile.width(c as u32)) {
                let place = (out + inner + comptime!(c as u32 * tile.chunk)) as usize;
                let value = result[comptime!(skip + c * channels + d)] * inverse;
                store::<E>(half_outs, float_outs, place, value, comptime!(a.out));
            }
        }
    }
    if UNIT_POS_X == 0u32 {
        let place = (entry * heads + head) * queries + query + *sizes.index(comptime!(at::OUT + 1));
        let lse = select(nothing, f32::new(comptime!(NO_KEYS as f32)), top + total.ln());
        store::<E>(half_outs, float_outs, place as usize, lse, comptime!(a.lse));
    }
}
