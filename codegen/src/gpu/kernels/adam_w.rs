//! One step of the optimiser on one parameter, and of its average where one is kept: one element a unit, all of them updated in place.
//!
//! What is updated is bound once and read through the binding that is written: CUDA may assume that two bindings are two buffers.
//!
//! Sizes: the number of elements; the first elements of parameter, first moment, second moment, gradient; the positions of the number of
//! steps, of the learning rate and of the gradient's factor; the first element of the average and the position of how far it moves. All are
//! dense.
//!
//! [`crate::gpu::wide::adam_w`] does the same work on CUDA where all is whole by eights.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::load;
use crate::gpu::blueprint::Slot;

/// A step of the optimiser. Numbers are the bits of `f32`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the two moments.
    pub betas: [u32; 2],
    /// One less each.
    pub keeps: [u32; 2],
    /// Their natural logarithms.
    pub logs: [u32; 2],
    /// Added to the root of the second moment.
    pub eps: u32,
    /// Weight decay, times the learning rate.
    pub decay: u32,
    /// Parameter and moments: positions in the list of single precision buffers that are written.
    pub updated: [u32; 3],
    /// The number of steps with this one.
    pub count: Slot,
    /// Gradient.
    pub g: Slot,
    /// Learning rates.
    pub rates: Slot,
    /// A factor on the gradient.
    pub scale: Slot,
    /// The average, where one is kept: its position in the list of single precision buffers that are written, and how far it moves.
    pub average: Option<(u32, Slot)>,
}

/// The kernel.
#[cube]
pub fn adam_w<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] a: AdamW,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    if i < *sizes.index(0) {
        let t = load::<E>(halves, floats, *sizes.index(5) as usize, comptime!(a.count));
        let rate = load::<E>(halves, floats, *sizes.index(6) as usize, comptime!(a.rates));
        let scale = load::<E>(halves, floats, *sizes.index(7) as usize, comptime!(a.scale));
        let step = rate / correction(t, comptime!(a.logs[0]));
        let root = correction(t, comptime!(a.logs[1])).sqrt();

        let g = load::<E>(halves, floats, (*sizes.index(4) + i) as usize, comptime!(a.g)) * scale;
        let at = (*sizes.index(2) + i) as usize;
        let first = float_outs.index_mut(comptime!(a.updated[1] as usize));
        let m = number(comptime!(a.betas[0])) * first[at] + number(comptime!(a.keeps[0])) * g;
        first[at] = m;
        let at = (*sizes.index(3) + i) as usize;
        let second = float_outs.index_mut(comptime!(a.updated[2] as usize));
        let v = number(comptime!(a.betas[1])) * second[at] + number(comptime!(a.keeps[1])) * g * g;
        second[at] = v;
        let at = (*sizes.index(1) + i) as usize;
        let parameter = float_outs.index_mut(comptime!(a.updated[0] as usize));
        let decayed = parameter[at] * (1.0 - rate * number(comptime!(a.decay)));
        let p = decayed - step * m / (v.sqrt() / root + number(comptime!(a.eps)));
        parameter[at] = p;
        if comptime!(a.average.is_some()) {
            let (updated, way) = comptime!(a.average.unwrap());
            let way = load::<E>(halves, floats, *sizes.index(9) as usize, comptime!(way));
            let at = (*sizes.index(8) + i) as usize;
            let average = float_outs.index_mut(comptime!(updated as usize));
            average[at] += (p - average[at]) * way;
        }
    }
}

#[cube]
fn number(#[comptime] bits: u32) -> f32 {
    f32::new(comptime!(f32::from_bits(bits)))
}

/// `1 - beta^t = 1 - e^x` for `x = t ln(beta)`, below zero: by its series near 0, where the difference would lose all digits.
#[cube]
fn correction(t: f32, #[comptime] log: u32) -> f32 {
    let x = t * number(log);
    let mut sum = f32::new(1.0);
    #[unroll]
    for k in 0..11 {
        sum = 1.0 + x * f32::new(comptime!(1.0 / (12 - k) as f32)) * sum;
    }
    select(x > -1.0f32, -x * sum, 1.0 - x.exp())
}
