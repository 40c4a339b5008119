//! The order of samples: a permutation for every epoch, any place of which is found without the places before it.
//!
//! A Feistel network over the next power of four, keyed by seed and epoch, is a permutation of it; walking on from a number that is
//! no sample until one comes up makes it a permutation of the samples (Black and Rogaway, "Ciphers with arbitrary finite domains",
//! 2002). On average fewer than four steps are walked.

/// Rounds of the network. Four would do; a few more cost nothing.
const ROUNDS: usize = 8;

/// The samples of all epochs in order. `position` counts samples from the beginning of the first epoch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    len: u64,
    seed: Option<u64>,
}

impl Order {
    /// Every epoch in an order of its own that depends on the seed; `len` is at least 1.
    pub fn shuffled(len: usize, seed: u64) -> Self {
        Self { len: len.max(1) as u64, seed: Some(seed) }
    }

    /// Every epoch in order of number.
    pub fn in_order(len: usize) -> Self {
        Self { len: len.max(1) as u64, seed: None }
    }

    /// The sample at a position.
    pub fn at(&self, position: u64) -> usize {
        let index = position % self.len;
        let sample = match self.seed {
            Some(seed) => Permutation::new(self.len, seed, self.epoch(position)).at(index),
            None => index,
        };
        sample as usize
    }

    /// The epoch that a position is in, from 0.
    pub fn epoch(&self, position: u64) -> u64 {
        position / self.len
    }

    /// How many samples of its epoch come before a position.
    pub fn index(&self, position: u64) -> u64 {
        position % self.len
    }
}

/// A permutation of `0..len`.
struct Permutation {
    len: u64,
    /// Bits of each half of a number.
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"ccl-data order");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        let mut bytes = [0; 8 * ROUNDS];
        hasher.finalize_xof().fill(&mut bytes);
        let mut keys = [0; ROUNDS];
        for (key, word) in keys.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *key = u64::from_le_bytes(*word);
        }
        let bits = u64::BITS - (len - 1).leading_zeros();
        Self { len, half: bits.div_ceil(2).max(1), keys }
    }

    fn at(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let mut number = index;
        loop {
            let (mut left, mut right) = (number >> self.half, number & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(key ^ right) & mask));
            }
            number = left << self.half | right;
            if number < self.len {
                return number;
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of `x`.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
