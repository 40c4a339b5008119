//! The sampling loop: from noise to latents with a [`Session`] and a sampler (SPEC 8).
//!
//! Every stream that the plan produces (an output `guided.<stream>` or `velocity.<stream>`) starts from `noise.<stream>`
//! where the inputs have it, else from normal numbers that depend on the seed and that name alone
//! ([`crate::random::Stream`]): the same seed gives a stream the same noise, whatever else is sampled with it. The state is
//! kept in `f64`; the model is given it rounded to `f32`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use ccl_ir::{Binding, Plan, TensorType};

use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::inputs::Inputs;
use crate::ports;
use crate::random::Stream;
use crate::sampler::{Sampler, SamplerKind};
use crate::session::{Session, Tensors};

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Denoise {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Number of denoising steps.
    pub steps: usize,
    /// Shift of the noise levels; 5 in the model's own code.
    pub shift: f64,
    /// Seed of the noise that is not given.
    pub seed: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps that are done; 0 when the prologue is.
    pub done: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Wall time of what was done last, in seconds.
    pub seconds: f64,
}

/// One of several plans that sample together.
pub struct Part<'s> {
    /// The plan.
    pub session: &'s mut Session,
    /// Its inputs, without levels and latents.
    pub inputs: &'s Inputs,
}

/// A stream that is being sampled.
struct Latent {
    /// Name of the stream and of the plan's input.
    stream: String,
    /// Name of the output with its velocity.
    velocity: String,
    shape: Vec<usize>,
    state: Vec<f64>,
    sampler: Box<dyn Sampler>,
}

