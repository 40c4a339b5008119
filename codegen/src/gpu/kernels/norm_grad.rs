//! Gradient of a normalisation to its input, and the rows' statistics. One cube a row.
//!
//! Sizes: those of [`super::norm`] with `x`, the gradient and, where there is one, the factor as operands; then the first element of the
//! statistics, which are dense: mean and reciprocal deviation of each row.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::reduce::{Fold, reduce};
use super::walk::{position, unravel};
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// The gradient of a normalisation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NormGrad {
    /// Number of dimensions that number the rows.
    pub rank: u32,
    /// Units of a cube, a power of two.
    pub units: u32,
    /// Whether the mean was taken away: LayerNorm, not RMSNorm.
    pub centered: bool,
    /// Added to the variance, by the bits of its `f32`.
    pub eps: u32,
    /// What was normalised.
    pub x: Slot,
    /// Gradient of the result.
    pub g: Slot,
    /// Multiplied the result.
    pub factor: Option<Slot>,
    /// Whether one was added to the factor.
    pub one_plus: bool,
    /// Where the gradient of `x` goes.
    pub output: Slot,
    /// Where mean and reciprocal deviation go.
    pub stats: Slot,
}

/// The kernel.
#[cube]
pub fn norm_grad<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] n: NormGrad,
) {
    let units = comptime!(n.units);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(n.units as usize));
    let (rows, d) = (*sizes.index(0), *sizes.index(1));
    // Surplus cubes read the last row and write nothing: all cubes meet the same barriers.
    let row = min(CUBE_POS as u32, rows - 1);
    let rank = comptime!(n.rank as usize);
    let index = unravel(row, sizes, rank, 2usize);
    let x = position(&index, sizes, rank, comptime!(2 + rank));
    let g = position(&index, sizes, rank, comptime!(3 + 2 * rank));
    let operands = comptime!(2 + usize::from(n.factor.is_some()));
    let factor = position(&index, sizes, rank, comptime!(2 + rank + (operands - 1) * (rank + 1)));
    let width = f32::cast_from(d);

    let mut mean = 0f32;
    if comptime!(n.centered) {
        let mut sum = 0f32;
        let mut i = UNIT_POS;
        while i < d {
            sum += load::<E>(halves, floats, (x + i) as usize, comptime!(n.x));
            i += units;
        }
        mean = reduce(&mut shared, sum, units, comptime!(Fold::Sum)) / width;
    }
    let mut squares = 0f32;
    let mut i = UNIT_POS;
    while i < d {
        let y = load::<E>(halves, floats, (x + i) as usize, comptime!(n.x)) - mean;
        squares += y * y;
        i += units;
    }
    let variance = reduce(&mut shared, squares, units, comptime!(Fold::Sum)) / width;
    let r = 1.0 / (variance + f32::new(comptime!(f32::from_bits(n.eps)))).sqrt();

    // Sums of the scaled gradient, and of its products with the normalised row.
    let mut sum = 0f32;
    let mut dot = 0f32;
    let mut i = UNIT_POS;
    while i < d {
        let y = (load::<E>(halves, floats, (x + i) as usize, comptime!(n.x)) - mean) * r;
        let scaled = gradient::<E>(halves, floats, g + i, factor + i, comptime!(n.clone()));
        sum += scaled;
        dot += scaled * y;
        i += units;
    }
    let dot = reduce(&mut shared, dot, units, comptime!(Fold::Sum)) / width;
    let mut offset = 0f32;
    if comptime!(n.centered) {
        offset = reduce(&mut shared, sum, units, comptime!(Fold::Sum)) / width;
    }

    let rest = comptime!(2 + rank + operands * (rank + 1));
    let out = *sizes.index(rest) + row * d;
    if (CUBE_POS as u32) < rows {
        let mut i = UNIT_POS;
        while i < d {
            let y = (load::<E>(halves, floats, (x + i) as usize, comptime!(n.x)) - mean) * r;
            let scaled = gradient::<E>(halves, floats, g + i, factor + i, comptime!(n.clone()));
            let value = r * (scaled - offset - y * dot);
            store::<E>(half_outs, float_outs, (out + i) as usize, value, comptime!(n.output));
            i += units;
        }
        if UNIT_POS == 0u32 {
            let stats = (*sizes.index(comptime!(rest + 1)) + 2 * row) as usize;
            store::<E>(half_outs, float_outs, stats, mean, comptime!(n.stats));
            store::<E>(half_outs, float_outs, stats + 1, r, comptime!(n.stats));
        }
    }
}

/// The gradient of the normalised row: that of the result times the factor.
#[cube]
fn gradient<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    g: u32,
    factor: u32,
    #[comptime] n: NormGrad,
) -> f32 {
    let by = match comptime!(n.factor) {
        Some(slot) => load::<E>(halves, floats, factor as usize, comptime!(slot)),
        None => f32::new(1.0),
    };
    let by = if comptime!(n.one_plus && n.factor.is_some()) { by + 1.0 } else { by };
    load::<E>(halves, floats, g as usize, comptime!(n.g)) * by
}
