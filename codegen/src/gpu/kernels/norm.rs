//! Normalisation of rows: LayerNorm, RMSNorm and the modulated LayerNorm. One cube a row.
//!
//! Sizes: the number of rows; the length of a row; the dimensions that number the rows, outermost first; for `x`, the scale and the
//! shift, as far as they are there, the first element and the strides of those dimensions; the output's first element. Elements of a
//! row are neighbours in every operand; the output is dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::reduce::{Fold, reduce};
use super::walk::{position, unravel};
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// A normalisation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Norm {
    /// Number of dimensions that number the rows.
    pub rank: u32,
    /// Units of a cube, a power of two.
    pub units: u32,
    /// Whether the mean is taken away first: LayerNorm, not RMSNorm.
    pub centered: bool,
    /// Added to the variance, by the bits of its `f32`.
    pub eps: u32,
    /// What is normalised.
    pub x: Slot,
    /// Multiplies the result.
    pub scale: Option<Slot>,
    /// Whether one is added to the scale.
    pub one_plus: bool,
    /// Added to the result.
    pub shift: Option<Slot>,
    /// Where the result goes.
    pub output: Slot,
}

/// The kernel.
#[cube]
pub fn norm<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] n: Norm,
) {
    let units = comptime!(n.units);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(n.units as usize));
    let (rows, d) = (*sizes.index(0), *sizes.index(1));
    // Surplus cubes read the last row and write nothing: all cubes meet the same barriers.
    let row = min(CUBE_POS as u32, rows - 1);
    let rank = comptime!(n.rank as usize);
    let index = unravel(row, sizes, rank, 2usize);
    let x = position(&index, sizes, rank, comptime!(2 + rank));

    let mut mean = 0f32;
    if comptime!(n.centered) {
        let mut sum = 0f32;
        let mut i = UNIT_POS;
        while i < d {
            sum += load::<E>(halves, floats, (x + i) as usize, comptime!(n.x));
            i += units;
        }
        mean = reduce(&mut shared, sum, units, comptime!(Fold::Sum)) / f32::cast_from(d);
    }
    let mut squares = 0f32;
    let mut i = UNIT_POS;
    while i < d {
        let y = load::<E>(halves, floats, (x + i) as usize, comptime!(n.x)) - mean;
        squares += y * y;
        i += units;
    }
    let variance = reduce(&mut shared, squares, units, comptime!(Fold::Sum)) / f32::cast_from(d);
    let factor = 1.0 / (variance + f32::new(comptime!(f32::from_bits(n.eps)))).sqrt();

    let scale = position(&index, sizes, rank, comptime!(2 + rank + usize::from(n.scale.is_some()) * (rank + 1)));
    let operands = comptime!(1 + usize::from(n.scale.is_some()) + usize::from(n.shift.is_some()));
    let shift = position(&index, sizes, rank, comptime!(2 + rank + (operands - 1) * (rank + 1)));
    let out = *sizes.index(comptime!(2 + rank + operands * (rank + 1))) + row * d;
    if (CUBE_POS as u32) < rows {
        let mut i = UNIT_POS;
        while i < d {
            let y = (load::<E>(halves, floats, (x + i) as usize, comptime!(n.x)) - mean) * factor;
            let by = match comptime!(n.scale) {
                Some(slot) => load::<E>(halves, floats, (scale + i) as usize, comptime!(slot)),
                None => f32::new(1.0),
            };
            let by = if comptime!(n.one_plus) { by + 1.0 } else { by };
            let plus = match comptime!(n.shift) {
                Some(slot) => load::<E>(halves, floats, (shift + i) as usize, comptime!(slot)),
                None => f32::new(0.0),
            };
            let y = y * by + plus;
            store::<E>(half_outs, float_outs, (out + i) as usize, y, comptime!(n.output));
            i += units;
        }
    }
}
