//! Reductions over the units of a cube, through shared memory: always in the same order, so that every run gives the same bits.

use cubecl::prelude::*;

/// How two numbers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// Their sum.
    Sum,
    /// The larger one.
    Max,
}

/// The fold of every unit's `value`, the same for all units. `units`, a power of two, is the size of the cube and of `shared`.
///
/// All units of the cube must call it together.
#[cube]
pub fn reduce(shared: &mut Shared<[f32]>, value: f32, #[comptime] units: u32, #[comptime] fold: Fold) -> f32 {
    let me = UNIT_POS as usize;
    // The result of an earlier reduction has been read.
    sync_cube();
    shared[me] = value;
    sync_cube();
    #[unroll]
    for s in 0..comptime!(units.ilog2()) {
        let half = comptime!(units >> (s + 1));
        if UNIT_POS < half {
            let (a, b) = (shared[me], shared[me + half as usize]);
            shared[me] = match comptime!(fold) {
                Fold::Sum => a + b,
                Fold::Max => max(a, b),
            };
        }
        sync_cube();
    }
    shared[0]
}
