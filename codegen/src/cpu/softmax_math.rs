//! Vectorised exponential and the online softmax step.
//!
//! Everything is branch-free Rust over slices, compiled for the best instruction set of the machine at run time
//! ([`super::simd`]). Results depend on the instruction set but never on how work is split.

use super::simd::vectorised;

/// `e^x` within 1.2e-7 relative; exactly 0 for `-inf`, exactly 1 for 0, `+inf` above 88.8, NaN for NaN.
///
/// `x = n ln 2 + r` with whole `n` and `|r| <= ln 2 / 2`, a polynomial for `e^r` (Cephes `expf`), then two scalings by
/// powers of two, so that results below the normal range fade out as they should.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Beyond these the result is 0 or infinite anyway. Written so that NaN stays.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let t = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    // ln 2 in two parts: the first has few bits, so its multiples are exact.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    let n = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

/// Queries that the softmax handles side by side; widths of score tiles are multiples of it.
pub(crate) const LANES: usize = 16;

/// Running softmax of a block of queries.
#[derive(Default)]
pub(crate) struct Running {
    /// Largest score so far; `-inf` before the first key.
    pub max: Vec<f32>,
    /// Sum of `exp(score - max)` so far.
    pub sum: Vec<f32>,
    /// What the last step multiplied `sum` by, 1 where `max` did not grow. The weighted values want the same.
    pub keep: Vec<f32>,
}

impl Running {
    /// Forgets all keys; for `width` queries, a multiple of [`LANES`].
    pub fn reset(&mut self, width: usize) {
        for (list, value) in [(&mut self.max, f32::NEG_INFINITY), (&mut self.sum, 0.0), (&mut self.keep, 1.0)] {
            list.clear();
            list.resize(width, value);
        }
    }

    /// Takes in a tile of scores `[keys, width]` (queries side by side) and turns it into `exp(score - max)`.
    ///
    /// A query whose keys are all masked (`-inf`) so far keeps sum 0 and gets weights 0.
    pub fn step(&mut self, scores: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || self.step_body(scores),
        );
    }

    #[inline(always)]
    fn step_body(&mut self, scores: &mut [f32]) {
        let width = self.max.len();
        let (max, _) = self.max.as_chunks_mut::<LANES>();
        let (sum, _) = self.sum.as_chunks_mut::<LANES>();
        let (keep, _) = self.keep.as_chunks_mut::<LANES>();
        for (lane, ((max, sum), keep)) in max.iter_mut().zip(sum).zip(keep).enumerate() {
            let mut top = *max;
            for row in scores.chunks_exact(width) {
                let row = row.as_chunks::<LANES>().0[lane];
                for (t, s) in top.iter_mut().zip(row) {
                    *t = if s > *t { s } else { *t };
                }
            }
            // Where nothing has been seen, any finite shift gives exp(-inf) = 0 instead of exp(NaN).
            let shift = top.map(|t| if t == f32::NEG_INFINITY { 0.0 } else { t });
            // Sums of tiles first, then of their sums: the error grows with the tile, not with all keys.
            let mut part = [0.0f32; LANES];
            for row in scores.chunks_exact_mut(width) {
                let row = &mut row.as_chunks_mut::<LANES>().0[lane];
                for i in 0..LANES {
                    row[i] = exp(row[i] - shift[i]);
                    part[i] += row[i];
                }
            }
            for i in 0..LANES {
                keep[i] = exp(max[i] - shift[i]);
                sum[i] = sum[i].mul_add(keep[i], part[i]);
            }
            *max = top;
        }
    }
}

/// `row *= factor`.
pub(crate) fn scale(row: &mut [f32], factor: f32) {
    vectorised(
        #[inline(always)]
        || {
            for x in row {
                *x *= factor;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp_all(x: &[f32]) -> Vec<f32> {
        vectorised(
            #[inline(always)]
            || x.iter().map(|&x| exp(x)).collect(),
        )
    }

    #[test]
    fn exp_is_accurate() {
        let x: Vec<f32> = (0..400_000).map(|i| -87.0 + i as f32 * (175.0 / 400_000.0)).collect();
        for (x, got) in x.iter().zip(exp_all(&x)) {
            let want = f64::from(*x).exp();
            assert!((f64::from(got) - want).abs() <= 1.2e-7 * want, "exp({x}) = {got}, want {want}");
        }
    }

    #[test]
    fn exp_at_the_ends() {
        let got = exp_all(&[f32::NEG_INFINITY, f32::MIN, -150.0, 0.0, -0.0, 89.5, f32::MAX, f32::INFINITY, -95.0]);
        assert_eq!(got[..8], [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY]);
        assert!((f64::from(got[8]) / (-95.0f64).exp() - 1.0).abs() < 1e-3, "{} is not gradual", got[8]);
        assert!(exp_all(&[f32::NAN])[0].is_nan());
    }

    #[test]
    fn steps_agree_with_one_softmax() {
        let (keys, width) = (37, 2 * LANES);
        let score = |key: usize, query: usize| {
            // The first query sees nothing in the first two tiles, the second nothing at all but the first key.
            match (key, query) {
                (k, 0) if k < 20 => f32::NEG_INFINITY,
                (k, 1) if k > 0 => f32::NEG_INFINITY,
                _ => ((key * 7 + query * 13) % 29) as f32 * 8.0 - 100.0,
            }
        };
        let mut running = Running::default();
        running.reset(width);
        let mut weights = Vec::new();
        for tile in [0..10, 10..11, 11..37] {
            let mut scores: Vec<f32> = tile.flat_map(|key| (0..width).map(move |query| score(key, query))).collect();
            running.step(&mut scores);
            for row in weights.chunks_exact_mut(width) {
                row.iter_mut().zip(&running.keep).for_each(|(w, keep): (&mut f32, _)| *w *= keep);
            }
            weights.extend(scores);
        }
        for query in 0..width {
            let all: Vec<f64> = (0..keys).map(|key| f64::from(score(key, query))).collect();
            let max = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = all.iter().map(|s| (s - max).exp()).sum();
            assert_eq!(f64::from(running.max[query]), max);
            assert!((f64::from(running.sum[query]) / sum - 1.0).abs() < 1e-6, "query {query}");
            for key in 0..keys {
                let want = (all[key] - max).exp();
                assert!((f64::from(weights[key * width + query]) - want).abs() < 1e-6, "key {key} query {query}");
            }
        }
    }

    #[test]
    fn scaling_reaches_every_element() {
        for len in [0, 1, 15, 33] {
            let mut row: Vec<f32> = (0..len).map(|i| i as f32).collect();
            scale(&mut row, -2.0);
            assert!(row.iter().enumerate().all(|(i, x)| *x == -2.0 * i as f32));
        }
    }
}
