//! UniPC of order 2 on the flow (Zhao et al., arXiv 2302.04867), data prediction, `B(h) = e^h - 1` ("bh2").
//!
//! The same steps as diffusers' `UniPCMultistepScheduler` with `prediction_type="flow_prediction"`,
//! `use_flow_sigmas=True` and its defaults: order 2, corrector in every step but the first, lower order at the end.
//!
//! With `alpha = 1 - t`, `sigma = t` and `lambda = ln(alpha / sigma)`, a velocity gives the data prediction
//! `m = x - sigma v`. From level `s` to level `e`, `h = lambda_e - lambda_s` and `phi = e^-h - 1`, every update is
//!
//! ```text
//! x_e = (sigma_e / sigma_s) x_s - alpha_e phi (m_s + sum of weighted differences of predictions)
//! ```
//!
//! The predictor knows predictions up to `s`; the corrector repeats the step with the one at `e`, before the next
//! predictor starts, and so costs no further model evaluation.

use super::{Progress, Sampler};
use crate::error::RuntimeError;
use crate::schedule::Levels;

/// How far below 1 the first level is, to keep its logarithm finite.
pub const FIRST_LEVEL_GAP: f64 = 1e-6;

/// The levels with the first at `1 - 1e-6`.
pub(super) fn levels(levels: Levels, shift: f64) -> Result<Levels, RuntimeError> {
    let levels = levels.below_one(FIRST_LEVEL_GAP);
    match levels.all() {
        [first, second, ..] if *second >= *first => {
            let problem = format!(
                "{shift} brings the second noise level within 1e-6 of 1, where UniPC has no logarithm; give one nearer to 5"
            );
            Err(RuntimeError::option("--shift", problem))
        }
        _ => Ok(levels),
    }
}

/// Multistep predictor and corrector of order 2.
#[derive(Clone, Debug)]
pub struct UniPc {
    levels: Levels,
    progress: Progress,
    /// State at the level before, corrected.
    last_x: Vec<f64>,
    /// Data predictions at the two levels before, the newer first.
    predictions: [Vec<f64>; 2],
    /// Order of the last predictor step; the corrector of the same interval has the same.
    order: usize,
}

/// Coefficients of an update from one level to the next: `x_e = keep x_s - gain (m_s + ...)`.
struct Interval {
    keep: f64,
    gain: f64,
    /// Minus the distance in `lambda`.
    hh: f64,
    /// `e^hh - 1`.
    phi: f64,
    /// Distance from `s` back to the level before it, in units of `h`; negative. 1 where there is none.
    ratio: f64,
}

impl UniPc {
    /// At the start of a run over levels that [`super::SamplerKind::levels`] made, for a state of `elements` numbers.
    pub fn new(levels: &Levels, elements: usize) -> Self {
        Self {
            levels: levels.clone(),
            progress: Progress::new(levels, elements),
            last_x: vec![0.0; elements],
            predictions: [vec![0.0; elements], vec![0.0; elements]],
            order: 1,
        }
    }

    /// From level `s` to `s + 1`.
    fn interval(&self, s: usize) -> Interval {
        let t = self.levels.all();
        let lambda = |k: usize| (1.0 - t[k]).ln() - t[k].ln();
        let h = lambda(s + 1) - lambda(s);
        let phi = (-h).exp_m1();
        let ratio = if s == 0 { 1.0 } else { (lambda(s - 1) - lambda(s)) / h };
        Interval { keep: t[s + 1] / t[s], gain: (1.0 - t[s + 1]) * phi, hh: -h, phi, ratio }
    }

    /// Weights of the older and of the newest difference in a corrector of order 2: the solution of the 2 x 2 system
    /// that makes the update exact for predictions quadratic in `lambda`.
    fn corrector_weights(i: &Interval) -> (f64, f64) {
        let first = i.phi / i.hh - 1.0;
        let second = first / i.hh - 0.5;
        let (b1, b2) = (first / i.phi, 2.0 * second / i.phi);
        let older = (b1 - b2) / (1.0 - i.ratio);
        (older, b1 - older)
    }

    /// Repeats the step that led to level `k` now that the prediction `m` at `k` is known.
    fn correct(&self, k: usize, m: &[f64], x: &mut [f64]) {
        let i = self.interval(k - 1);
        let (older, newest) = if self.order == 1 { (0.0, 0.5) } else { Self::corrector_weights(&i) };
        let [m0, m1] = &self.predictions;
        for (j, x) in x.iter_mut().enumerate() {
            let sum = m0[j] + older * (m1[j] - m0[j]) / i.ratio + newest * (m[j] - m0[j]);
            *x = i.keep * self.last_x[j] - i.gain * sum;
        }
    }

    /// Moves the state from level `k` to `k + 1` by the predictions so far.
    fn predict(&self, k: usize, x: &mut [f64]) {
        let i = self.interval(k);
        let [m0, m1] = &self.predictions;
        for (j, x) in x.iter_mut().enumerate() {
            let older = if self.order == 1 { 0.0 } else { 0.5 * (m1[j] - m0[j]) / i.ratio };
            *x = i.keep * *x - i.gain * (m0[j] + older);
        }
    }
}

impl Sampler for UniPc {
    fn step(&mut self, k: usize, velocity: &[f64], x: &mut [f64]) -> Result<(), RuntimeError> {
        self.progress.advance(k, velocity, x)?;
        let level = self.levels.all()[k];
        let m: Vec<f64> = x.iter().zip(velocity).map(|(x, v)| x - level * v).collect();
        if k > 0 {
            self.correct(k, &m, x);
        }
        self.predictions.swap(0, 1);
        self.predictions[0] = m;
        self.last_x.copy_from_slice(x);
        // Order 1 at the start, where there is no older prediction, and in the last step, where `h` is infinite.
        self.order = if k == 0 || k + 1 == self.levels.steps() { 1 } else { 2 };
        self.predict(k, x);
        Ok(())
    }
}
