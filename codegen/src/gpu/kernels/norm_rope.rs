//! RMSNorm of a row, then rotary position embedding per head: what queries and keys go through. One cube a row.
//!
//! Sizes: those of [`super::norm`] with `x` alone; then the number of tokens `L` (row `r` is token `r % L`), the pairs of a
//! head, and the first elements of the weight's and the table's dense data.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::reduce::{Fold, reduce};
use super::walk::{position, unravel};
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// A normalisation with a rotation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NormRope {
    /// Number of dimensions that number the rows.
    pub rank: u32,
    /// Units of a cube, a power of two.
    pub units: u32,
    /// Added to the mean square, by the bits of its `f32`.
    pub eps: u32,
    /// What is normalised and turned.
    pub x: Slot,
    /// Multiplies the normalised row.
    pub weight: Slot,
    /// Cosines and sines.
    pub table: Slot,
    /// Where the result goes.
    pub output: Slot,
}

/// The kernel.
#[cube]
pub fn norm_rope<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] n: NormRope,
) {
    let units = comptime!(n.units);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(n.units as usize));
    let (rows, d) = (*sizes.index(0), *sizes.index(1));
    // Surplus cubes read the last row and write nothing: all cubes meet the same barriers.
    let row = min(CUBE_POS as u32, rows - 1);
    let rank = comptime!(n.rank as usize);
    let index = unravel(row, sizes, rank, 2usize);
    let x = position(&index, sizes, rank, comptime!(2 + rank));
    let rest = comptime!(2 + rank + (rank + 1));
    let out = *sizes.index(rest) + row * d;
    let (length, pairs) = (*sizes.index(comptime!(rest + 1)), *sizes.index(comptime!(rest + 2)));
    let (weight, table) = (*sizes.index(comptime!(rest + 3)), *sizes.index(comptime!(rest + 4)));

    let mut squares = 0f32;
    let mut i = UNIT_POS;
    while i < d {
        let y = load::<E>(halves, floats, (x + i) as usize, comptime!(n.x));
        squares += y * y;
        i += units;
    }
    let mean = reduce(&mut shared, squares, units, comptime!(Fold::Sum)) / f32::cast_from(d);
    let factor = 1.0 / (mean + f32::new(comptime!(f32::from_bits(n.eps)))).sqrt();
    if (CUBE_POS as u32) < rows {
        let turns = table + row % length * pairs * 2;
        let mut pair = UNIT_POS;
        while pair < d / 2 {
            let at = 2 * pair;
            let even = load::<E>(halves, floats, (x + at) as usize, comptime!(n.x))
                * factor
                * load::<E>(halves, floats, (weight + at) as usize, comptime!(n.weight));
            let odd = load::<E>(halves, floats, (x + at + 1) as usize, comptime!(n.x))
                * factor
                * load::<E>(halves, floats, (weight + at + 1) as usize, comptime!(n.weight));
            let turn = (turns + pair % pairs * 2) as usize;
            let cos = load::<E>(halves, floats, turn, comptime!(n.table));
            let sin = load::<E>(halves, floats, turn + 1, comptime!(n.table));
            store::<E>(half_outs, float_outs, (out + at) as usize, even * cos - odd * sin, comptime!(n.output));
            store::<E>(half_outs, float_outs, (out + at + 1) as usize, even * sin + odd * cos, comptime!(n.output));
            pair += units;
        }
    }
}
