//! Numbers to measure with: random ones, because devices run faster on zeros.

use std::sync::LazyLock;

use ccl_ir::{DType, TensorType};
use ccl_runtime::random::Stream;
use ccl_runtime::weights::{WeightBytes, WeightSource};
use ccl_runtime::{HostTensor, RuntimeError};
use rayon::prelude::*;

/// Random numbers that are repeated; a prime number of them, so that no two rows of a matrix begin alike.
const BLOCK: usize = 1_048_573;
/// How large weights are.
const WEIGHT: f32 = 0.02;

static NORMAL: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut block = vec![0.0; BLOCK];
    Stream::new(0, "kernels").normal(&mut block);
    block
});

/// `n` random numbers, those of a name.
fn numbers(name: &str, n: usize, of: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let start = name.bytes().fold(0usize, |h, b| (h * 31 + usize::from(b)) % BLOCK);
    let (before, from) = NORMAL.split_at(start);
    let mut all = vec![0.0; n];
    all.par_chunks_mut(BLOCK).for_each(|block| {
        for (to, &x) in block.iter_mut().zip(from.iter().chain(before)) {
            *to = of(x);
        }
    });
    all
}

/// What numbers are like.
#[derive(Clone, Copy, Debug)]
pub enum Like {
    /// Normal ones.
    Normal,
    /// The magnitudes of normal ones.
    Positive,
    /// Weights, so small that products stay small. Biases and factors of norms are as large as what they are added to or multiplied with.
    Weight,
}

impl Like {
    fn of(self, rank: usize) -> impl Fn(f32) -> f32 + Sync {
        move |x| match self {
            Self::Positive => x.abs(),
            Self::Weight if rank > 1 => x * WEIGHT,
            Self::Normal | Self::Weight => x,
        }
    }
}

/// An input of a name, or `number` where it is a whole one.
pub fn tensor(name: &str, ty: &TensorType, like: Like, number: i32) -> HostTensor {
    let n = ty.elements() as usize;
    match ty.dtype {
        DType::I32 => HostTensor::i32(ty.shape.clone(), vec![number; n]),
        _ => HostTensor::f32(ty.shape.clone(), numbers(name, n, like.of(ty.rank()))),
    }
}

/// Weights that are random.
pub struct Weights;

impl WeightSource for Weights {
    fn load(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError> {
        WeightBytes::of_values(name, &numbers(name, want.elements() as usize, Like::Weight.of(want.rank())), want)
    }
}
