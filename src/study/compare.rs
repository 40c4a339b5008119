//! What follows from paired runs, and what does not.

use ccl_model::Task;
use ccl_world::Measures;
use serde::Serialize;

use super::results::Results;
use super::{Study, TASKS};

/// Fewest seeds that allow a claim.
pub const ENOUGH: usize = 3;

/// A mean and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Mean.
    pub mean: f64,
    /// Standard error of the mean; `None` of a single value.
    pub error: Option<f64>,
    /// Number of values.
    pub n: usize,
}

impl Estimate {
    /// Of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let error = (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt());
        (n > 0).then_some(Self { mean, error, n })
    }

    /// Whether the mean is told from zero: by [`ENOUGH`] values, and beyond two standard errors.
    pub fn decided(&self) -> bool {
        self.n >= ENOUGH && self.error.is_some_and(|e| self.mean.abs() > 2.0 * e)
    }
}

/// A number that says how good a sample is.
pub struct Metric {
    /// Name, for the head of a column.
    pub name: &'static str,
    /// Whether more of it is better.
    pub more: bool,
    /// The number.
    pub value: fn(&Measures) -> Option<f64>,
    /// What chance gives.
    pub chance: fn(&Measures) -> Option<f64>,
}

/// The measures of the tables; the first is what arms are compared by.
pub const METRICS: [Metric; 7] = [
    Metric { name: "F1, ½ frame", more: true, value: |m| m.sync.f1.half, chance: |m| m.chance.f1.half },
    Metric { name: "F1, 1 frame", more: true, value: |m| m.sync.f1.one, chance: |m| m.chance.f1.one },
    Metric { name: "recall, 1 frame", more: true, value: |m| m.sync.recall.one, chance: |m| m.chance.recall.one },
    Metric {
        name: "precision, 1 frame",
        more: true,
        value: |m| m.sync.precision.one,
        chance: |m| m.chance.precision.one,
    },
    Metric { name: "offset, frames", more: false, value: |m| m.sync.offset, chance: |m| m.chance.offset },
    Metric { name: "timbre match", more: true, value: |m| Some(m.timbre_match), chance: |_| Some(0.25) },
    Metric { name: "pitch errors", more: false, value: |m| m.pitch_error, chance: |_| Some(0.75) },
];

/// What two arms are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// F1 within half a frame.
    Sync(Task),
    /// Training loss in the last sixth of the steps.
    Loss(Task),
    /// Loss of the averaged parameters on held-out clips.
    Held(Task),
}

/// A difference within pairs, from the arm that the paper has behind to the one that it has ahead.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// The arm behind.
    pub behind: &'static str,
    /// The arm ahead.
    pub ahead: &'static str,
    /// What they are compared by.
    pub by: String,
    /// Gain of the arm ahead: positive where the paper is right.
    pub gain: Estimate,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows from a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As the paper has it, beyond two standard errors.
    Shown,
    /// Nothing.
    Open,
    /// The other way round, beyond two standard errors.
    Reversed,
}

impl Verdict {
    fn of(gain: &Estimate) -> Self {
        match gain.decided() {
            true if gain.mean > 0.0 => Verdict::Shown,
            true => Verdict::Reversed,
            false => Verdict::Open,
        }
    }
}

/// Orderings of the paper, each arm before the one that it has ahead.
const ORDER: [(&str, &str); 4] = [("plain", "tarp"), ("tarp", "context"), ("context", "ucg"), ("still", "ucg")];

/// Every ordering of the paper with what the runs say of it; those of which nothing is known yet are left out.
pub fn claims(study: &Study, results: &Results) -> Vec<Claim> {
    let arm = |key: &str| study.arms.iter().copied().find(|a| a.key == key);
    let mut out = Vec::new();
    for (behind, ahead) in ORDER.iter().filter_map(|(b, a)| Some((arm(b)?, arm(a)?))) {
        let mut by: Vec<By> = TASKS.map(By::Sync).into();
        if behind.cross != ahead.cross {
            by.extend(TASKS.map(By::Loss));
            by.extend(TASKS.map(By::Held));
        }
        for by in by {
            let pairs = study.seeds.iter().filter_map(|&seed| {
                let (b, a) = (results.number(behind, seed, by)?, results.number(ahead, seed, by)?);
                Some(if matches!(by, By::Sync(_)) { a - b } else { b - a })
            });
            if let Some(gain) = Estimate::of(&pairs.collect::<Vec<_>>()) {
                out.push(Claim {
                    behind: behind.key,
                    ahead: ahead.key,
                    by: by.name(),
                    gain,
                    verdict: Verdict::of(&gain),
                });
            }
        }
    }
    out
}

impl By {
    /// Name, for people.
    pub fn name(self) -> String {
        match self {
            By::Sync(task) => format!("{task} F1 within ½ frame"),
            By::Loss(task) => format!("{task} loss, last sixth of the training"),
            By::Held(task) => format!("{task} loss on held-out clips, averaged parameters"),
        }
    }
}

/// A number of each seed, over all seeds that have it.
pub fn over_seeds(study: &Study, number: impl Fn(u64) -> Option<f64>) -> Option<Estimate> {
    Estimate::of(&study.seeds.iter().filter_map(|&seed| number(seed)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_within_two_standard_errors_or_of_two_seeds() {
        let of = |values: &[f64]| Verdict::of(&Estimate::of(values).expect("some"));
        assert_eq!(of(&[0.1, 0.11, 0.09]), Verdict::Shown);
        assert_eq!(of(&[-0.1, -0.11, -0.09]), Verdict::Reversed);
        assert_eq!(of(&[0.1, 0.11]), Verdict::Open);
        assert_eq!(of(&[0.1, -0.05, 0.02]), Verdict::Open);
        assert_eq!(Estimate::of(&[]), None);
        let e = Estimate::of(&[1.0, 2.0, 3.0]).expect("some");
        assert!((e.mean - 2.0).abs() < 1e-12 && (e.error.expect("three") - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        // Exactly two standard errors are not beyond them.
        assert!(!Estimate { mean: 2.0, error: Some(1.0), n: 3 }.decided());
    }
}
