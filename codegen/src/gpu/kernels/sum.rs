//! Sums over broadcast dimensions, of an elementwise program's results.
//!
//! A cube has `across` results and `units / across` units for each. A unit adds every so many-th of a result's terms, block by block, so that
//! errors grow with the blocks and not with the terms; the units' sums are added in shared memory, always in the same order.
//!
//! One launch, no memory for partial sums: work is parallel over the results, and one cube adds all terms of a result. A column sum
//! of a layer's rows keeps a GPU busy; a sum of a large tensor to one number does not, because one cube reads it all. Where such sums are
//! many, sum to rows first, then to the number: two calls, the first of them parallel.
//!
//! Sizes: the number of results; the terms of each; the dimensions that number the results, then those that number the terms, outermost
//! first; for each input its first element and its strides along both, likewise; the output's first element. The output is dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::elementwise::run;
use super::walk::{distance, position, unravel};
use super::{load, store};
use crate::gpu::blueprint::{Program, Slot};

/// Terms that a unit adds up before it adds their sum to the others.
const BLOCK: u32 = 64;

/// A sum.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sum {
    /// Number of dimensions that number the results.
    pub kept: u32,
    /// Number of dimensions that number the terms.
    pub summed: u32,
    /// Units of a cube, a power of two.
    pub units: u32,
    /// Results of a cube, a power of two.
    pub across: u32,
    /// Whether neighbouring units have neighbouring results, not terms: what is near in memory.
    pub results_first: bool,
    /// Inputs of the program.
    pub inputs: Vec<Slot>,
    /// Whose results are added.
    pub program: Program,
    /// Where the sums go.
    pub output: Slot,
}

/// The kernel.
#[cube]
pub fn sum<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] s: Sum,
) {
    let across = comptime!(s.across);
    // Units of a result.
    let lanes = comptime!(s.units / s.across);
    let (x, y) = if comptime!(s.results_first) {
        (UNIT_POS % across, UNIT_POS / across)
    } else {
        (UNIT_POS / lanes, UNIT_POS % lanes)
    };
    let (kept, summed) = (comptime!(s.kept as usize), comptime!(s.summed as usize));
    let (results, terms) = (*sizes.index(0), *sizes.index(1));
    let result = CUBE_POS as u32 * across + x;
    // Surplus units read the last result's terms and write nothing: all meet the same barriers.
    let index = unravel(min(result, results - 1), sizes, kept, 2usize);
    let width = comptime!(1 + kept + summed);
    let from = comptime!(2 + kept + summed);
    let mut places = Sequence::<u32>::new();
    #[unroll]
    for k in 0..comptime!(s.inputs.len()) {
        places.push(position(&index, sizes, kept, comptime!(from + k * width)));
    }

    let mut total = 0f32;
    let mut term = y;
    while term < terms {
        let mut part = 0f32;
        for _ in 0..BLOCK {
            if term < terms {
                let index = unravel(term, sizes, summed, comptime!(2 + kept));
                let mut values = Sequence::<f32>::new();
                #[unroll]
                for k in 0..comptime!(s.inputs.len()) {
                    let at = *places.index(k) + distance(&index, sizes, summed, comptime!(from + k * width + 1 + kept));
                    values.push(load::<E>(halves, floats, at as usize, comptime!(s.inputs[k])));
                }
                part += run(values, comptime!(s.program.clone()));
                term += lanes;
            }
        }
        total += part;
    }

    let mut shared = Shared::<[f32]>::new_slice(comptime!(s.units as usize));
    shared[(y * across + x) as usize] = total;
    sync_cube();
    #[unroll]
    for s in 0..comptime!(lanes.ilog2()) {
        let half = comptime!(lanes >> (s + 1));
        if y < half {
            let other = shared[((y + half) * across + x) as usize];
            shared[(y * across + x) as usize] += other;
        }
        sync_cube();
    }
    if y == 0u32 && result < results {
        let out = *sizes.index(comptime!(from + s.inputs.len() * width)) + result;
        store::<E>(half_outs, float_outs, out as usize, shared[x as usize], comptime!(s.output));
    }
}
