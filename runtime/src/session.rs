//! One plan on one backend, driven the right way: the entry points in order, inputs by name, outputs that are numbers.
//!
//! A session runs `load` once, `prologue` once per clip and `step` as often as there are noise levels. It checks every
//! tensor before a plan sees it and every result before the caller does: what is returned is finite.
//!
//! Beyond copying tensors it knows these names:
//!
//! - `text_len`, `negative_text_len`, `image_len`: where a plan has such a count, the tensor may be shorter than the
//!   plan's capacity (its axis 1). The session pads it with zeros and sets the count; the plan never reads the padding.
//! - `reference.video`, `reference.audio`: read from `video` and `audio` where not given by their own name.
//! - `schedule` (noise levels, one row per step), `step` (the row) and, in plans without a schedule, `t`: written from
//!   the levels given to [`Session::prologue`].
//!
//! A plan holds a fixed number `N` of schedule rows. A longer schedule is served in pieces: whenever a step needs
//! another piece, its rows are uploaded and the prologue runs again. Unused rows repeat the last level.

use std::collections::BTreeMap;
use std::sync::Arc;

use ccl_ir::plan::Port;
use ccl_ir::{Binding, Plan};

use crate::backend::{Backend, Instance};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::inputs::Inputs;
use crate::ports;
use crate::weights::WeightSource;

/// Tensors by name.
pub type Tensors = BTreeMap<String, HostTensor>;

impl From<Tensors> for Inputs {
    fn from(tensors: Tensors) -> Self {
        let mut inputs = Inputs::new();
        for (name, tensor) in tensors {
            inputs.insert(name, tensor);
        }
        inputs
    }
}

/// What a clip's steps need to know.
struct Clip {
    /// Fitted values of the plan's inputs, by port; kept because a new piece of the schedule writes them again.
    values: BTreeMap<usize, HostTensor>,
    /// Noise levels `[steps, batch]`, where the plan asks for such.
    schedule: Option<HostTensor>,
    /// The piece of the schedule that is in the plan now.
    piece: Option<usize>,
    /// Outputs of the prologue.
    outputs: Tensors,
}

/// A plan that is loaded and can denoise.
pub struct Session {
    plan: Arc<Plan>,
    instance: Box<dyn Instance>,
    /// Outputs of `load`.
    outputs: Tensors,
    clip: Option<Clip>,
}

