//! Which keys the queries of a cube see, and where they are: parts of [`super::attention`] and of its gradient.
//!
//! Groups are computed from a partition's numbers as `ccl_ir::partition` defines them, so that no index is stored anywhere.

// `#[cube]` takes `match` on what is known at compile time, not `if let`.
#![allow(clippy::single_match, clippy::collapsible_match)]

use ccl_ir::partition::Edge;
use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::load;
use crate::gpu::blueprint::Slot;

/// A score below all others, and finite: differences of two scores must not be NaN.
pub const FLOOR: f32 = -1e38;
/// Scores below this are of hidden keys.
pub const HIDDEN: f32 = -5e37;

/// Positions in the list of sizes.
pub mod at {
    /// Cubes that have something to do.
    pub const CUBES: usize = 0;
    /// Heads.
    pub const HEADS: usize = 1;
    /// Queries of one batch entry.
    pub const QUERIES: usize = 2;
    /// Keys of one batch entry, without context tokens.
    pub const KEYS: usize = 3;
    /// Batch entries: the product of the leading sizes.
    pub const BATCHES: usize = 4;
    /// Blocks of queries in a group.
    pub const BLOCKS: usize = 5;
    /// Groups of queries: frames of the clip.
    pub const GROUPS: usize = 6;
    /// Parts in which the keys of a group are dealt out.
    pub const PARTS: usize = 7;
    /// Context tokens.
    pub const CONTEXT: usize = 8;
    /// Video tokens of a frame.
    pub const PER_FRAME: usize = 9;
    /// Window size, then its centre's slope, offset and divisor.
    pub const WINDOW: usize = 10;
    /// First element of the mask, then the number of its rows.
    pub const MASK: usize = 14;
    /// Position of the number of keys.
    pub const COUNT: usize = 16;
    /// First element of the result, then of its log-sum-exp.
    pub const OUT: usize = 17;
    /// First element and strides of `q`.
    pub const Q: usize = 19;
    /// Likewise of `k`.
    pub const K: usize = 22;
    /// Likewise of `v`.
    pub const V: usize = 25;
    /// Likewise of the context keys.
    pub const CK: usize = 28;
    /// Likewise of the context values.
    pub const CV: usize = 31;
    /// Leading dimensions.
    pub const LEAD: usize = 34;
}

/// Which keys a query sees besides the context tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// All, or as many as the count says.
    All,
    /// A window of audio tokens for the queries of each frame.
    Windows(Edge),
    /// The video tokens of the query's frame.
    NearestFrame,
}

/// The queries of a group and the run of keys that they see.
#[derive(CubeType)]
pub struct Group {
    /// The first query.
    pub query: u32,
    /// The query after the last.
    pub query_end: u32,
    /// The run's first key.
    pub key: u32,
    /// Keys in the run.
    pub keys: u32,
    /// How often the first key counts.
    pub first: u32,
    /// How often the last key counts; a single key counts `first + last - 1` times.
    pub last: u32,
}

/// Rows of keys or values: those of the context, then a run of the others.
#[derive(CubeType)]
pub struct Source {
    /// First element of the run.
    pub run: u32,
    /// Distance between its rows.
    pub stride: u32,
    /// First element of the context.
    pub context: u32,
    /// Distance between its rows.
    pub context_stride: u32,
    /// Number of context tokens.
    pub tokens: u32,
}

/// First element of a batch entry and head. `operand` is where its sizes are, `number` counts `q, k, v` from 1.
#[cube]
pub fn base(
    sizes: &Sequence<u32>,
    batch: u32,
    head: u32,
    #[comptime] lead: usize,
    #[comptime] operand: usize,
    #[comptime] number: usize,
) -> u32 {
    let mut place = *sizes.index(operand) + head * *sizes.index(comptime!(operand + 2));
    let mut rest = batch;
    #[unroll]
    for i in 0..lead {
        let axis = comptime!(lead - 1 - i);
        let size = *sizes.index(comptime!(at::LEAD + axis));
        place += rest % size * *sizes.index(comptime!(at::LEAD + number * lead + axis));
        rest /= size;
    }
    place
}

/// Where the keys or values of a group are; `operands` tells the sizes of the run's tensor and of the context's.
#[cube]
pub fn source(
    sizes: &Sequence<u32>,
    batch: u32,
    head: u32,
    key: u32,
    #[comptime] operands: [usize; 2],
    #[comptime] lead: usize,
    #[comptime] number: usize,
) -> Source {
    let stride = *sizes.index(comptime!(operands[0] + 1));
    let run = base(sizes, batch, head, lead, comptime!(operands[0]), number) + key * stride;
    let context = *sizes.index(comptime!(operands[1])) + head * *sizes.index(comptime!(operands[1] + 2));
    let context_stride = *sizes.index(comptime!(operands[1] + 1));
    Source { run, stride, context, context_stride, tokens: *sizes.index(at::CONTEXT) }
}

