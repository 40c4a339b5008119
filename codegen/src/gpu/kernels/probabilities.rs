//! The weights of attention over context tokens and a group's keys, in two passes over the keys.
//!
//! A cube takes a block of queries of one group, batch and head, as in [`super::attention`], whose units and sizes these are, but for the
//! log-sum-exp's place, which has the number of weights of a query and head. The first pass finds each query's largest score and sum, the
//! second computes the scores again and stores the weights: nothing is kept between them, in whatever type weights are stored.

use cubecl::prelude::*;

use super::attention::{Attention, ROWS};
use super::attention_keys::{FLOOR, Group, HIDDEN, Source, at, group, queries, source, term};
use super::attention_rows::{dots, fetch, keep};
use super::{Four, store};

/// The kernel.
#[cube]
pub fn probabilities<E: Float>(
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
    let (x, y) = (UNIT_POS_X, UNIT_POS_Y);

    // Which block this is. A surplus cube has no queries and no keys, but meets every barrier.
    let item = CUBE_POS as u32;
    let there = item < *sizes.index(at::CUBES);
    let block = item % *sizes.index(at::BLOCKS);
    let rest = item / *sizes.index(at::BLOCKS);
    let head = rest % *sizes.index(at::HEADS);
    let rest = rest / *sizes.index(at::HEADS);
    let index = rest % *sizes.index(at::GROUPS);
    let batch = rest / *sizes.index(at::GROUPS);
    let group = group(ints, sizes, index, comptime!(a.keys), comptime!(a.count));
    let query = group.query + block * comptime!(tile.queries);
    let query_end = select(there, group.query_end, 0u32);
    let keys = select(there, *sizes.index(at::CONTEXT) + group.keys, 0u32);

    let mut q = Shared::<[Four]>::new_slice(comptime!((tile.queries * tile.query_stride()) as usize));
    let mut kv = Shared::<[Four]>::new_slice(comptime!((tile.keys * tile.key_stride()) as usize));
    // What the units of a row tell each other.
    let mut tops = Shared::<[f32]>::new_slice(comptime!((tile.queries * tile.columns) as usize));
    let mut sums = Shared::<[f32]>::new_slice(comptime!((tile.queries * tile.columns) as usize));

    let lead = comptime!(a.lead as usize);
    let scale = f32::new(comptime!(1.0 / (tile.dim as f32).sqrt()));
    let q_from = queries(sizes, batch, head, lead);
    keep::<E>(halves, floats, &mut q, &q_from, query, query_end, scale, comptime!(a.q), tile);
    let k_from = source(sizes, batch, head, group.key, comptime!([at::K, at::CK]), lead, 2usize);
    // A unit keeps the largest score of its own keys, and their sum.
    let mut top = Array::<f32>::new(rows);
    let mut sum = Array::<f32>::new(rows);
    #[unroll]
    for r in 0..rows {
        top[r] = f32::new(FLOOR);
        sum[r] = 0.0;
    }
    let mut score = Array::<f32>::new(comptime!(rows * columns));
    for t in 0..keys.div_ceil(comptime!(tile.keys)) {
        let first = t * comptime!(tile.keys);
        scores::<E>(
            halves,
            floats,
            sizes,
            &q,
            &mut kv,
            &k_from,
            &group,
            batch,
            first,
            keys,
            &mut score,
            comptime!(a.clone()),
        );
        #[unroll]
        for r in 0..rows {
            let mut most = top[r];
            #[unroll]
            for j in 0..columns {
                most = max(most, score[comptime!(r * columns + j)]);
            }
            sum[r] *= (top[r] - most).exp();
            top[r] = most;
            #[unroll]
            for j in 0..columns {
                let s = score[comptime!(r * columns + j)];
                // NaN is not below anything and goes on to the result.
                sum[r] += select(s < f32::new(HIDDEN), 0.0f32, (s - most).exp());
            }
        }
    }
    #[unroll]
    for r in 0..rows {
        let row = y + comptime!(r as u32 * ROWS);
        tops[(row * comptime!(tile.columns) + x) as usize] = top[r];
        sums[(row * comptime!(tile.columns) + x) as usize] = sum[r];
    }
    sync_cube();
    #[unroll]
    for r in 0..rows {
        let row = y + comptime!(r as u32 * ROWS);
        let mut most = f32::new(FLOOR);
        for i in 0..comptime!(tile.columns) {
            most = max(most, tops[(row * comptime!(tile.columns) + i) as usize]);
        }
        let mut total = 0.0f32;
        for i in 0..comptime!(tile.columns) {
            let place = (row * comptime!(tile.columns) + i) as usize;
            total += sums[place] * (tops[place] - most).exp();
        }
        top[r] = most;
        sum[r] = total;
    }

    let (heads, all, width) =
        (*sizes.index(at::HEADS), *sizes.index(at::QUERIES), *sizes.index(comptime!(at::OUT + 1)));
    // The rest of a narrower window weighs nothing.
    let wide = select(there, width, 0u32);
    for t in 0..wide.div_ceil(comptime!(tile.keys)) {
        let first = t * comptime!(tile.keys);
        scores::<E>(
            halves,
            floats,
            sizes,
            &q,
            &mut kv,
            &k_from,
            &group,
            batch,
            first,
            keys,
            &mut score,
            comptime!(a.clone()),
        );
        #[unroll]
        for r in 0..rows {
            let row = query + y + comptime!(r as u32 * ROWS);
            #[unroll]
            for j in 0..columns {
                let key = first + x + comptime!(j as u32 * tile.columns);
                if row < query_end && key < width {
                    let s = score[comptime!(r * columns + j)];
                    let weight = select(s < f32::new(HIDDEN), 0.0f32, (s - top[r]).exp() / sum[r]);
                    let place = ((batch * all + row) * width + key) * heads + head + *sizes.index(at::OUT);
                    store::<E>(half_outs, float_outs, place as usize, weight, comptime!(a.out));
                }
            }
        }
    }
}

/// A unit's scores of the keys from `first` on: its queries by its keys; those from `to` on are [`FLOOR`].
#[cube]
#[allow(clippy::too_many_arguments)]
fn scores<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    q: &Shared<[Four]>,
    kv: &mut Shared<[Four]>,
    from: &Source,
    group: &Group,
    batch: u32,
    first: u32,
    to: u32,
    score: &mut Array<f32>,
    #[comptime] a: Attention,
) {
    let tile = comptime!(a.tile);
    let rows = comptime!((tile.queries / ROWS) as usize);
    let columns = comptime!((tile.keys / tile.columns) as usize);
    #[unroll]
    for i in 0..comptime!(rows * columns) {
        score[i] = 0.0;
    }
    #[unroll]
    for c in 0..comptime!(tile.chunks() as usize) {
        let context = comptime!(a.context.map(|slots| slots[0]));
        fetch::<E>(halves, floats, kv, from, first, to, comptime!(c as u32), tile, comptime!(a.k), context);
        sync_cube();
        dots(score, q, &*kv, comptime!(c as u32), tile);
        // The keys are read, before others take their place.
        sync_cube();
    }
    #[unroll]
    for j in 0..columns {
        let key = first + UNIT_POS_X + comptime!(j as u32 * tile.columns);
        let term = term::<E>(halves, floats, sizes, group, batch, key, to, comptime!(a.mask), comptime!(a.keys));
        #[unroll]
        for r in 0..rows {
            let s = score[comptime!(r * columns + j)];
            score[comptime!(r * columns + j)] = select(key < to, s + term, f32::new(FLOOR));
        }
    }
}