impl Session {
    /// Puts the plan on the backend and runs `load`.
    ///
    /// # Errors
    /// When the plan cannot be instantiated (see [`Backend::instantiate`]), wants an input before any can be given, or
    /// `load` fails.
    pub fn new(backend: &dyn Backend, plan: Arc<Plan>, weights: &dyn WeightSource) -> Result<Self, RuntimeError> {
        let instance = backend.instantiate(Arc::clone(&plan), weights)?;
        ports::check_plan(&plan)?;
        let mut session = Self { plan, instance, outputs: Tensors::new(), clip: None };
        session.outputs = session.run(Binding::Load, "load")?;
        Ok(session)
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The plan on its device, to measure it.
    pub fn instance(&mut self) -> &mut dyn Instance {
        self.instance.as_mut()
    }

    /// Checks, before anything is loaded, that a plan finds among `inputs` what it needs; with `sampled` the levels and
    /// latents of the steps come from a sampler.
    ///
    /// # Errors
    /// What [`Session::prologue`] and the first step would refuse later.
    pub fn check_inputs(plan: &Plan, inputs: &Inputs, sampled: bool) -> Result<(), RuntimeError> {
        for port in plan.inputs.iter().filter(|p| !ports::is_clock(p)) {
            let later = sampled && port.binding == Binding::Step;
            if ports::fit(plan, port, inputs)?.is_none() && !later {
                return Err(missing(port, inputs));
            }
        }
        if !sampled {
            ports::schedule(plan, inputs)?;
        }
        Ok(())
    }

    /// Starts a clip: takes its inputs and levels, and runs the prologue.
    ///
    /// `inputs` has the plan's inputs by name; those that change from step to step may be left to [`Session::step`], and
    /// names that the plan does not know are passed over. The levels are `schedule [steps, batch]`, or `t [batch]` for a
    /// single step.
    ///
    /// # Errors
    /// When an input is missing, has another shape, is longer than the plan's capacity or holds what is no finite number;
    /// or when a kernel fails.
    pub fn prologue(&mut self, inputs: &Inputs) -> Result<(), RuntimeError> {
        self.clip = None;
        let schedule = ports::schedule(&self.plan, inputs)?;
        self.begin(inputs, schedule)
    }

    /// The same with levels that are not among the inputs.
    ///
    /// # Errors
    /// As for [`Session::prologue`].
    pub fn prologue_at(&mut self, inputs: &Inputs, schedule: HostTensor) -> Result<(), RuntimeError> {
        self.clip = None;
        ports::check_schedule(&self.plan, &schedule)?;
        self.begin(inputs, Some(schedule))
    }

    fn begin(&mut self, inputs: &Inputs, schedule: Option<HostTensor>) -> Result<(), RuntimeError> {
        let mut values = BTreeMap::new();
        for (i, port) in self.plan.inputs.iter().enumerate() {
            if ports::is_clock(port) {
                continue;
            }
            if let Some(value) = ports::fit(&self.plan, port, inputs)? {
                values.insert(i, value);
            } else if port.binding < Binding::Step {
                return Err(missing(port, inputs));
            }
        }
        self.clip = Some(Clip { values, schedule, piece: None, outputs: Tensors::new() });
        self.enter(0)
    }

    /// Number of steps that the clip's levels allow; `None` before a clip and where the plan asks for no levels.
    pub fn steps(&self) -> Option<usize> {
        self.clip.as_ref()?.schedule.as_ref().map(|s| s.shape[0])
    }

    /// Runs step `k`, counted from 0, and returns every output that is known then.
    ///
    /// `latents` has the plan's step inputs; one that is not there keeps what the prologue was given by that name.
    ///
    /// # Errors
    /// When there is no clip or no such step, a latent is missing or does not fit, a kernel fails, or a result is not
    /// finite.
    pub fn step(&mut self, latents: &Tensors, k: usize) -> Result<Tensors, RuntimeError> {
        let steps = self.steps();
        if self.clip.is_none() || steps.is_some_and(|n| k >= n) {
            let problem = match steps {
                Some(n) => format!("step {} was asked for, the schedule has {n}", k + 1),
                None => "a step was asked for before a prologue".into(),
            };
            return Err(RuntimeError::order("session", problem));
        }
        self.enter(k)?;
        self.write_clock(k)?;
        let plan = Arc::clone(&self.plan);
        for (i, port) in plan.inputs.iter().enumerate() {
            if port.binding != Binding::Step || ports::is_clock(port) {
                continue;
            }
            match latents.get(&port.name) {
                Some(value) => {
                    ports::finite(&port.name, value)?;
                    self.instance.write(i, value)?;
                }
                // Written by `enter`, and kept while the clip lasts.
                None if self.clip.as_ref().is_some_and(|c| c.values.contains_key(&i)) => {}
                None => return Err(missing(port, &Inputs::new())),
            }
        }
        let when = steps.map_or_else(|| format!("step {}", k + 1), |n| format!("step {} of {n}", k + 1));
        let mut outputs = self.run(Binding::Step, &when)?;
        for (name, tensor) in self.outputs.iter().chain(self.clip.iter().flat_map(|c| &c.outputs)) {
            outputs.insert(name.clone(), tensor.clone());
        }
        Ok(outputs)
    }

    /// Runs what comes after the last step and returns its outputs.
    ///
    /// # Errors
    /// When there is no clip, an input is missing, a kernel fails, or a result is not finite.
    pub fn epilogue(&mut self) -> Result<Tensors, RuntimeError> {
        let Some(clip) = &self.clip else {
            return Err(RuntimeError::order("session", "an epilogue was asked for before a prologue"));
        };
        for (i, port) in self.plan.inputs.iter().enumerate().filter(|(_, p)| p.binding == Binding::Epilogue) {
            self.instance.write(i, clip.values.get(&i).ok_or_else(|| missing(port, &Inputs::new()))?)?;
        }
        self.run(Binding::Epilogue, "epilogue")
    }

    /// Brings the piece of the schedule that has step `k` into the plan, with everything that the prologue makes of it.
    fn enter(&mut self, k: usize) -> Result<(), RuntimeError> {
        let piece = ports::schedule_port(&self.plan).map_or(0, |(_, port)| k / port.operand.ty.shape[0]);
        let Some(mut clip) = self.clip.take() else { return Ok(()) };
        if clip.piece != Some(piece) {
            // A failure leaves the session without a clip: the plan may hold half of one.
            self.write_clip(&clip, piece, Binding::Prologue)?;
            clip.outputs = self.run(Binding::Prologue, "prologue")?;
            self.write_clip(&clip, piece, Binding::Step)?;
            clip.piece = Some(piece);
        }
        self.clip = Some(clip);
        Ok(())
    }

    /// Writes what the clip has for the inputs bound to one entry.
    fn write_clip(&mut self, clip: &Clip, piece: usize, entry: Binding) -> Result<(), RuntimeError> {
        for (i, port) in self.plan.inputs.iter().enumerate().filter(|(_, p)| p.binding == entry) {
            let ty = &port.operand.ty;
            match (&clip.schedule, clip.values.get(&i)) {
                (_, Some(value)) => self.instance.write(i, value)?,
                (Some(table), None) if port.name == ports::SCHEDULE => {
                    self.instance.write(i, &ports::rows(table, piece * ty.shape[0], ty))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells the plan which step it is.
    fn write_clock(&mut self, k: usize) -> Result<(), RuntimeError> {
        let rows = ports::schedule_port(&self.plan).map_or(1, |(_, port)| port.operand.ty.shape[0]);
        for (i, port) in self.plan.inputs.iter().enumerate() {
            match port.name.as_str() {
                ports::STEP => self.instance.write(i, &HostTensor::i32([], vec![(k % rows) as i32]))?,
                ports::TIME => {
                    if let Some(table) = self.clip.as_ref().and_then(|c| c.schedule.as_ref()) {
                        self.instance.write(i, &ports::rows(table, k, &port.operand.ty))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, entry: Binding, when: &str) -> Result<Tensors, RuntimeError> {
        run(self.instance.as_mut(), &self.plan, entry, when)
    }
}

/// Runs an entry and reads its outputs, all of them finite.
fn run(instance: &mut dyn Instance, plan: &Plan, entry: Binding, when: &str) -> Result<Tensors, RuntimeError> {
    instance.run(entry)?;
    let mut outputs = Tensors::new();
    for (i, port) in plan.outputs.iter().enumerate().filter(|(_, p)| p.binding == entry) {
        let tensor = instance.read(i)?;
        if !tensor.is_finite() {
            return Err(RuntimeError::NotFinite { when: when.into(), name: port.name.clone() });
        }
        outputs.insert(port.name.clone(), tensor);
    }
    Ok(outputs)
}

fn missing(port: &Port, inputs: &Inputs) -> RuntimeError {
    let problem = match ports::is_count(port) {
        true => "is missing".into(),
        false => format!("is missing, the plan wants {}", port.operand.ty),
    };
    inputs.problem(ports::given_name(port), problem)
}
