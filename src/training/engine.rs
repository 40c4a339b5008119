//! One optimiser step: losses and gradients of its batches, a look at them, the update.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ccl_ir::{DType, Plan, TensorType};
use ccl_model::{Clip, Config, Stream, Task, tensors};
use ccl_passes::Training;
use ccl_passes::differentiate::LOSS_SCALE;
use ccl_passes::optimise::{AVERAGE, COUNTED, KEEP, NORM, Optimiser, RATES, SCALE};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::Backend;
use ccl_runtime::learner::Learner;
use ccl_runtime::session::Tensors;
use ccl_runtime::weights::WeightSource;

use super::config::{TrainConfig, matches};
use super::loss::{LossRequest, plan_loss, plan_loss_within};
use super::scaling::Scaling;
use crate::error::Error;
use crate::planning::Algebra;

/// Sizes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Latent sizes.
    pub clip: Clip,
    /// Samples.
    pub batch: usize,
    /// Text tokens of every sample.
    pub text_tokens: usize,
    /// Image tokens of every sample; 0 for none.
    pub image_tokens: usize,
}

/// What to train: a model, tasks, an optimiser.
#[derive(Clone, Debug)]
pub struct EngineSpec<'a> {
    /// The model.
    pub model: &'a Config,
    /// Sizes of a batch.
    pub sizes: Sizes,
    /// The tasks that may be drawn.
    pub tasks: BTreeSet<Task>,
    /// How parameters are updated.
    pub optimiser: Optimiser,
    /// Largest norm of the mean gradient; 0 for any.
    pub clip: f64,
    /// Whether losses are computed without gradients too.
    pub validates: bool,
    /// Memory that a plan may take.
    pub memory: Option<u64>,
    /// The half precision of products and tokens; `None`: all is `f32`.
    pub half: Option<DType>,
    /// Which rules of the algebra may be used, and by whose prices.
    pub algebra: Algebra,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Mean loss of the batches of each stream that the task generates.
    pub parts: BTreeMap<String, f64>,
    /// Norm of the mean gradient before clipping.
    pub norm: f64,
    /// Whether the parameters were updated: not where a loss or the norm is not finite.
    pub applied: bool,
    /// Whether it was not because the gradients' factor was too large, which has been halved.
    pub overflow: bool,
}

/// What the host gives to an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Learning rate of each group.
    pub rates: Vec<f32>,
    /// How far averages move towards the parameters.
    pub average: f32,
}

/// The optimiser that a configuration describes for a model. The last group is of those parameters that no pattern names; streams that
/// no task generates and frozen parameters are not trained.
///
/// # Errors
/// When a pattern fits no parameter, or nothing is left to train.
pub fn optimiser(config: &TrainConfig, model: &Config) -> Result<Optimiser, Error> {
    let o = &config.optimiser;
    let all = tensors(model);
    let named = |field: &str, pattern: &str| match all.iter().any(|t| matches(pattern, &t.name)) {
        true => Ok(()),
        false => Err(Error::Failed(format!(
            "{field}: no parameter of the model has a name like `{pattern}`; names are like `{}`, and * stands for any text",
            all.first().map_or("", |t| t.name.as_str())
        ))),
    };
    o.groups.iter().try_for_each(|g| named("optimiser.groups", &g.names))?;
    o.freeze.iter().try_for_each(|pattern| named("optimiser.freeze", pattern))?;
    let generated = |m: Stream| config.tasks.iter().any(|(task, weight)| *weight > 0.0 && task.produces(m));
    let frozen = |name: &str| o.freeze.iter().any(|pattern| matches(pattern, name));
    let group = |name: &str| o.groups.iter().position(|g| matches(&g.names, name)).unwrap_or(o.groups.len());
    let parameters: BTreeMap<String, (TensorType, usize)> = all
        .iter()
        .filter(|t| generated(t.stream) && !frozen(&t.name))
        .map(|t| (t.name.clone(), (TensorType::f32(t.shape.clone()), group(&t.name))))
        .collect();
    if parameters.is_empty() {
        return Err(Error::Failed("optimiser.freeze leaves no parameter to train".into()));
    }
    Ok(Optimiser {
        beta1: o.betas[0],
        beta2: o.betas[1],
        eps: o.eps,
        decays: config.groups().into_iter().map(|(_, decay)| decay).collect(),
        parameters,
        average: config.ema.decay > 0.0,
        accumulate: o.accumulate > 1,
    })
}

