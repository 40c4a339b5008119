//! Gradient of softmax attention: probabilities computed again from the log-sum-exp, nothing of size queries x keys stored, no atomics.
//!
//! One kernel for each [`Side`]: a cube *keeps* a block of rows whose gradients it sums up (queries; keys with their values; context tokens)
//! and walks through the rows that they meet (keys; queries), tile by tile, in order. For query `i` and key `j`:
//!
//! `p = e^(s - l_i)`, `ds = p (g_i v_j - o_i g_i) / sqrt(D)`; `dq_i += ds k_j`; `dk_j += ds q_i`, `dv_j += p g_i`.
//!
//! So the kept and the walked rows are multiplied twice, first of each with first (`q` with `k`) and second with second (`g` with `v`), and
//! weights times walked rows are added up: the same code for every side. As in [`super::attention`] groups are computed, not read. Keys
//! walk through the queries of all frames that see one of the block's keys, which are a run, and hide the pairs that do not meet.
//!
//! Context tokens meet every query of every batch entry, in one fixed order: there are as many cubes as heads and blocks of tokens, each of
//! which walks through all queries. Parts of the queries would need memory for partial sums, which a call does not have; blocks are small
//! there instead (`lower`). The work is that of as many keys as there are context tokens, next to none of a layer's.
//!
//! Units are as in [`super::attention`]: rows of the kept block in place of queries, walked rows in place of keys.
//!
//! Sizes: those of [`super::attention`], where a part is 1; then the strides of the leading dimensions of the result and of its gradient,
//! their first elements and strides of rows and heads, and the first element of the log-sum-exp, which is dense.

// `#[cube]` takes `match` on what is known at compile time, not `if let`.
#![allow(clippy::single_match)]

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::attention::{ROWS, Tile};
use super::attention_grad_rows::{met_queries, of_query, rows, statistics, sum_place};
use super::attention_keys::{FLOOR, HIDDEN, Keys, Source, at, group, source, term};
use super::attention_rows::{dots, fetch, keep, spread};
use super::{Four, store};
use crate::gpu::blueprint::Slot;

/// Whose gradients a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Of the queries.
    Queries,
    /// Of keys and values.
    Keys,
    /// Of the context tokens' keys and values.
    Context,
}

/// A kernel of attention's gradient, cut by a tile of plain arithmetic or of another kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttentionGrad<T = Tile> {
    /// Whose gradients.
    pub side: Side,
    /// The rows that a cube keeps: queries and the result's gradient, or keys and values.
    pub kept: [Slot; 2],
    /// The rows that it walks through: keys and values, or queries and the result's gradient.
    pub walked: [Slot; 2],
    /// Keys and values of the context tokens, where queries walk through them.
    pub context: Option<[Slot; 2]>,
    /// The result of the forward pass.
    pub o: Slot,
    /// Its gradient.
    pub g: Slot,
    /// The log-sum-exp of the scores.
    pub lse: Slot,
    /// Terms added to the scores.
    pub mask: Option<Slot>,
    /// The number of keys.
    pub count: Option<Slot>,
    /// Gradient of the queries or keys.
    pub out: Slot,
    /// Gradient of the values.
    pub values: Option<Slot>,
    /// Which keys a query sees.
    pub keys: Keys,
    /// Leading dimensions.
    pub lead: u32,
    /// The tile; of a plain one `queries` are the rows that are kept, `keys` those that are walked through at a time.
    pub tile: T,
}

impl<T> AttentionGrad<T> {
    /// The same kernel with another tile.
    pub fn cut<U>(self, tile: U) -> AttentionGrad<U> {
        let Self { side, kept, walked, context, o, g, lse, mask, count, out, values, keys, lead, .. } = self;
        AttentionGrad { side, kept, walked, context, o, g, lse, mask, count, out, values, keys, lead, tile }
    }
}

impl AttentionGrad {
    /// Rows of a tile that are queries.
    pub fn queries(side: Side, tile: &Tile) -> u32 {
        if side == Side::Queries { tile.queries } else { tile.keys }
    }

