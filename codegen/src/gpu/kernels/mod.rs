//! The kernels, one file each. All read numbers as `f32` and store them in the type of their buffer.

pub mod adam_w;
pub mod attention;
pub mod attention_grad;
pub mod attention_grad_rows;
pub mod attention_keys;
pub mod attention_rows;
pub mod elementwise;
pub mod gather;
pub mod merge;
pub mod norm;
pub mod norm_grad;
pub mod norm_rope;
pub mod probabilities;
pub mod product;
pub mod reduce;
pub mod rope;
pub mod softmax;
pub mod sum;
pub mod walk;
pub mod window_product;

use cubecl::prelude::*;

use super::blueprint::{Class, Slot};

/// Four numbers that a unit reads from shared memory at once.
pub type Four = Vector<f32, Const<4>>;

/// Element `at` of an operand of real numbers, as `f32`. Whole numbers are read from their own list.
#[cube]
pub fn load<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    at: usize,
    #[comptime] slot: Slot,
) -> f32 {
    match comptime!(slot.class) {
        Class::Half => f32::cast_from(halves.index(comptime!(slot.index as usize))[at]),
        Class::Float | Class::Int => floats.index(comptime!(slot.index as usize))[at],
    }
}

/// Element `at` of an operand that the kernel writes, as `f32`.
#[cube]
pub fn load_written<E: Float>(
    halves: &mut Sequence<Box<[E]>>,
    floats: &mut Sequence<Box<[f32]>>,
    at: usize,
    #[comptime] slot: Slot,
) -> f32 {
    match comptime!(slot.class) {
        Class::Half => {
            let written = halves.index_mut(comptime!(slot.index as usize));
            f32::cast_from(written[at])
        }
        Class::Float | Class::Int => {
            let written = floats.index_mut(comptime!(slot.index as usize));
            written[at]
        }
    }
}

/// Writes element `at` of an operand of real numbers: lowering gives the host what writes others.
#[cube]
pub fn store<E: Float>(
    halves: &mut Sequence<Box<[E]>>,
    floats: &mut Sequence<Box<[f32]>>,
    at: usize,
    value: f32,
    #[comptime] slot: Slot,
) {
    match comptime!(slot.class) {
        Class::Half => {
            let out = halves.index_mut(comptime!(slot.index as usize));
            out[at] = E::cast_from(value);
        }
        Class::Float | Class::Int => {
            let out = floats.index_mut(comptime!(slot.index as usize));
            out[at] = value;
        }
    }
}
