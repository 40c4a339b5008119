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
        let start = start(row, sizes);
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

/// The adjoint of [`Windows`]: `[B, rows, seen, H, D]` to `[B, keys, H, D]`. Each element adds up what its key has in the rows, in their
/// order; it looks at every row, which is much for clips of many rows. (CCA's own gradient does not gather.)
///
/// Sizes: those of [`Windows`]; the input's strides are five.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scatter {
    /// What the rows have.
    pub rows: Slot,
    /// Where the sums go.
    pub output: Slot,
}

/// The kernel of [`Scatter`].
#[cube]
pub fn scatter<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] s: Scatter,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    if i < *sizes.index(0) {
        let (width, heads) = (*sizes.index(4), *sizes.index(3));
        let (seen, keys) = (*sizes.index(2), *sizes.index(12));
        let (channel, rest) = (i % width, i / width);
        let (head, rest) = (rest % heads, rest / heads);
        let (key, batch) = (rest % keys, rest / keys);
        let first = *sizes.index(13) + batch * *sizes.index(14) + head * *sizes.index(17) + channel * *sizes.index(18);
        let place = key + *sizes.index(11);
        let mut sum = 0f32;
        for row in 0..*sizes.index(1) {
            let start = start(row, sizes);
            // Places before the first key are the first key's, those behind the last the last one's.
            let from = select(key == 0u32, 0u32, min(max(place, start) - start, seen));
            let to = select(key + 1u32 == keys, seen, min(max(place + 1u32, start) - start, seen));
            for j in from..to {
                let at = first + row * *sizes.index(15) + j * *sizes.index(16);
                sum += load::<E>(halves, floats, at as usize, comptime!(s.rows));
            }
        }
        store::<E>(half_outs, float_outs, (*sizes.index(19) + i) as usize, sum, comptime!(s.output));
    }
}

/// First place of a row, kept above zero by half a window, as [`Windows`] defines it.
#[cube]
fn start(row: u32, sizes: &Sequence<u32>) -> u32 {
    let center = (*sizes.index(5) * row + *sizes.index(6)) / *sizes.index(7) * *sizes.index(8);
    min(max(center, *sizes.index(9)), *sizes.index(10))
}