    /// Shared memory, in bytes.
    pub fn shared_bytes(side: Side, tile: &Tile) -> u32 {
        let kept = tile.queries * (8 * tile.query_stride() + tile.score_stride());
        4 * (kept + 4 * tile.keys * tile.key_stride() + Self::queries(side, tile) * (tile.columns + 2))
    }
}

/// The kernel.
#[cube]
pub fn attention_grad<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    ints: &Sequence<Box<[i32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] a: AttentionGrad,
) {
    let (side, tile) = comptime!((a.side, a.tile));
    let lead = comptime!(a.lead as usize);
    let rows_of = comptime!((tile.queries / ROWS) as usize);
    let columns = comptime!((tile.keys / tile.columns) as usize);
    let chunks = comptime!(tile.chunks() as usize);
    let all = comptime!(chunks * tile.channels() as usize);
    let queries = comptime!(AttentionGrad::queries(side, &tile));
    let (x, y) = (UNIT_POS_X, UNIT_POS_Y);

    // Which block this is. A surplus cube keeps nothing and walks nowhere, but meets every barrier.
    let item = CUBE_POS as u32;
    let there = item < *sizes.index(at::CUBES);
    let block = item % *sizes.index(at::BLOCKS);
    let rest = item / *sizes.index(at::BLOCKS);
    let head = rest % *sizes.index(at::HEADS);
    let rest = rest / *sizes.index(at::HEADS);
    let (index, entry) = if comptime!(side == Side::Queries) {
        (rest % *sizes.index(at::GROUPS), rest / *sizes.index(at::GROUPS))
    } else {
        (u32::new(0), rest)
    };
    let group = group(ints, sizes, index, comptime!(a.keys), comptime!(a.count));
    let tokens = *sizes.index(at::CONTEXT);
    let (first, length) = match comptime!(side) {
        Side::Queries => (group.query + block * comptime!(tile.queries), *sizes.index(at::QUERIES)),
        Side::Keys => (block * comptime!(tile.queries), *sizes.index(at::KEYS)),
        Side::Context => (block * comptime!(tile.queries), tokens),
    };
    let end = if comptime!(side == Side::Queries) { group.query_end } else { length };
    let end = select(there, end, 0u32);
    let (from, to) = match comptime!(side) {
        Side::Queries => (u32::new(0), tokens + group.keys),
        Side::Keys => {
            let last = min(first + comptime!(tile.queries), length);
            met_queries(ints, sizes, first, last, comptime!(a.keys), comptime!(a.count))
        }
        Side::Context => (u32::new(0), *sizes.index(at::QUERIES)),
    };
    let to = select(there, to, from);
    let turns = if comptime!(side == Side::Context) { *sizes.index(at::BATCHES) } else { u32::new(1) };

    let mut kept = Shared::<[Four]>::new_slice(comptime!((tile.queries * tile.query_stride()) as usize));
    let mut second = Shared::<[Four]>::new_slice(comptime!((tile.queries * tile.query_stride()) as usize));
    // A chunk of walked rows.
    let mut walked = Shared::<[Four]>::new_slice(comptime!((tile.keys * tile.key_stride()) as usize));
    let mut weights = Shared::<[f32]>::new_slice(comptime!((tile.queries * tile.score_stride()) as usize));
    // What the units of a row tell each other; then log-sum-exp and `o g` of each query of the tile.
    let mut shares = Shared::<[f32]>::new_slice(comptime!((queries * tile.columns) as usize));
    let mut stats = Shared::<[f32]>::new_slice(comptime!((2 * queries) as usize));

    let place = rows(sizes, entry, head, lead, comptime!((side, 0usize)));
    keep::<E>(halves, floats, &mut kept, &place, first, end, 1.0f32, comptime!(a.kept[0]), tile);
    let place = rows(sizes, entry, head, lead, comptime!((side, 1usize)));
    keep::<E>(halves, floats, &mut second, &place, first, end, 1.0f32, comptime!(a.kept[1]), tile);
    if comptime!(side == Side::Queries) {
        statistics::<E>(halves, floats, sizes, &mut shares, &mut stats, entry, head, first, end, comptime!(a.clone()));
    }

    let mut result = Array::<f32>::new(comptime!(rows_of * all));
    let mut values = Array::<f32>::new(comptime!(rows_of * all));
    #[unroll]
    for i in 0..comptime!(rows_of * all) {
        result[i] = 0.0;
        values[i] = 0.0;
    }

    for turn in 0..turns {
        let batch = if comptime!(side == Side::Context) { turn } else { entry };
        let (of_first, of_second) = if comptime!(side == Side::Queries) {
            let keys = source(sizes, batch, head, group.key, comptime!([at::K, at::CK]), lead, 2usize);
            (keys, source(sizes, batch, head, group.key, comptime!([at::V, at::CV]), lead, 3usize))
        } else {
            let queries = rows(sizes, batch, head, lead, comptime!((Side::Queries, 0usize)));
            (queries, rows(sizes, batch, head, lead, comptime!((Side::Queries, 1usize))))
        };
        for t in 0..(to - from).div_ceil(comptime!(tile.keys)) {
            let start = from + t * comptime!(tile.keys);
            if comptime!(side != Side::Queries) {
                let a = comptime!(a.clone());
                statistics::<E>(halves, floats, sizes, &mut shares, &mut stats, batch, head, start, to, a);
            }
            // Products of the second rows, then of the first: those are still there when they are added up.
            let mut slope = Array::<f32>::new(comptime!(rows_of * columns));
            let mut score = Array::<f32>::new(comptime!(rows_of * columns));
            #[unroll]
            for i in 0..comptime!(rows_of * columns) {
                slope[i] = 0.0;
                score[i] = 0.0;
            }
            #[unroll]
            for c in 0..chunks {
                bring::<E>(halves, floats, &mut walked, &of_second, start, to, c, 1usize, comptime!(a.clone()));
                dots(&mut slope, &second, &walked, comptime!(c as u32), tile);
                sync_cube();
            }
            #[unroll]
            for c in 0..chunks {
                bring::<E>(halves, floats, &mut walked, &of_first, start, to, c, 0usize, comptime!(a.clone()));
                dots(&mut score, &kept, &walked, comptime!(c as u32), tile);
                if comptime!(chunks > 1) {
                    sync_cube();
                }
            }
            let scale = f32::new(comptime!(1.0 / (tile.dim as f32).sqrt()));
            #[unroll]
            for j in 0..columns {
                let column = x + comptime!(j as u32 * tile.columns);
                // The other side's row: a key's place among those that the group sees, or a query.
                let other = start + column;
                let mut shared_term = 0.0f32;
                if comptime!(side == Side::Queries) {
                    let (mask, keys) = comptime!((a.mask, a.keys));
                    shared_term = term::<E>(halves, floats, sizes, &group, batch, other, to, mask, keys);
                }
                // Only where keys are kept is it looked at.
                let (keys, count) = comptime!(if side == Side::Keys { (a.keys, a.count) } else { (Keys::All, None) });
                let seen = of_query(ints, sizes, other, keys, count);
                #[unroll]
                for r in 0..rows_of {
                    let row = y + comptime!(r as u32 * ROWS);
                    let mut plus = shared_term;
                    let mut meet = other < to;
                    if comptime!(side == Side::Keys) {
                        let key = first + row - seen.key + tokens;
                        meet = meet && key >= tokens && key < tokens + seen.keys;
                        let end = select(meet, tokens + seen.keys, 0u32);
                        let (mask, keys) = comptime!((a.mask, a.keys));
                        plus = term::<E>(halves, floats, sizes, &seen, batch, key, end, mask, keys);
                    }
                    let query = if comptime!(side == Side::Queries) { row } else { column };
                    let s = select(meet, score[comptime!(r * columns + j)] * scale + plus, f32::new(FLOOR));
                    // NaN is not below anything and goes on to the result.
                    let hidden = s < f32::new(HIDDEN);
                    let p = select(hidden, 0.0f32, (s - stats[query as usize]).exp());
                    let inner = slope[comptime!(r * columns + j)] - stats[(query + queries) as usize];
                    let ds = select(hidden, 0.0f32, p * inner * scale);
                    score[comptime!(r * columns + j)] = p;
                    weights[(row * comptime!(tile.score_stride()) + column) as usize] = ds;
                }
            }
            sync_cube();
            #[unroll]
            for c in 0..chunks {
                if comptime!(chunks > 1) {
                    bring::<E>(halves, floats, &mut walked, &of_first, start, to, c, 0usize, comptime!(a.clone()));
                }
                spread(&mut result, &weights, &walked, comptime!(c as u32), tile);
                sync_cube();
            }
            if comptime!(side != Side::Queries) {
                #[unroll]
                for i in 0..comptime!(rows_of * columns) {
                    let row = y + comptime!((i / columns) as u32 * ROWS);
                    let column = x + comptime!((i % columns) as u32 * tile.columns);
                    weights[(row * comptime!(tile.score_stride()) + column) as usize] = score[i];
                }
                #[unroll]
                for c in 0..chunks {
                    bring::<E>(halves, floats, &mut walked, &of_second, start, to, c, 1usize, comptime!(a.clone()));
                    spread(&mut values, &weights, &walked, comptime!(c as u32), tile);
                    sync_cube();
                }
            }
        }
    }

    #[unroll]
    for r in 0..rows_of {
        let row = first + y + comptime!(r as u32 * ROWS);
        if row < end {
            // Keys past the count are not there, whatever the queries are.
            let limit = if comptime!(a.count.is_some() && side == Side::Keys) { group.keys } else { end };
            let to = sum_place(sizes, entry, length, head, row, 0usize, tile);
            let (skip, slot) = comptime!((r * all, a.out));
            finish::<E>(half_outs, float_outs, &result, to, row < limit, skip, slot, tile);
            match comptime!(a.values) {
                Some(slot) => {
                    let to = sum_place(sizes, entry, length, head, row, 1usize, tile);
                    finish::<E>(half_outs, float_outs, &values, to, row < limit, skip, slot, tile);
                }
                None => {}
            }
        }
    }
}

