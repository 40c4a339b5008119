//! The loop: draw a task and a batch, learn from it, write down how it went, keep what was learned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ccl_ir::TensorType;
use ccl_model::{Config, Stream, Task};
use ccl_runtime::backend::Backend;
use ccl_runtime::device::process_memory;
use ccl_runtime::weights::WeightSource;
use serde_json::{Map, Value};

use super::checkpoint::{self, Record};
use super::config::TrainConfig;
use super::draws::Draws;
use super::engine::{Engine, EngineSpec, Outcome, Pace, Sizes, half_of, optimiser};
use super::feed::{self, Feed, Validation};
use super::keep;
use super::metrics::{Averages, Metrics, Row};
use super::scaling::Scaling;
use super::source::{Data, Start};
use crate::error::Error;
use crate::planning::Algebra;

/// A training that is ready to go on.
pub struct Trainer {
    config: TrainConfig,
    model: Config,
    sizes: Sizes,
    /// Parameters that no plan keeps in its state are as they were at the beginning.
    first: Box<dyn WeightSource>,
    engine: Engine,
    wanted: BTreeMap<Task, Vec<(String, TensorType)>>,
    feed: Feed,
    validation: Option<Validation>,
    settings: BTreeMap<String, Value>,
    metrics: Metrics,
    averages: Averages,
    step: u64,
    skipped: u64,
    /// Held for as long as this training uses its directory.
    _lock: File,
}

/// How far a training is, after each step.
pub struct Progress<'a> {
    /// Steps that are done.
    pub step: u64,
    /// Steps of the whole training.
    pub steps: u64,
    /// Seconds until the end at the speed so far.
    pub seconds_left: f64,
    /// Averages of the losses.
    pub averages: &'a Averages,
    /// Tokens a second since the last line of metrics.
    pub tokens_per_s: f64,
    /// Memory of this process.
    pub memory: Option<u64>,
    /// The line of metrics, if one is due.
    pub row: Option<&'a Row>,
    /// The checkpoint that was just written, if any.
    pub checkpoint: Option<&'a Path>,
}

/// What a training came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Steps that are done.
    pub step: u64,
    /// Steps that this run did.
    pub steps_run: u64,
    /// Seconds that this run took.
    pub seconds: f64,
    /// Updates that were skipped.
    pub skipped: u64,
    /// The newest checkpoint; `None` of a training that was stopped before it was in good health.
    pub checkpoint: Option<PathBuf>,
    /// Averages of the losses.
    pub averages: Averages,
}

impl Trainer {
    /// Sets a training up: from the beginning, or with `resume` from the newest checkpoint, if there is one.
    ///
    /// # Errors
    /// When the configuration, the model or the data is wrong, they do not fit each other or the checkpoint, the directory is in use or
    /// holds another training, or memory does not suffice.
    pub fn start(config: TrainConfig, resume: bool, backend: &dyn Backend) -> Result<Self, Error> {
        let out = config.train.out.clone();
        let data = Data::open(&config.data)?;
        // A directory that is not there yet is made when all else is right.
        let held = if out.exists() { Some(keep::lock(&out)?) } else { None };
        let found = checkpoint::newest(&out)?;
        if let (Some((dir, _)), false) = (&found, resume) {
            let problem = "a training is there already; go on with --resume, or name another directory with --out";
            return Err(Error::Failed(format!("{}: {problem}", dir.display())));
        }
        let start = match &found {
            Some((dir, _)) => Start::from_checkpoint(dir, config.train.seed)?,
            None => Start::new(&config.model, config.train.seed)?,
        };
        let model = start.model;
        let settings = keep::settings(&config, &model, &data)?;
        if let Some((dir, record)) = &found {
            record.agrees(&settings, dir)?;
        }
        let sizes = data.sizes(&model, config.data.clip, config.train.batch)?;
        let tasks: BTreeSet<Task> = config.tasks.iter().filter(|(_, w)| **w > 0.0).map(|(t, _)| *t).collect();
        let validation = Validation::new(&config, &data)?;
        let spec = EngineSpec {
            model: &model,
            sizes,
            tasks: tasks.clone(),
            optimiser: optimiser(&config, &model)?,
            clip: config.optimiser.clip,
            validates: validation.is_some(),
            memory: config.train.memory,
            half: half_of(config.train.precision.dtype(), backend)?,
            algebra: Algebra::default(),
        };
        let mut engine = Engine::new(&spec, spec.plans()?, backend)?;
        let mut wanted = BTreeMap::new();
        for task in tasks {
            let inputs = engine.inputs(task)?;
            feed::check(data.train.as_ref(), task, &inputs)?;
            if let Some((source, _)) = &data.validation {
                feed::check(source.as_ref(), task, &inputs)?;
            }
            wanted.insert(task, inputs);
        }
        engine.load(start.parameters.as_ref())?;
        let record = match &found {
            Some((dir, record)) => {
                keep::restore(&mut engine, dir)?;
                if let Some(scaling) = record.scaling {
                    *engine.scaling() = scaling;
                }
                record.clone()
            }
            None => Record::new(0, 0, 0, Averages::default(), BTreeMap::new()),
        };
        let feed = Feed::new(&config, &data, record.position)?;
        let lock = held.map_or_else(|| keep::lock(&out), Ok)?;
        checkpoint::clean(&out)?;
        let metrics = Metrics::open(&out, record.step)?;
        Ok(Self {
            config,
            model,
            sizes,
            first: start.parameters,
            engine,
            wanted,
            feed,
            validation,
            settings,
            metrics,
            averages: record.averages,
            step: record.step,
            skipped: record.skipped,
            _lock: lock,
        })
    }

