//! Noise levels of a denoising run (SPEC 8).
//!
//! Flow matching mixes clean data and noise as `x_t = (1 - t) x_0 + t eps`; a run goes from `t = 1` to `t = 0`
//! over levels that get closer near the noisy end by a *shift*. The model is told the level itself.

use crate::error::RuntimeError;
use crate::host::HostTensor;

/// The most steps in one run: far above any use, small enough to hold every level.
pub const MAX_STEPS: usize = 100_000;

/// The noise levels of a run: strictly falling, from pure noise to 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels(Vec<f64>);

impl Levels {
    /// `t_k = shift u_k / (1 + (shift - 1) u_k)` with `u_k = 1 - k / steps`, for `k = 0..=steps`.
    ///
    /// # Errors
    /// When there are no or too many steps, when `shift` is no positive number, or is so large or small that
    /// neighbouring levels are one single precision number, which is what the model is given.
    pub fn new(steps: usize, shift: f64) -> Result<Self, RuntimeError> {
        if steps == 0 || steps > MAX_STEPS {
            return Err(RuntimeError::option("--steps", format!("{steps} steps; give 1 to {MAX_STEPS}")));
        }
        if !shift.is_finite() || shift <= 0.0 {
            return Err(RuntimeError::option("--shift", format!("{shift} is no positive number; the usual one is 5")));
        }
        let level = |k: usize| {
            let u = (steps - k) as f64 / steps as f64;
            shift * u / (1.0 + (shift - 1.0) * u)
        };
        let levels: Vec<f64> = (0..=steps).map(level).collect();
        if levels.windows(2).any(|w| w[0] as f32 <= w[1] as f32) {
            let problem =
                format!("{shift} puts neighbours of {steps} noise levels on one number; give one nearer to 5");
            return Err(RuntimeError::option("--shift", problem));
        }
        Ok(Self(levels))
    }

    /// The same with the first level at most `1 - gap`, for samplers that take the logarithm of `1 - t`.
    #[must_use]
    pub fn below_one(mut self, gap: f64) -> Self {
        if let Some(first) = self.0.first_mut() {
            *first = first.min(1.0 - gap);
        }
        self
    }

    /// All levels, one more than there are steps; the last is 0.
    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.0.len() - 1
    }

    /// The table `[steps, batch]` that a session takes as `schedule`: the level that each step starts from, the same
    /// for every element of the batch.
    pub fn table(&self, batch: usize) -> HostTensor {
        let rows = &self.0[..self.steps()];
        let data = rows.iter().flat_map(|&t| std::iter::repeat_n(t as f32, batch)).collect();
        HostTensor::f32([self.steps(), batch], data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fall_from_one_to_zero() -> Result<(), RuntimeError> {
        let levels = Levels::new(4, 5.0)?;
        let want = [1.0, 0.9375, 5.0 / 6.0, 0.625, 0.0];
        assert!(levels.all().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{levels:?}");
        assert_eq!(levels.steps(), 4);
        let table = levels.table(2);
        assert_eq!(table.shape, [4, 2]);
        assert_eq!(table.as_f32().map(|d| d[..4].to_vec()), Some(vec![1.0, 1.0, 0.9375, 0.9375]));
        Ok(())
    }

    #[test]
    fn senseless_schedules_are_refused() {
        for (steps, shift) in [(0, 5.0), (MAX_STEPS + 1, 5.0), (4, 0.0), (4, -1.0), (4, f64::NAN), (4, f64::INFINITY)] {
            assert!(Levels::new(steps, shift).is_err(), "{steps} {shift}");
        }
        let error = Levels::new(20, 1e12).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("--shift") && e.contains("one number")));
    }
}