/// The half precision of a training that stores tokens as `dtype`; `None` for `f32`.
///
/// # Errors
/// When the device has no such type, or is the cpu, which computes in `f32`.
pub fn half_of(dtype: DType, backend: &dyn Backend) -> Result<Option<DType>, Error> {
    if dtype == DType::F32 {
        return Ok(None);
    }
    let device = backend.describe();
    let problem = match device.backend.as_str() {
        "cpu" | "reference" => "computes in f32 alone, where it would only be slower",
        _ if !device.element_types.contains(&dtype) => "cannot store that",
        _ => return Ok(Some(dtype)),
    };
    let name = &device.backend;
    Err(Error::Failed(format!("train.precision is {dtype}, but {name} ({}) {problem}: use f32", device.name)))
}

/// The plan of a validation, by the name of its task.
fn validation(task: Task) -> String {
    format!("validate.{task}")
}

/// Plans of every task on one state.
pub struct Engine {
    learner: Learner,
    clip: f64,
    average: bool,
    /// States with the sums of gradients.
    sums: Vec<String>,
    trained: BTreeSet<String>,
    scaling: Scaling,
}

impl<'a> EngineSpec<'a> {
    /// One task, trained as a configuration that says nothing else does.
    ///
    /// # Errors
    /// As for [`optimiser`].
    pub fn of_task(model: &'a Config, task: Task, sizes: Sizes) -> Result<Self, Error> {
        let config = TrainConfig { tasks: [(task, 1.0)].into(), ..TrainConfig::default() };
        Ok(Self {
            model,
            sizes,
            tasks: [task].into(),
            optimiser: optimiser(&config, model)?,
            clip: config.optimiser.clip,
            validates: false,
            memory: None,
            half: None,
            algebra: Algebra::default(),
        })
    }

    /// Compiles the plans, by name.
    ///
    /// # Errors
    /// When the clip does not fit the model, or a pass fails.
    pub fn plans(&self) -> Result<Vec<(String, Arc<Plan>)>, Error> {
        let computed = |m: Stream| self.tasks.iter().any(|task| task.computes(m));
        let parameters = tensors(self.model).into_iter().filter(|t| computed(t.stream));
        let mut states: Vec<(String, TensorType)> =
            parameters.map(|t| (t.name, TensorType::new(DType::F32, t.shape))).collect();
        states.extend(self.optimiser.states());
        let request = |task: Task, training: Option<Training>| LossRequest {
            task,
            clip: self.sizes.clip,
            batch: self.sizes.batch,
            text_tokens: self.sizes.text_tokens,
            image_tokens: if task.computes(Stream::Video) { self.sizes.image_tokens } else { 0 },
            training,
            states: states.clone(),
            algebra: self.algebra.clone(),
            validate: false,
        };
        let mut plans = Vec::new();
        for &task in &self.tasks {
            let training = Training { optimiser: Some(self.optimiser.clone()), half: self.half, ..Training::default() };
            let request_of = request(task, Some(training));
            let plan = match self.memory {
                Some(bytes) => plan_loss_within(self.model, &request_of, bytes)?,
                None => plan_loss(self.model, &request_of)?,
            };
            plans.push((task.to_string(), plan.into()));
            if self.validates {
                plans.push((validation(task), plan_loss(self.model, &request(task, None))?.into()));
            }
        }
        Ok(plans)
    }
}

impl Engine {
    /// Puts plans of a specification on a backend, all states zero.
    ///
    /// # Errors
    /// When the backend cannot run a plan, or memory does not suffice.
    pub fn new(spec: &EngineSpec<'_>, plans: Vec<(String, Arc<Plan>)>, backend: &dyn Backend) -> Result<Self, Error> {
        let learner = Learner::new(backend, plans)?;
        let sums = learner.states().map(|(name, _)| name.to_owned()).filter(|n| n.starts_with("sum.")).collect();
        let trained = spec.optimiser.trained();
        let scaling = Scaling::new(spec.half);
        Ok(Self { learner, clip: spec.clip, average: spec.optimiser.average, sums, trained, scaling })
    }

    /// The plans and their state.
    pub fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    /// Names of the parameters that are trained.
    pub fn trained(&self) -> &BTreeSet<String> {
        &self.trained
    }

    /// The factor of the gradients, to be kept with a checkpoint.
    pub fn scaling(&mut self) -> &mut Scaling {
        &mut self.scaling
    }

    /// Whether averages of the parameters are kept.
    pub fn averages(&self) -> bool {
        self.average
    }

    /// Writes the first parameters, and averages that begin with them.
    ///
    /// # Errors
    /// When the source lacks one or has it in another shape.
    pub fn load(&mut self, source: &dyn WeightSource) -> Result<(), Error> {
        let names: Vec<String> = self.learner.states().map(|(n, _)| n.to_owned()).collect();
        let parameters: Vec<&str> = names.iter().filter(|n| is_parameter(n)).map(String::as_str).collect();
        self.learner.load(source, parameters)?;
        for name in names.iter().filter(|n| n.starts_with("ema.")) {
            let first = self.learner.read_state(&name["ema.".len()..])?;
            self.learner.write_state(name, &first)?;
        }
        Ok(())
    }

