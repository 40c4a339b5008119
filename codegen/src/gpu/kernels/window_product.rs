//! The backward pass of weights times a window's values, as products: one square tile of the result a cube, as in [`super::product`], whose
//! factors lie where a partition says.
//!
//! With rows `g` of the queries, values `u` of the keys and weights `p` of both, [`Side::Weights`] computes `p = g uᵀ` for the keys of each
//! query's window and 0 behind a narrower one, [`Side::Values`] `u = Σ pᵀ g` over the queries that see a key, in their order. Groups are
//! computed as in attention.
//!
//! Sizes: those of [`super::attention`] up to the windows, where blocks are tiles of rows, parts are tiles of columns, and in place of the
//! context is the number of rows of a query; then the columns of the result, the depth of a product of rows and values, one that is not used,
//! the first element of the result, which is dense; then of each factor the first element and the strides of batch, query or key, row or head,
//! and the last dimension.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::attention_grad_rows::{met_queries, of_query};
use super::attention_keys::{Keys, at, group};
use super::product::Tile;
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// Rows `R` of a query.
const ROWS: usize = at::CONTEXT;
/// Columns of the result.
const COLUMNS: usize = at::MASK;
/// Depth of a product of rows and values.
const DEPTH: usize = at::MASK + 1;
/// The left factor.
const LEFT: usize = at::OUT + 1;
/// The right factor.
const RIGHT: usize = LEFT + 5;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Weights, from rows on the left and values on the right.
    Weights,
    /// Values, from weights on the left and rows on the right.
    Values,
}

/// A product over a partition's windows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowProduct {
    /// What is computed.
    pub side: Side,
    /// The left factor.
    pub left: Slot,
    /// The right factor.
    pub right: Slot,
    /// Where the result goes.
    pub output: Slot,
    /// Which keys a query sees.
    pub keys: Keys,
    /// How the work is cut.
    pub tile: Tile,
}