    /// Steps that are done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The model's configuration.
    pub fn model(&self) -> &Config {
        &self.model
    }

    /// Sizes of a batch.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Plans and their state, to measure and to look at.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Trains to the end, or until `say`, which is told of every step, stops the training: then there is a checkpoint of that step.
    ///
    /// # Errors
    /// When a sample is broken, a kernel fails, too many updates in a row are skipped, or the last checkpoint cannot be written. What
    /// checkpoints there are stay.
    pub fn run(&mut self, say: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>) -> Result<Summary, Error> {
        let (begin, from, before) = (Instant::now(), self.step, self.metrics.seconds());
        let steps = self.config.train.steps;
        let (mut in_a_row, mut owed) = (0, false);
        // Since the last line of metrics: when it was, and the tokens since then.
        let (mut since, mut tokens) = (Instant::now(), 0u64);
        while self.step < steps {
            let (task, outcome) = self.one()?;
            tokens += self.tokens(task);
            let t = &self.config.train;
            if outcome.applied {
                in_a_row = 0;
            } else if outcome.overflow {
                let factor = self.engine.scaling().factor();
                tracing::info!(
                    "step {}, task {task}: gradients overflow; they are multiplied by {factor} from now on",
                    self.step
                );
            } else {
                in_a_row += 1;
                let what = not_finite(&outcome);
                let text = format!("step {}, task {task}: {what}", self.step);
                if in_a_row >= t.max_skipped {
                    return Err(self.stopped(&text, in_a_row));
                }
                tracing::warn!("{text}; the update is left out ({in_a_row} in a row)");
            }
            let last = self.step == steps;
            let validate = self.validation.is_some() && (last || self.step.is_multiple_of(t.validate_every));
            let log = last || validate || self.step.is_multiple_of(t.log_every);
            let seconds = since.elapsed().as_secs_f64();
            let tokens_per_s = tokens as f64 / seconds.max(1e-9);
            owed |= last || self.step.is_multiple_of(t.checkpoint_every);
            if log {
                let norm = outcome.norm.is_finite().then_some(outcome.norm);
                self.note(before + begin.elapsed().as_secs_f64(), norm, tokens_per_s, validate)?;
                (since, tokens) = (Instant::now(), 0);
            }
            // Not while updates are being skipped: what is kept is a training in good health.
            let due = owed && (in_a_row == 0 || last);
            let written = if due { self.keep(last)? } else { None };
            owed &= !due;
            let spent = begin.elapsed().as_secs_f64() / (self.step - from) as f64;
            let go_on = say(&Progress {
                step: self.step,
                steps,
                seconds_left: spent * (steps - self.step) as f64,
                averages: &self.averages,
                tokens_per_s,
                memory: process_memory().resident_bytes.filter(|_| log),
                row: self.metrics.rows().last().filter(|_| log),
                checkpoint: written.as_deref(),
            });
            if go_on.is_break() && !last {
                if in_a_row == 0 && written.is_none() {
                    self.keep(true)?;
                }
                break;
            }
        }
        Ok(Summary {
            step: self.step,
            steps_run: self.step - from,
            seconds: begin.elapsed().as_secs_f64(),
            skipped: self.skipped,
            checkpoint: checkpoint::list(&self.config.train.out)?.pop().map(|(_, dir)| dir),
            averages: self.averages.clone(),
        })
    }

