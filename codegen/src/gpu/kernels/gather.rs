//! Elements chosen at run time or by a partition: one element a unit. Outputs are dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::walk::{position, unravel};
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// One row of a table, chosen by a number in memory.
///
/// Sizes: the elements of a row; the number of rows; the stride of rows; the chosen number's position; the dimensions of a row, outermost
/// first; the table's first element and its strides along those dimensions; the output's first element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableRow {
    /// Number of dimensions of a row.
    pub rank: u32,
    /// The rows.
    pub table: Slot,
    /// Position of the number in the list of integer buffers.
    pub chosen: u32,
    /// Where the row goes.
    pub output: Slot,
}

/// The kernel of [`TableRow`]. A number outside the table takes its first or last row: nothing outside is read.
#[cube]
pub fn table_row<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    ints: &Sequence<Box<[i32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] t: TableRow,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    if i < *sizes.index(0) {
        let chosen = ints.index(comptime!(t.chosen as usize))[*sizes.index(3) as usize];
        let row = min(u32::cast_from(max(chosen, 0i32)), *sizes.index(1) - 1);
        let rank = comptime!(t.rank as usize);
        let index = unravel(i, sizes, rank, 4usize);
        let at = position(&index, sizes, rank, comptime!(4 + rank)) + row * *sizes.index(2);
        let value = load::<E>(halves, floats, at as usize, comptime!(t.table));
        let out = *sizes.index(comptime!(5 + 2 * rank)) + i;
        store::<E>(half_outs, float_outs, out as usize, value, comptime!(t.output));
    }
}

/// The keys that each row of a partition sees: `[B, keys, H, D]` to `[B, rows, seen, H, D]`.
///
/// Row `r` sees key `clamp(s + half + j) - half` at place `j`, where `s = clamp(floor((scale r + offset) / divisor) step) - half`: an affine
/// description, kept above zero by `half`.
///
/// Sizes: the elements of the output; `rows`, `seen`, `H`, `D`; `scale`, `offset`, `divisor`, `step`; least and greatest `s + half`; `half`;
/// the number of keys; the input's first element and its four strides; the output's first element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Windows {
    /// The keys.
    pub keys: Slot,
    /// Where the copies go.
    pub output: Slot,
}

/// The kernel of [`Windows`].
#[cube]
pub fn windows<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] w: Windows,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    if i < *sizes.index(0) {
        let (width, heads) = (*sizes.index(4), *sizes.index(3));
        let (seen, rows) = (*sizes.index(2), *sizes.index(1));
        let (channel, rest) = (i % width, i / width);
        let (head, rest) = (rest % heads, rest / heads);
        let (place, rest) = (rest % seen, rest / seen);
        let (row, batch) = (rest % rows, rest / rows);
        let center = (*sizes.index(5) * row + *sizes.index(6)) / *sizes.index(7) * *sizes.index(8);
        let start = min(max(center, *sizes.index(9)), *sizes.index(10));
        let half = *sizes.index(11);
        let key = min(max(start + place, half) - half, *sizes.index(12) - 1);
        let at = *sizes.index(13)
            + batch * *sizes.index(14)
            + key * *sizes.index(15)
            + head * *sizes.index(16)
            + channel * *sizes.index(17);
        let value = load::<E>(halves, floats, at as usize, comptime!(w.keys));
        store::<E>(half_outs, float_outs, (*sizes.index(18) + i) as usize, value, comptime!(w.output));
    }
}