    /// Names and types of what a task's batch has.
    ///
    /// # Errors
    /// When the task is none of the engine's.
    pub fn inputs(&self, task: Task) -> Result<Vec<(String, TensorType)>, Error> {
        let plan = self.learner.plan(task.name())?;
        let given = |name: &str| name != LOSS_SCALE && name != KEEP;
        let step = plan.inputs.iter().filter(|p| p.binding == ccl_ir::Binding::Step && given(&p.name));
        Ok(step.map(|p| (p.name.clone(), p.operand.ty.clone())).collect())
    }

    /// Trains on the batches of one step, and updates the parameters if everything is finite.
    ///
    /// # Errors
    /// When a batch lacks an input, there is none, or a kernel fails.
    pub fn step(
        &mut self,
        task: Task,
        batches: impl IntoIterator<Item = Result<Tensors, Error>>,
        pace: &Pace,
    ) -> Result<Outcome, Error> {
        let scalar = |x: f32| HostTensor::f32([], vec![x]);
        let (mut parts, mut count, mut squares) = (BTreeMap::new(), 0u32, f64::NAN);
        for batch in batches {
            let mut batch = batch?;
            batch.insert(LOSS_SCALE.into(), scalar(self.scaling.factor()));
            batch.insert(KEEP.into(), scalar(if count == 0 { 0.0 } else { 1.0 }));
            let outputs = self.learner.step(task.name(), &batch)?;
            squares = number(&outputs, NORM)?;
            add_parts(&mut parts, &outputs)?;
            count += 1;
        }
        if count == 0 {
            return Err(Error::Failed("a step without batches".into()));
        }
        parts.values_mut().for_each(|x| *x /= f64::from(count));
        let by = f64::from(count) * f64::from(self.scaling.factor());
        let norm = squares.sqrt() / by;
        let applied = norm.is_finite() && parts.values().all(|x| x.is_finite());
        if applied {
            let clipped = if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
            let mut settings = Tensors::new();
            settings.insert(RATES.into(), HostTensor::f32([pace.rates.len()], pace.rates.clone()));
            settings.insert(SCALE.into(), scalar((clipped / by) as f32));
            settings.insert(AVERAGE.into(), scalar(pace.average));
            settings.insert(COUNTED.into(), scalar(1.0));
            self.learner.update(task.name(), &settings)?;
        } else {
            // What is no number stays none when it is multiplied by zero.
            for name in &self.sums {
                let zero = HostTensor::zeros(&self.learner.read_state(name)?.ty());
                self.learner.write_state(name, &zero)?;
            }
        }
        let overflow = !applied && self.scaling.explains_overflow();
        self.scaling = self.scaling.after(applied);
        Ok(Outcome { parts, norm, applied, overflow })
    }

    /// Losses of a batch, by stream.
    ///
    /// # Errors
    /// When the batch lacks an input or a kernel fails.
    pub fn losses(&mut self, task: Task, batch: &Tensors) -> Result<BTreeMap<String, f64>, Error> {
        let mut parts = BTreeMap::new();
        add_parts(&mut parts, &self.learner.step(&validation(task), batch)?)?;
        Ok(parts)
    }

    /// Calls `work` with the averages in the parameters' places, and puts the parameters back. Where no averages are kept it is not called.
    ///
    /// # Errors
    /// As `work`, and when the device failed.
    pub fn with_averages<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<Option<T>, Error> {
        if !self.average {
            return Ok(None);
        }
        let mut saved = Vec::new();
        for name in self.trained.clone() {
            let average = self.learner.read_state(&format!("ema.{name}"))?;
            saved.push((name.clone(), self.learner.read_state(&name)?));
            self.learner.write_state(&name, &average)?;
        }
        let done = work(self);
        for (name, tensor) in saved {
            self.learner.write_state(&name, &tensor)?;
        }
        done.map(Some)
    }
}

/// Whether a state is a parameter of the model rather than something that training keeps beside it.
pub fn is_parameter(state: &str) -> bool {
    !["adam.", "ema.", "sum."].iter().any(|p| state.starts_with(p))
}

/// Adds up the outputs `loss.<stream>`.
fn add_parts(parts: &mut BTreeMap<String, f64>, outputs: &Tensors) -> Result<(), Error> {
    for (name, _) in outputs.iter() {
        if let Some(stream) = name.strip_prefix("loss.") {
            *parts.entry(stream.to_owned()).or_default() += number(outputs, name)?;
        }
    }
    Ok(())
}

/// An output that is one number.
fn number(outputs: &Tensors, name: &str) -> Result<f64, Error> {
    let value = outputs.get(name).and_then(|t| t.as_f32()?.first().copied());
    value.map(f64::from).ok_or_else(|| Error::Failed(format!("the plan has no output `{name}`")))
}