/// Where the queries of a batch entry and head are.
#[cube]
pub fn queries(sizes: &Sequence<u32>, batch: u32, head: u32, #[comptime] lead: usize) -> Source {
    let run = base(sizes, batch, head, lead, at::Q, 1usize);
    Source { run, stride: *sizes.index(comptime!(at::Q + 1)), context: 0u32, context_stride: 0u32, tokens: 0u32 }
}

/// What is added to the scores of a key: the mask, or `ln n` for a key that counts `n` times.
#[cube]
pub fn term<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    group: &Group,
    batch: u32,
    key: u32,
    to: u32,
    #[comptime] mask: Option<Slot>,
    #[comptime] keys: Keys,
) -> f32 {
    let mut term = 0.0f32;
    match comptime!(mask) {
        Some(mask) => {
            if key < to {
                let row = batch % *sizes.index(comptime!(at::MASK + 1));
                let place = *sizes.index(at::MASK) + row * *sizes.index(at::KEYS) + key;
                term = max(load::<E>(halves, floats, place as usize, comptime!(mask)), f32::new(FLOOR));
            }
        }
        None => {}
    }
    match comptime!(keys) {
        Keys::Windows(Edge::Replicate) => {
            // The first key and the last may be the same.
            let tokens = *sizes.index(at::CONTEXT);
            let before = select(key == tokens, group.first - 1u32, 0u32);
            let after = select(key + 1u32 == tokens + group.keys, group.last - 1u32, 0u32);
            term = f32::cast_from(1u32 + before + after).ln();
        }
        _ => {}
    }
    term
}

/// Group `index`, as `ccl_ir::partition` defines it.
#[cube]
pub fn group(
    ints: &Sequence<Box<[i32]>>,
    sizes: &Sequence<u32>,
    index: u32,
    #[comptime] keys: Keys,
    #[comptime] count: Option<Slot>,
) -> Group {
    let length = *sizes.index(at::KEYS);
    let mut group =
        Group { query: 0u32, query_end: *sizes.index(at::QUERIES), key: 0u32, keys: length, first: 1u32, last: 1u32 };
    match comptime!(count) {
        Some(slot) => {
            let place = *sizes.index(at::COUNT) as usize;
            let n = ints.index(comptime!(slot.index as usize))[place];
            // No count reaches beyond the keys.
            group.keys = min(max(n, 0i32) as u32, length);
        }
        None => {}
    }
    match comptime!(keys) {
        Keys::All => {}
        Keys::NearestFrame => {
            let frames = *sizes.index(at::GROUPS);
            let queries = *sizes.index(at::QUERIES);
            group.query = (index * queries).div_ceil(frames);
            group.query_end = min((index * queries + queries).div_ceil(frames), queries);
            group.keys = *sizes.index(at::PER_FRAME);
            group.key = index * group.keys;
        }
        Keys::Windows(edge) => {
            let per = *sizes.index(at::PER_FRAME);
            group.query = index * per;
            group.query_end = index * per + per;
            let size = *sizes.index(at::WINDOW) as i32;
            let centre = *sizes.index(comptime!(at::WINDOW + 1)) * index + *sizes.index(comptime!(at::WINDOW + 2));
            let centre = (centre / *sizes.index(comptime!(at::WINDOW + 3))) as i32;
            let start = centre - size / 2i32;
            let end = length as i32;
            match comptime!(edge) {
                Edge::Shift => {
                    let size = min(size, end);
                    group.key = min(max(start, 0i32), end - size) as u32;
                    group.keys = size as u32;
                }
                Edge::Mask => {
                    let a = min(max(start, 0i32), end);
                    group.key = a as u32;
                    group.keys = (min(max(start + size, a), end) - a) as u32;
                }
                Edge::Replicate => {
                    // Tokens before the clip become its first key, those after it its last.
                    let before = min(max(-start, 0i32), size);
                    let after = min(max(start + size - end, 0i32), size);
                    let a = min(max(start, 0i32), end - 1i32);
                    let b = max(min(max(start + size, 1i32), end), a + 1i32);
                    // A window wholly outside is one key that counts as often as the window has tokens.
                    let inside = before + after < size;
                    group.key = a as u32;
                    group.keys = (b - a) as u32;
                    group.first = select(inside, 1i32 + before, size) as u32;
                    group.last = select(inside, 1i32 + after, 1i32) as u32;
                }
            }
        }
    }
    group
}
