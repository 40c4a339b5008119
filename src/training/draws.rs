//! Everything that training draws, as a function of the seed, the step and what is drawn.
//!
//! Nothing is carried from step to step: a training that is resumed needs to know the number of its next step and nothing else.

use ccl_model::Task;
use ccl_runtime::HostTensor;
use ccl_runtime::random::Stream;

use super::config::Time;

/// The draws of one seed.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    seed: u64,
}

/// A batch among all: that of a step, or of a validation.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Batch number `part` of a step.
    Step {
        /// The step.
        step: u64,
        /// The batch, where gradients of several are accumulated.
        part: usize,
    },
    /// Batch number `part` of every validation.
    Validation {
        /// The batch.
        part: usize,
    },
}

impl Place {
    fn name(self, what: &str) -> String {
        match self {
            Place::Step { step, part } => format!("train/{what}/{step}/{part}"),
            Place::Validation { part } => format!("validate/{what}/{part}"),
        }
    }
}

impl Draws {
    /// The draws of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The task of a step, by the weights of all.
    pub fn task<'t>(&self, step: u64, weights: impl Iterator<Item = (&'t Task, &'t f64)> + Clone) -> Option<Task> {
        let total: f64 = weights.clone().map(|(_, w)| w).sum();
        let mut left = f64::from(self.uniform(&format!("train/task/{step}"), 1)[0]) * total;
        let mut last = None;
        for (task, weight) in weights.filter(|(_, w)| **w > 0.0) {
            last = Some(*task);
            if left < *weight {
                break;
            }
            left -= weight;
        }
        last
    }

    /// Flow times of a batch, `[batch]`.
    pub fn times(&self, place: Place, batch: usize, time: Time) -> HostTensor {
        let name = place.name("t");
        let t = match time {
            Time::Uniform => self.uniform(&name, batch),
            Time::Shifted { shift } => {
                let shifted = |u: f32| (shift * f64::from(u) / (1.0 + (shift - 1.0) * f64::from(u))) as f32;
                self.uniform(&name, batch).into_iter().map(shifted).collect()
            }
            Time::LogitNormal { mean, std } => {
                let mut normal = vec![0.0; batch];
                Stream::new(self.seed, &name).normal(&mut normal);
                let logistic = |x: f32| (1.0 / (1.0 + (-(mean + std * f64::from(x))).exp())) as f32;
                normal.into_iter().map(logistic).collect()
            }
        };
        HostTensor::f32([batch], t)
    }

    /// Noise for the input of this name.
    pub fn noise(&self, place: Place, name: &str, shape: &[usize]) -> HostTensor {
        let mut data = vec![0.0; shape.iter().product()];
        Stream::new(self.seed, &place.name(name)).normal(&mut data);
        HostTensor::f32(shape, data)
    }

    /// Which prompts of a batch are dropped.
    pub fn drops(&self, place: Place, batch: usize, probability: f64) -> Vec<bool> {
        self.uniform(&place.name("drop"), batch).into_iter().map(|u| f64::from(u) < probability).collect()
    }

    /// Numbers in (0, 1).
    fn uniform(&self, name: &str, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        Stream::new(self.seed, name).uniform_at(0, &mut out);
        // Values in (-1, 1), of which the nearest to the ends are rounded onto them.
        let inside = |x: f32| (0.5 * (f64::from(x) + 1.0)).clamp(0.0, 1.0 - f64::from(f32::EPSILON)) as f32;
        out.into_iter().map(inside).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
        let all: Vec<f64> = values.into_iter().collect();
        all.iter().sum::<f64>() / all.len() as f64
    }

    #[test]
    fn tasks_come_as_often_as_their_weights_say() {
        let weights: BTreeMap<Task, f64> =
            [(Task::T2av, 0.2), (Task::T2v, 0.0), (Task::A2v, 0.3), (Task::V2a, 0.3), (Task::Joint, 1.2)].into();
        let mut counts: BTreeMap<Task, usize> = BTreeMap::new();
        for step in 0..4000 {
            *counts.entry(Draws::new(3).task(step, weights.iter()).expect("a task")).or_default() += 1;
        }
        assert!(!counts.contains_key(&Task::T2v));
        for (task, want) in [(Task::T2av, 0.1), (Task::A2v, 0.15), (Task::V2a, 0.15), (Task::Joint, 0.6)] {
            let share = counts[&task] as f64 / 4000.0;
            assert!((share - want).abs() < 0.03, "{task}: {share}");
        }
    }

    #[test]
    fn times_follow_their_distribution() {
        let place = Place::Step { step: 1, part: 0 };
        let of = |time| {
            let t = Draws::new(1).times(place, 20_000, time);
            let t: Vec<f64> = t.as_f32().expect("numbers").iter().map(|&x| f64::from(x)).collect();
            assert!(t.iter().all(|x| (0.0..=1.0).contains(x)));
            (mean(t.iter().copied()), mean(t.iter().map(|x| x * x)))
        };
        let close =
            |(a, b): (f64, f64), (c, d): (f64, f64)| assert!((a - c).abs() < 0.01 && (b - d).abs() < 0.01, "{a} {b}");
        close(of(Time::Uniform), (0.5, 1.0 / 3.0));
        // Integrals of 3u / (1 + 2u) and of its square.
        let ln3 = 3f64.ln();
        close(of(Time::Shifted { shift: 3.0 }), (1.5 - 0.75 * ln3, 2.25 * (1.0 + 1.0 / 3.0 - ln3)));
        close(of(Time::LogitNormal { mean: 0.0, std: 1.0 }), (0.5, 0.25 + 0.0433));
    }

    #[test]
    fn every_step_batch_and_purpose_has_its_own_numbers() {
        let draws = Draws::new(7);
        let noise = |place, name| draws.noise(place, name, &[2, 3]).as_f32().expect("numbers").to_vec();
        let places = [
            Place::Step { step: 1, part: 0 },
            Place::Step { step: 1, part: 1 },
            Place::Step { step: 11, part: 0 },
            Place::Validation { part: 0 },
        ];
        let mut all: Vec<Vec<f32>> = Vec::new();
        for place in places {
            for name in ["noise.video", "noise.audio"] {
                let numbers = noise(place, name);
                assert_eq!(numbers, noise(place, name));
                assert!(!all.contains(&numbers));
                all.push(numbers);
            }
        }
        assert!(
            draws.drops(places[0], 50, 0.0).iter().all(|d| !d) && draws.drops(places[0], 50, 1.0).iter().all(|d| *d)
        );
    }
}
