//! Softmax of rows. One cube a row.
//!
//! Sizes: the number of rows; the length of a row; the dimensions that number the rows, outermost first; the input's first element and
//! the strides of those dimensions; the output's first element. Elements of a row are neighbours; the output is dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::reduce::{Fold, reduce};
use super::walk::{position, unravel};
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// A softmax.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Softmax {
    /// Number of dimensions that number the rows.
    pub rank: u32,
    /// Units of a cube, a power of two.
    pub units: u32,
    /// The scores.
    pub x: Slot,
    /// Where the weights go.
    pub output: Slot,
}

/// The kernel.
#[cube]
pub fn softmax<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] s: Softmax,
) {
    let units = comptime!(s.units);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(s.units as usize));
    let (rows, d) = (*sizes.index(0), *sizes.index(1));
    // Surplus cubes read the last row and write nothing: all cubes meet the same barriers.
    let row = min(CUBE_POS as u32, rows - 1);
    let rank = comptime!(s.rank as usize);
    let index = unravel(row, sizes, rank, 2usize);
    let x = position(&index, sizes, rank, comptime!(2 + rank));

    let mut largest = f32::new(comptime!(f32::MIN));
    let mut i = UNIT_POS;
    while i < d {
        largest = max(largest, load::<E>(halves, floats, (x + i) as usize, comptime!(s.x)));
        i += units;
    }
    let largest = reduce(&mut shared, largest, units, comptime!(Fold::Max));
    let mut sum = 0f32;
    let mut i = UNIT_POS;
    while i < d {
        sum += (load::<E>(halves, floats, (x + i) as usize, comptime!(s.x)) - largest).exp();
        i += units;
    }
    let sum = reduce(&mut shared, sum, units, comptime!(Fold::Sum));

    let out = *sizes.index(comptime!(3 + 2 * rank)) + row * d;
    if (CUBE_POS as u32) < rows {
        let mut i = UNIT_POS;
        while i < d {
            let y = (load::<E>(halves, floats, (x + i) as usize, comptime!(s.x)) - largest).exp() / sum;
            store::<E>(half_outs, float_outs, (out + i) as usize, y, comptime!(s.output));
            i += units;
        }
    }
}