/// The kernel.
#[cube]
pub fn window_product<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    ints: &Sequence<Box<[i32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] w: WindowProduct,
) {
    let side = comptime!(w.tile.side);
    let depth = comptime!(w.tile.depth);
    let micro = comptime!(w.tile.micro as usize);
    let across = comptime!(w.tile.across());
    let lines = comptime!(w.tile.units() / w.tile.depth);
    let loads = comptime!((side / lines) as usize);
    let pitch = comptime!(side + 1);
    let of_weights = comptime!(w.side == Side::Weights);

    let mut left = Shared::<[f32]>::new_slice(comptime!((depth * pitch) as usize));
    let mut right = Shared::<[f32]>::new_slice(comptime!((depth * pitch) as usize));

    let item = CUBE_POS as u32;
    let there = item < *sizes.index(at::CUBES);
    let column_tiles = *sizes.index(at::PARTS);
    let row_tiles = *sizes.index(at::BLOCKS);
    let first_column = item % column_tiles * side;
    let first_row = item / column_tiles % row_tiles * side;
    let rest = item / column_tiles / row_tiles;
    let (index, batch) = if of_weights {
        (rest % *sizes.index(at::GROUPS), rest / *sizes.index(at::GROUPS))
    } else {
        (u32::new(0), rest)
    };
    let (heads, of_query_rows) = (*sizes.index(at::HEADS), *sizes.index(ROWS));
    let length = *sizes.index(at::KEYS);

    // Weights: the queries of a group, against the keys that it sees. Values: all keys, against the queries that see one of the tile's.
    let own = group(ints, sizes, index, comptime!(if of_weights { w.keys } else { Keys::All }), comptime!(None));
    let (from, to) = if of_weights {
        (u32::new(0), u32::new(0))
    } else {
        let end = min((first_row + side - 1u32) / heads + 1u32, length);
        met_queries(ints, sizes, first_row / heads, end, comptime!(w.keys), comptime!(None))
    };
    let (all_rows, before) = if of_weights {
        // A frame may have no queries.
        let queries = max(own.query_end, own.query) - own.query;
        (queries * of_query_rows, (batch * *sizes.index(at::QUERIES) + own.query) * of_query_rows)
    } else {
        (length * heads, batch * length * heads)
    };
    let columns = *sizes.index(COLUMNS);
    let rows = select(there, all_rows, 0u32);
    let k = if of_weights { *sizes.index(DEPTH) } else { (to - from) * of_query_rows };
    let k = select(there, k, 0u32);

    let line = UNIT_POS / depth;
    let along = UNIT_POS % depth;
    let mut sums = Array::<f32>::new(comptime!(micro * micro));
    #[unroll]
    for c in 0..comptime!(micro * micro) {
        sums[c] = 0f32;
    }
    let x = UNIT_POS % across;
    let y = UNIT_POS / across;
    for s in 0..k.div_ceil(depth) {
        let z = s * depth + along;
        let inside = z < k;
        // Of values: the query at this depth, its row, and the keys that it sees.
        let (query, row_of_query) = (from + z / of_query_rows, z % of_query_rows);
        let seen =
            of_query(ints, sizes, query, comptime!(if of_weights { Keys::All } else { w.keys }), comptime!(None));
        #[unroll]
        for l in 0..loads {
            let offset = line + comptime!(l as u32 * lines);
            let (row, column) = (first_row + offset, first_column + offset);
            let mut a = 0f32;
            let mut b = 0f32;
            if of_weights {
                if row < rows && inside {
                    let (query, r) = (own.query + row / of_query_rows, row % of_query_rows);
                    a = factor::<E>(halves, floats, sizes, batch, query, r, z, LEFT, comptime!(w.left));
                }
                if column < own.keys * heads && inside {
                    let key = own.key + column / heads;
                    b = factor::<E>(halves, floats, sizes, batch, key, column % heads, z, RIGHT, comptime!(w.right));
                }
            } else {
                let key = row / heads;
                if row < rows && inside && key >= seen.key && key < seen.key + seen.keys {
                    let weight = (key - seen.key) * heads + row % heads;
                    a = factor::<E>(halves, floats, sizes, batch, query, row_of_query, weight, LEFT, comptime!(w.left));
                }
                if column < columns && inside {
                    b = factor::<E>(
                        halves,
                        floats,
                        sizes,
                        batch,
                        query,
                        row_of_query,
                        column,
                        RIGHT,
                        comptime!(w.right),
                    );
                }
            }
            let to = (along * pitch + offset) as usize;
            left[to] = a;
            right[to] = b;
        }
        sync_cube();
        for q in 0..depth {
            let mut a = Sequence::<f32>::new();
            let mut b = Sequence::<f32>::new();
            #[unroll]
            for c in 0..micro {
                a.push(left[(q * pitch + y + comptime!(c as u32 * across)) as usize]);
                b.push(right[(q * pitch + x + comptime!(c as u32 * across)) as usize]);
            }
            #[unroll]
            for i in 0..micro {
                #[unroll]
                for j in 0..micro {
                    sums[comptime!(i * micro + j)] += *a.index(i) * *b.index(j);
                }
            }
        }
        sync_cube();
    }

    #[unroll]
    for i in 0..micro {
        #[unroll]
        for j in 0..micro {
            let row = first_row + y + comptime!(i as u32 * across);
            let column = first_column + x + comptime!(j as u32 * across);
            if row < rows && column < columns {
                let out = *sizes.index(at::OUT) + (before + row) * columns + column;
                store::<E>(half_outs, float_outs, out as usize, sums[comptime!(i * micro + j)], comptime!(w.output));
            }
        }
    }
}

/// An element of a factor: of a batch entry, a query or key, a row or head, and the last dimension.
#[cube]
#[allow(clippy::too_many_arguments)]
fn factor<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    batch: u32,
    token: u32,
    row: u32,
    last: u32,
    #[comptime] from: usize,
    #[comptime] slot: Slot,
) -> f32 {
    let place = *sizes.index(from)
        + batch * *sizes.index(comptime!(from + 1))
        + token * *sizes.index(comptime!(from + 2))
        + row * *sizes.index(comptime!(from + 3))
        + last * *sizes.index(comptime!(from + 4));
    load::<E>(halves, floats, place as usize, slot)
}
