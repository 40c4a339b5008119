//! Euler's method on the flow: `x += (t_{k+1} - t_k) v`.
//!
//! The same steps as diffusers' `FlowMatchEulerDiscreteScheduler` on the levels of SPEC 8.

use super::{Progress, Sampler};
use crate::error::RuntimeError;
use crate::schedule::Levels;

/// First order sampler without memory.
#[derive(Clone, Debug)]
pub struct Euler {
    levels: Levels,
    progress: Progress,
}

impl Euler {
    /// At the start of a run over these levels, for a state of `elements` numbers.
    pub fn new(levels: &Levels, elements: usize) -> Self {
        Self { levels: levels.clone(), progress: Progress::new(levels, elements) }
    }
}

impl Sampler for Euler {
    fn step(&mut self, k: usize, velocity: &[f64], x: &mut [f64]) -> Result<(), RuntimeError> {
        self.progress.advance(k, velocity, x)?;
        let dt = self.levels.all()[k + 1] - self.levels.all()[k];
        for (x, v) in x.iter_mut().zip(velocity) {
            *x += dt * v;
        }
        Ok(())
    }
}