impl Denoise {
    /// Samples the plan's streams and returns them as `sample.<stream>`.
    ///
    /// `inputs` is what [`Session::prologue`] takes, without levels and latents. `report` is called after the prologue and after
    /// every step; [`ControlFlow::Break`] stops the run.
    ///
    /// # Errors
    /// When steps or shift make no sense, the plan produces no stream, noise has another shape than the stream, the
    /// session fails (see there), a result is not finite, or `report` stops the run ([`RuntimeError::Cancelled`]).
    pub fn run(
        &self,
        session: &mut Session,
        inputs: &Inputs,
        report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Tensors, RuntimeError> {
        self.run_together(&mut [Part { session, inputs }], &|mut all| all.pop().unwrap_or_default(), report)
    }

    /// Samples the first part's streams, whose velocities are made of what all parts say: `combine` is given the outputs of each
    /// part, in order, and returns the first part's outputs `velocity.<stream>` or `guided.<stream>`. Every part is given the latents
    /// that its own plan produces.
    ///
    /// This is for guidance that no plan has within: where the unconditional pass reads other conditions.
    ///
    /// # Errors
    /// As for [`Denoise::run`], and when there is no part.
    pub fn run_together(
        &self,
        parts: &mut [Part<'_>],
        combine: &dyn Fn(Vec<Tensors>) -> Tensors,
        report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Tensors, RuntimeError> {
        let mut report = |done: usize, since: Instant| {
            let progress = Progress { done, steps: self.steps, seconds: since.elapsed().as_secs_f64() };
            match report(progress) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(RuntimeError::Cancelled { done, steps: self.steps }),
            }
        };
        let levels = self.sampler.levels(self.steps, self.shift)?;
        let Some(first) = parts.first() else {
            return Err(RuntimeError::input("plan", "velocity.<stream>", "there is no plan to sample with"));
        };
        let mut latents = Vec::new();
        for (stream, velocity, ty) in streams(first.session.plan())? {
            let state = self.noise(&stream, &ty, first.inputs)?;
            let sampler = self.sampler.start(&levels, state.len());
            latents.push(Latent { stream, velocity, shape: ty.shape, state, sampler });
        }
        let mut reads = Vec::new();
        let start = Instant::now();
        for part in parts.iter_mut() {
            reads.push(streams(part.session.plan())?.into_iter().map(|(stream, ..)| stream).collect::<Vec<_>>());
            let batch = ports::clock_batch(part.session.plan()).unwrap_or(1);
            part.session.prologue_at(part.inputs, levels.table(batch))?;
        }
        report(0, start)?;
        for k in 0..self.steps {
            let start = Instant::now();
            let mut outputs = Vec::new();
            for (part, reads) in parts.iter_mut().zip(&reads) {
                let given = latents.iter().filter(|l| reads.contains(&l.stream));
                let given = given.map(|l| (l.stream.clone(), l.rounded())).collect();
                outputs.push(part.session.step(&given, k)?);
            }
            let outputs = combine(outputs);
            for latent in &mut latents {
                latent.advance(k, &outputs)?;
            }
            report(k + 1, start)?;
        }
        latents.into_iter().map(Latent::finish).collect()
    }

    /// Checks, before anything is loaded, that [`Denoise::run`] finds among `inputs` what it needs.
    ///
    /// # Errors
    /// What the run would refuse later.
    pub fn check(&self, plan: &Plan, inputs: &Inputs) -> Result<(), RuntimeError> {
        self.sampler.levels(self.steps, self.shift)?;
        for (stream, _, ty) in streams(plan)? {
            let noise = format!("noise.{stream}");
            if inputs.contains(&noise) {
                inputs.get(&noise, &ty)?;
            }
        }
        Session::check_inputs(plan, inputs, true)
    }

    /// The state that a stream starts from.
    fn noise(&self, stream: &str, ty: &TensorType, inputs: &Inputs) -> Result<Vec<f64>, RuntimeError> {
        let name = format!("noise.{stream}");
        let noise = if inputs.contains(&name) {
            let given = inputs.get(&name, ty)?.into_owned();
            given.check(&name, ty)?;
            ports::finite(&name, &given)?;
            given
        } else {
            let mut noise = HostTensor::zeros(ty);
            if let crate::host::HostData::F32(data) = &mut noise.data {
                Stream::new(self.seed, &name).normal(data);
            }
            noise
        };
        Ok(noise.as_f32().unwrap_or_default().iter().map(|&x| f64::from(x)).collect())
    }
}

/// Streams that a plan produces: name, name of the velocity, type of the latent. Sorted by name.
fn streams(plan: &Plan) -> Result<Vec<(String, String, TensorType)>, RuntimeError> {
    let mut found = BTreeMap::new();
    for port in plan.outputs.iter().filter(|p| p.binding <= Binding::Step) {
        let Some(stream) = ["guided.", "velocity."].iter().find_map(|p| port.name.strip_prefix(p)) else { continue };
        let latent = plan.input(stream).map(|p| &p.operand.ty).filter(|ty| ty.shape == port.operand.ty.shape);
        let Some(latent) = latent else {
            let problem = format!("is {}, but there is no input `{stream}` of that shape to sample", port.operand.ty);
            return Err(RuntimeError::input("plan", &port.name, problem));
        };
        found.insert(stream.to_string(), (port.name.clone(), latent.clone()));
    }
    if found.is_empty() {
        let problem = "is not among the plan's outputs; sampling needs the velocity of a stream";
        return Err(RuntimeError::input("plan", "velocity.<stream>", problem));
    }
    Ok(found.into_iter().map(|(stream, (velocity, ty))| (stream, velocity, ty)).collect())
}

impl Latent {
    /// The state as the model is given it.
    fn rounded(&self) -> HostTensor {
        HostTensor::f32(self.shape.clone(), self.state.iter().map(|&x| x as f32).collect())
    }

    fn advance(&mut self, k: usize, outputs: &Tensors) -> Result<(), RuntimeError> {
        let velocity = outputs.get(&self.velocity).and_then(HostTensor::as_f32);
        let Some(velocity) = velocity else {
            return Err(RuntimeError::input("plan", &self.velocity, "holds no real numbers"));
        };
        let velocity: Vec<f64> = velocity.iter().map(|&v| f64::from(v)).collect();
        self.sampler.step(k, &velocity, &mut self.state)
    }

    fn finish(self) -> Result<(String, HostTensor), RuntimeError> {
        let (name, sample) = (format!("sample.{}", self.stream), self.rounded());
        if !sample.is_finite() {
            return Err(RuntimeError::NotFinite { when: "after the last step".into(), name });
        }
        Ok((name, sample))
    }
}
