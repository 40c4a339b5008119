//! Rotary position embedding: one pair of channels a unit.
//!
//! Sizes: the number of pairs; the dimensions that number the pairs, outermost first; for `x` and the table the first element and the
//! strides of those dimensions; the output's first element. The two numbers of a pair are neighbours; the output is dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::walk::{position, unravel};
use super::{load, store};
use crate::gpu::blueprint::Slot;

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rope {
    /// Number of dimensions that number the pairs.
    pub rank: u32,
    /// What is turned.
    pub x: Slot,
    /// Cosines and sines.
    pub table: Slot,
    /// Where the result goes.
    pub output: Slot,
    /// Whether pairs are turned back.
    pub inverse: bool,
}

/// The kernel.
#[cube]
pub fn rope<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] r: Rope,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    if i < *sizes.index(0) {
        let rank = comptime!(r.rank as usize);
        let index = unravel(i, sizes, rank, 1usize);
        let x = position(&index, sizes, rank, comptime!(1 + rank)) as usize;
        let turn = position(&index, sizes, rank, comptime!(2 + 2 * rank)) as usize;
        let even = load::<E>(halves, floats, x, comptime!(r.x));
        let odd = load::<E>(halves, floats, x + 1, comptime!(r.x));
        let cos = load::<E>(halves, floats, turn, comptime!(r.table));
        let sin = load::<E>(halves, floats, turn + 1, comptime!(r.table));
        let sin = if comptime!(r.inverse) { -sin } else { sin };
        let out = (*sizes.index(comptime!(3 + 3 * rank)) + 2 * i) as usize;
        store::<E>(half_outs, float_outs, out, even * cos - odd * sin, comptime!(r.output));
        store::<E>(half_outs, float_outs, out + 1, even * sin + odd * cos, comptime!(r.output));
    }
}
