//! Random numbers that depend on a seed and a name only.
//!
//! Every value is a function of the seed, the name and its index, made by ChaCha8 as a counter-based generator: no matter in
//! which order tensors are made, on how many threads, or which part of one is wanted, the numbers are the same.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Values that one task makes; even, so that pairs of normal values stay together.
const CHUNK: usize = 1 << 14;

/// The random numbers of one name.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u8; 32],
}

impl Stream {
    /// The stream with this seed and name.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        Self { key: *hasher.finalize().as_bytes() }
    }

    /// Fills `out` with the stream's first values of the standard normal distribution.
    pub fn normal(&self, out: &mut [f32]) {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, part)| self.normal_at(i * CHUNK, part));
    }

    /// The normal values from index `start`, which is even, by Box and Muller's method.
    pub fn normal_at(&self, start: usize, out: &mut [f32]) {
        let mut words = self.words_at(start);
        for pair in out.chunks_mut(2) {
            let radius = (-2.0 * unit(words.next_u32()).ln()).sqrt();
            let (sin, cos) = (TAU * unit(words.next_u32())).sin_cos();
            for (value, direction) in pair.iter_mut().zip([cos, sin]) {
                *value = (radius * direction) as f32;
            }
        }
    }

    /// The values from index `start` that are uniform in (-1, 1).
    pub fn uniform_at(&self, start: usize, out: &mut [f32]) {
        let mut words = self.words_at(start);
        out.iter_mut().for_each(|value| *value = (2.0 * unit(words.next_u32()) - 1.0) as f32);
    }

    fn words_at(&self, word: usize) -> ChaCha8Rng {
        let mut words = ChaCha8Rng::from_seed(self.key);
        words.set_word_pos(word as u128);
        words
    }
}

/// A number in (0, 1), symmetric about 1/2.
fn unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}
