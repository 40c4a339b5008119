//! Partial attention results put together: one element a unit.
//!
//! Sizes: elements of the result; parts; queries, heads and channels of a head; first elements of the partial results, their
//! log-sum-exp, the result and its log-sum-exp. All are dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::{load, store};
use crate::gpu::blueprint::Slot;

/// A merge kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Merge {
    /// Partial results.
    pub parts: Slot,
    /// Their log-sum-exp.
    pub sums: Slot,
    /// The result.
    pub out: Slot,
    /// Its log-sum-exp.
    pub lse: Slot,
}

/// The kernel.
#[cube]
pub fn merge<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] m: Merge,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    let elements = *sizes.index(0);
    if i < elements {
        let parts = *sizes.index(1);
        let (queries, heads, dim) = (*sizes.index(2), *sizes.index(3), *sizes.index(4));
        let rows = elements / dim;
        let (row, channel) = (i / dim, i % dim);
        let head = row % heads;
        let query = row / heads % queries;
        // The log-sum-exp is [B, H, L], the result [B, L, H, D].
        let at = (row / heads / queries * heads + head) * queries + query;
        let sums = *sizes.index(6) + at;
        let mut most = load::<E>(halves, floats, sums as usize, comptime!(m.sums));
        for s in 1..parts {
            most = max(most, load::<E>(halves, floats, (sums + s * rows) as usize, comptime!(m.sums)));
        }
        let mut total = 0.0f32;
        let mut result = 0.0f32;
        for s in 0..parts {
            let weight = (load::<E>(halves, floats, (sums + s * rows) as usize, comptime!(m.sums)) - most).exp();
            let part = *sizes.index(5) + s * elements + i;
            total += weight;
            result += weight * load::<E>(halves, floats, part as usize, comptime!(m.parts));
        }
        let place = *sizes.index(7) + i;
        store::<E>(half_outs, float_outs, place as usize, result / total, comptime!(m.out));
        if channel == 0u32 {
            let place = *sizes.index(8) + at;
            store::<E>(half_outs, float_outs, place as usize, most + total.ln(), comptime!(m.lse));
        }
    }
}
