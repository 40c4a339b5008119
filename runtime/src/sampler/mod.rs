//! Samplers: how a velocity moves a latent from one noise level to the next (SPEC 8).
//!
//! A sampler works on the state of one stream as `f64` numbers and knows nothing of shapes or models. The state is
//! kept wider than the model's `f32` so that many small steps do not add their roundings up.

mod euler;
mod unipc;

pub use euler::Euler;
pub use unipc::UniPc;

use crate::error::RuntimeError;
use crate::schedule::Levels;

/// Moves one stream's latent down the noise levels, step by step in order.
pub trait Sampler: Send {
    /// Takes step `k`: `x` is the state at level `k`, `velocity` is the model's answer to it, and `x` becomes the state
    /// at level `k + 1`.
    ///
    /// # Errors
    /// When `k` is not the next step, or the slices do not have the length that the run began with.
    fn step(&mut self, k: usize, velocity: &[f64], x: &mut [f64]) -> Result<(), RuntimeError>;
}

/// Which sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// First order, one difference per step.
    Euler,
    /// Multistep predictor and corrector of order 2.
    UniPc,
}

impl SamplerKind {
    /// All samplers.
    pub const ALL: [SamplerKind; 2] = [SamplerKind::Euler, SamplerKind::UniPc];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            SamplerKind::Euler => "euler",
            SamplerKind::UniPc => "unipc",
        }
    }

    /// The sampler with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The noise levels that this sampler uses.
    ///
    /// # Errors
    /// See [`Levels::new`].
    pub fn levels(self, steps: usize, shift: f64) -> Result<Levels, RuntimeError> {
        let levels = Levels::new(steps, shift)?;
        match self {
            SamplerKind::Euler => Ok(levels),
            SamplerKind::UniPc => unipc::levels(levels, shift),
        }
    }

    /// A sampler at the start of a run over these levels, for a stream of `elements` numbers.
    pub fn start(self, levels: &Levels, elements: usize) -> Box<dyn Sampler> {
        match self {
            SamplerKind::Euler => Box::new(Euler::new(levels, elements)),
            SamplerKind::UniPc => Box::new(UniPc::new(levels, elements)),
        }
    }
}

/// Where a run is: rejects steps out of order and slices of another length, for every sampler alike.
#[derive(Clone, Debug)]
struct Progress {
    next: usize,
    steps: usize,
    elements: usize,
}

impl Progress {
    fn new(levels: &Levels, elements: usize) -> Self {
        Self { next: 0, steps: levels.steps(), elements }
    }

    fn advance(&mut self, k: usize, velocity: &[f64], x: &[f64]) -> Result<(), RuntimeError> {
        if k != self.next || k >= self.steps {
            let problem = format!("step {k} was asked for when step {} of {} is next", self.next, self.steps);
            return Err(RuntimeError::order("sampler", problem));
        }
        if velocity.len() != self.elements || x.len() != self.elements {
            let (v, n, want) = (velocity.len(), x.len(), self.elements);
            let problem = format!("{v} velocities for a state of {n} numbers, the run began with {want}");
            return Err(RuntimeError::order("sampler", problem));
        }
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misuse_is_an_error() -> Result<(), RuntimeError> {
        for kind in SamplerKind::ALL {
            let levels = kind.levels(2, 5.0)?;
            let mut sampler = kind.start(&levels, 1);
            let mut x = [1.0];
            assert!(sampler.step(1, &[0.0], &mut x).is_err(), "skips a step");
            assert!(sampler.step(0, &[0.0, 0.0], &mut x).is_err(), "another length");
            sampler.step(0, &[0.0], &mut x)?;
            sampler.step(1, &[0.0], &mut x)?;
            assert!(sampler.step(2, &[0.0], &mut x).is_err(), "one too many");
        }
        Ok(())
    }

    #[test]
    fn names_are_found_again() {
        for kind in SamplerKind::ALL {
            assert_eq!(SamplerKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(SamplerKind::from_name("heun"), None);
    }
}
