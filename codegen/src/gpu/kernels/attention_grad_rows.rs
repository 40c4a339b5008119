//! Rows of [`super::attention_grad`]: where they are, and which meet.

use cubecl::prelude::*;

use super::attention::{ROWS, Tile};
use super::attention_grad::{AttentionGrad, Side};
use super::attention_keys::{Group, Keys, Source, at, base, group};
use super::load;
use crate::gpu::blueprint::Slot;

/// Where the sizes of the result are, its gradient's behind them, and the first element of the log-sum-exp, for `lead` leading dimensions.
pub fn result_at(lead: usize) -> usize {
    at::LEAD + 6 * lead
}

/// The rows of a batch entry and head: of a side's first or second operand.
#[cube]
pub fn rows(
    sizes: &Sequence<u32>,
    batch: u32,
    head: u32,
    #[comptime] lead: usize,
    #[comptime] which: (Side, usize),
) -> Source {
    let (operand, number) = comptime!(match which {
        (Side::Queries, 0) => (at::Q, 1usize),
        (Side::Queries, _) => (result_at(lead) + 3, 5usize),
        (Side::Keys, 0) => (at::K, 2usize),
        (Side::Keys, _) => (at::V, 3usize),
        (Side::Context, 0) => (at::CK, 0usize),
        (Side::Context, _) => (at::CV, 0usize),
    });
    let run = if comptime!(which.0 == Side::Context) {
        *sizes.index(operand) + head * *sizes.index(comptime!(operand + 2))
    } else {
        base(sizes, batch, head, lead, operand, number)
    };
    Source { run, stride: *sizes.index(comptime!(operand + 1)), context: 0u32, context_stride: 0u32, tokens: 0u32 }
}

/// For the queries `first .. end` of a tile: the log-sum-exp, and behind it the sum of result times gradient. Ends with a barrier.
#[cube]
pub fn statistics<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    shares: &mut Shared<[f32]>,
    stats: &mut Shared<[f32]>,
    batch: u32,
    head: u32,
    first: u32,
    end: u32,
    #[comptime] a: AttentionGrad,
) {
    let (tile, lead) = comptime!((a.tile, a.lead as usize));
    let queries = comptime!(AttentionGrad::queries(a.side, &a.tile));
    let result = base(sizes, batch, head, lead, comptime!(result_at(lead)), 4usize);
    let gradient = rows(sizes, batch, head, lead, comptime!((Side::Queries, 1usize)));
    for i in 0..comptime!(queries / ROWS) {
        let row = UNIT_POS_Y + i * ROWS;
        let mut sum = 0.0f32;
        if first + row < end {
            let o = result + (first + row) * *sizes.index(comptime!(result_at(lead) + 1));
            let g = gradient.run + (first + row) * gradient.stride;
            for j in 0..comptime!(tile.dim.div_ceil(tile.columns)) {
                let d = UNIT_POS_X + j * comptime!(tile.columns);
                if d < comptime!(tile.dim) {
                    sum += load::<E>(halves, floats, (o + d) as usize, comptime!(a.o))
                        * load::<E>(halves, floats, (g + d) as usize, comptime!(a.g));
                }
            }
        }
        shares[(row * comptime!(tile.columns) + UNIT_POS_X) as usize] = sum;
    }
    sync_cube();
    if UNIT_POS_X == 0u32 {
        for i in 0..comptime!(queries / ROWS) {
            let row = UNIT_POS_Y + i * ROWS;
            let mut total = 0.0f32;
            for j in 0..comptime!(tile.columns) {
                total += shares[(row * comptime!(tile.columns) + j) as usize];
            }
            let mut lse = 0.0f32;
            if first + row < end {
                let entry = batch * *sizes.index(at::HEADS) + head;
                let place =
                    entry * *sizes.index(at::QUERIES) + first + row + *sizes.index(comptime!(result_at(lead) + 6));
                lse = load::<E>(halves, floats, place as usize, comptime!(a.lse));
            }
            stats[row as usize] = lse;
            stats[(queries + row) as usize] = total;
        }
    }
    sync_cube();
}

/// The keys that one query sees.
#[cube]
pub fn of_query(
    ints: &Sequence<Box<[i32]>>,
    sizes: &Sequence<u32>,
    query: u32,
    #[comptime] keys: Keys,
    #[comptime] count: Option<Slot>,
) -> Group {
    let index = match comptime!(keys) {
        Keys::All => u32::new(0),
        Keys::Windows(_) => query / *sizes.index(at::PER_FRAME),
        // Queries behind the last are hidden; their product could be too large.
        Keys::NearestFrame => {
            let queries = *sizes.index(at::QUERIES);
            min(query, queries) * *sizes.index(at::GROUPS) / queries
        }
    };
    group(ints, sizes, index, keys, count)
}

/// From which query to which (behind the last) the keys `first .. end` may be seen: those between see one of them or none.
#[cube]
pub fn met_queries(
    ints: &Sequence<Box<[i32]>>,
    sizes: &Sequence<u32>,
    first: u32,
    end: u32,
    #[comptime] keys: Keys,
    #[comptime] count: Option<Slot>,
) -> (u32, u32) {
    let queries = *sizes.index(at::QUERIES);
    match comptime!(keys) {
        Keys::All => (u32::new(0), queries),
        Keys::NearestFrame => {
            let (frames, per) = (*sizes.index(at::GROUPS), *sizes.index(at::PER_FRAME));
            let from = (first / per * queries).div_ceil(frames);
            let to = ((max(end, 1u32) - 1u32) / per * queries + queries).div_ceil(frames);
            (min(from, queries), max(min(to, queries), min(from, queries)))
        }
        Keys::Windows(_) => {
            // Windows move on with the frames: those that overlap the block are neighbours.
            let mut from = 0u32;
            let mut to = 0u32;
            for frame in 0..*sizes.index(at::GROUPS) {
                let seen = group(ints, sizes, frame, keys, count);
                if seen.key < end && seen.key + seen.keys > first {
                    from = select(to == 0u32, seen.query, from);
                    to = seen.query_end;
                }
            }
            (from, to)
        }
    }
}

/// First element of a row of the first or second output, which are dense.
#[cube]
pub fn sum_place(
    sizes: &Sequence<u32>,
    entry: u32,
    length: u32,
    head: u32,
    row: u32,
    #[comptime] output: usize,
    #[comptime] tile: Tile,
) -> u32 {
    let rows = (entry * length + row) * *sizes.index(at::HEADS) + head;
    rows * comptime!(tile.dim) + *sizes.index(comptime!(at::OUT + output))
}