    /// The next step.
    fn one(&mut self) -> Result<(Task, Outcome), Error> {
        let config = &self.config;
        let step = self.step + 1;
        let task = Draws::new(config.train.seed).task(step, config.tasks.iter());
        let task = task.ok_or_else(|| Error::Failed("tasks: no task has a weight above 0".into()))?;
        let wanted = self.wanted.get(&task).map_or(&[][..], Vec::as_slice);
        let share = config.rate_at(step);
        let pace = Pace {
            rates: config.groups().into_iter().map(|(rate, _)| (rate * share) as f32).collect(),
            average: config.average_at(step) as f32,
        };
        let feed = &mut self.feed;
        let batches = (0..config.optimiser.accumulate).map(|part| feed.next(step, part, wanted));
        let outcome = self.engine.step(task, batches, &pace)?;
        self.step = step;
        if outcome.applied {
            for (stream, loss) in &outcome.parts {
                self.averages.add(&format!("{task}.{stream}"), *loss);
            }
        } else {
            self.skipped += 1;
        }
        Ok((task, outcome))
    }

    /// Tokens of the streams that a step of a task computes.
    fn tokens(&self, task: Task) -> u64 {
        let Ok(grid) = self.sizes.clip.grid(&self.model) else { return 0 };
        let streams = Stream::ALL.into_iter().filter(|m| task.computes(*m));
        let each: usize = streams.map(|m| grid.tokens(m)).sum();
        (each * self.sizes.batch * self.config.optimiser.accumulate) as u64
    }

    /// Adds a line of metrics. A full disk does not end a training.
    fn note(&mut self, seconds: f64, norm: Option<f64>, tokens_per_s: f64, validate: bool) -> Result<(), Error> {
        let round = |x: f64, unit: f64| (x / unit).round() * unit;
        let mut losses: Map<String, Value> = self.averages.iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
        if validate {
            losses.extend(self.validate()?);
        }
        let row = Row {
            step: self.step,
            seconds: round(seconds, 1e-3),
            rate: self.config.optimiser.lr * self.config.rate_at(self.step),
            norm,
            skipped: self.skipped,
            tokens_per_s: tokens_per_s.round(),
            losses,
        };
        if let Err(e) = self.metrics.add(row).and_then(|()| self.metrics.draw()) {
            tracing::warn!("{e}; the training goes on");
        }
        Ok(())
    }

    /// Mean losses on the validation's samples, of the parameters and of their averages.
    fn validate(&mut self) -> Result<Map<String, Value>, Error> {
        let Some(validation) = &self.validation else { return Ok(Map::new()) };
        let wanted = &self.wanted;
        let losses = |engine: &mut Engine, prefix: &str| -> Result<Map<String, Value>, Error> {
            let mut sums: BTreeMap<String, f64> = BTreeMap::new();
            for (task, wanted) in wanted {
                for part in 0..validation.len() {
                    for (stream, loss) in engine.losses(*task, &validation.batch(part, wanted)?)? {
                        *sums.entry(format!("{prefix}.{task}.{stream}")).or_default() += loss / validation.len() as f64;
                    }
                }
            }
            Ok(sums.into_iter().map(|(name, loss)| (name, loss.into())).collect())
        };
        let mut all = losses(&mut self.engine, "valid")?;
        all.extend(self.engine.with_averages(|engine| losses(engine, "valid_ema"))?.unwrap_or_default());
        Ok(all)
    }

    /// Writes a checkpoint and removes old ones. A failure is warned of, unless this is the `last`.
    fn keep(&mut self, last: bool) -> Result<Option<PathBuf>, Error> {
        let t = &self.config.train;
        let (out, keep_last) = (t.out.clone(), t.keep_last);
        let position = self.feed.position();
        let mut record = Record::new(self.step, position, self.skipped, self.averages.clone(), self.settings.clone());
        record.scaling = Some(*self.engine.scaling()).filter(Scaling::explains_overflow);
        match keep::write(&out, record, &self.model, &mut self.engine, self.first.as_ref()) {
            Ok(written) => {
                if let Err(e) = checkpoint::prune(&out, keep_last) {
                    tracing::warn!("{e}; the training goes on");
                }
                Ok(Some(written))
            }
            Err(e) if last => Err(e),
            Err(e) => {
                tracing::warn!(
                    "{e}; older checkpoints are whole, the training goes on and tries again at the next one"
                );
                Ok(None)
            }
        }
    }

    /// The error that ends a training that goes nowhere.
    fn stopped(&self, what: &str, in_a_row: u64) -> Error {
        let last = checkpoint::list(&self.config.train.out).ok().and_then(|mut all| all.pop());
        let kept = last.map_or("there is no checkpoint yet".into(), |(_, dir)| format!("{} is whole", dir.display()));
        Error::Failed(format!(
            "{what}; {in_a_row} updates in a row were left out: lower optimiser.lr or look at the data ({kept})"
        ))
    }
}

/// What of a step is not finite.
fn not_finite(outcome: &Outcome) -> String {
    match outcome.parts.iter().find(|(_, x)| !x.is_finite()) {
        Some((stream, loss)) => format!("loss.{stream} is {loss}"),
        None => format!("the norm of the gradient is {}", outcome.norm),
    }
}