/// Brings chunk `c` of the walked rows `start ..` to shared memory; `which`: the first or the second of them.
#[cube]
fn bring<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    walked: &mut Shared<[Four]>,
    source: &Source,
    start: u32,
    to: u32,
    #[comptime] c: usize,
    #[comptime] which: usize,
    #[comptime] a: AttentionGrad,
) {
    let (slot, context) = comptime!((a.walked[which], a.context.map(|slots| slots[which])));
    fetch::<E>(halves, floats, walked, source, start, to, comptime!(c as u32), comptime!(a.tile), slot, context);
    sync_cube();
}

/// Stores a unit's channels of one row, `sums[skip ..]`; zeros where the row is not there.
#[cube]
fn finish<E: Float>(
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sums: &Array<f32>,
    to: u32,
    there: bool,
    #[comptime] skip: usize,
    #[comptime] slot: Slot,
    #[comptime] tile: Tile,
) {
    let channels = comptime!(tile.channels() as usize);
    #[unroll]
    for c in 0..comptime!(tile.chunks() as usize) {
        #[unroll]
        for d in 0..channels {
            let inner = UNIT_POS_X + comptime!(d as u32 * tile.columns);
            if inner < comptime!(tile.width(c as u32)) {
                let value = select(there, sums[comptime!(skip + c * channels + d)], 0.0f32);
                let place = (to + inner + comptime!(c as u32 * tile.chunk)) as usize;
                store::<E>(half_outs, float_outs, place, value, slot);
            }
        }
    }
}
