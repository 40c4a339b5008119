//! Walks: from the number of an element to its place in strided operands.

use cubecl::prelude::*;

/// Index along each of `rank` dimensions of element `i`, innermost first; the dimensions are `sizes[from ..]`, outermost first.
#[cube]
pub fn unravel(i: u32, sizes: &Sequence<u32>, #[comptime] rank: usize, #[comptime] from: usize) -> Sequence<u32> {
    let mut index = Sequence::<u32>::new();
    let mut rest = i;
    #[unroll]
    for d in 0..rank {
        if comptime!(d + 1 == rank) {
            index.push(rest);
        } else {
            let size = *sizes.index(comptime!(from + rank - 1 - d));
            index.push(rest % size);
            rest /= size;
        }
    }
    index
}

/// Distance from an operand's first element: the strides are `sizes[from ..]`, outermost first; `index` is innermost first.
#[cube]
pub fn distance(index: &Sequence<u32>, sizes: &Sequence<u32>, #[comptime] rank: usize, #[comptime] from: usize) -> u32 {
    let mut at = 0u32;
    #[unroll]
    for d in 0..rank {
        at += *index.index(d) * *sizes.index(comptime!(from + rank - 1 - d));
    }
    at
}

/// Position of an element in its buffer: the first element and the strides are `sizes[from ..]`.
#[cube]
pub fn position(index: &Sequence<u32>, sizes: &Sequence<u32>, #[comptime] rank: usize, #[comptime] from: usize) -> u32 {
    *sizes.index(from) + distance(index, sizes, rank, comptime!(from + 1))
}
