//! The file that says how to train: TOML, every field with a default but for the model and the data.
//!
//! Unknown fields are refused. Paths in the file are relative to it. [`TrainConfig::settings`] lists what the course of a training depends on; a
//! training that is resumed must agree with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ccl_model::{Clip, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// How to train.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Which model, and where its first parameters come from.
    pub model: ModelSource,
    /// What to learn from.
    pub data: DataSource,
    /// Weights of the tasks; each step draws one.
    #[serde(default = "paper_tasks")]
    pub tasks: BTreeMap<Task, f64>,
    /// How flow times are drawn.
    #[serde(default)]
    pub time: Time,
    /// The optimiser.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
    /// The average of the parameters.
    #[serde(default)]
    pub ema: Ema,
    /// The loop.
    #[serde(default)]
    pub train: Loop,
}

/// Which model, and where its first parameters come from. What no checkpoint gives starts fresh, drawn from the seed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSource {
    /// A `config.json`, or its fields as a table. Not needed with `init`.
    pub config: Option<Value>,
    /// A model directory to begin from.
    pub init: Option<PathBuf>,
    /// A model directory whose video stream to begin from, with a fresh cross attention.
    pub init_video: Option<PathBuf>,
    /// The same for the audio stream.
    pub init_audio: Option<PathBuf>,
}

/// What to learn from: a dataset, or clips of the bounce world that are made as they are needed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSource {
    /// A dataset's directory.
    pub dir: Option<PathBuf>,
    /// Clips of the bounce world instead of a dataset.
    pub world: Option<WorldSource>,
    /// Samples at the end that are kept for validation.
    pub held_out: usize,
    /// Another dataset for validation.
    pub validation: Option<PathBuf>,
    /// Latent sizes of the clip, where the dataset lacks a stream that would say them.
    pub clip: Option<Clip>,
}

/// Clips of the bounce world.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSource {
    /// How many different ones.
    pub clips: usize,
    /// Audio tokens of each.
    #[serde(default = "even_rate")]
    pub rate: usize,
    /// Their seed.
    #[serde(default)]
    pub seed: u64,
}

/// How flow times are drawn (0 is clean data, 1 is noise).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "kebab-case")]
pub enum Time {
    /// Uniform in [0, 1].
    #[default]
    Uniform,
    /// The logistic function of a normal number.
    LogitNormal {
        /// Mean of the normal number.
        #[serde(default)]
        mean: f64,
        /// Its standard deviation.
        #[serde(default = "one")]
        std: f64,
    },
    /// `shift u / (1 + (shift - 1) u)` of a uniform `u`.
    Shifted {
        /// Above 1 for more noise.
        shift: f64,
    },
}

/// AdamW and the course of its rate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    /// Learning rate of parameters that are in no group.
    pub lr: f64,
    /// Decays of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of parameters that are in no group.
    pub weight_decay: f64,
    /// Parameters with settings of their own; the first group that matches counts.
    pub groups: Vec<Group>,
    /// Patterns of parameters that stay as they are.
    pub freeze: Vec<String>,
    /// Steps in which the rate rises to its full height.
    pub warmup: u64,
    /// The course after that.
    pub schedule: Schedule,
    /// Share of the steps after which a cosine schedule falls.
    pub decay_from: f64,
    /// Share of the rate that a cosine schedule ends with.
    pub decay_to: f64,
    /// Largest norm of the gradients; larger ones are scaled down. 0 for none.
    pub clip: f64,
    /// Batches of one step, whose gradients are averaged.
    pub accumulate: usize,
}

/// Parameters with settings of their own.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Pattern of their names; `*` stands for any text.
    pub names: String,
    /// Their learning rate.
    pub lr: Option<f64>,
    /// Their weight decay.
    pub weight_decay: Option<f64>,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It stays until `decay_from`, and falls along a cosine to `decay_to`.
    Cosine,
}

/// An exponential moving average of the parameters.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ema {
    /// What of it stays at each step, less in the first ones; 0 for no average.
    pub decay: f64,
}

/// The loop.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loop {
    /// Where checkpoints and metrics go.
    pub out: PathBuf,
    /// Steps of the whole training.
    pub steps: u64,
    /// Samples of a batch.
    pub batch: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Probability that a prompt is dropped.
    pub prompt_drop: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// How many checkpoints are kept; 0 keeps all.
    pub keep_last: usize,
    /// Steps between validations; 0 for none.
    pub validate_every: u64,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// So many updates skipped in a row, because a loss or gradient is not finite, end the training.
    pub max_skipped: u64,
    /// Memory in bytes that a plan may take: as many blocks as it takes are computed again for their backward pass. No limit where absent.
    pub memory: Option<u64>,
    /// Threads of the cpu; all where absent.
    pub threads: Option<usize>,
    /// Where to run.
    pub backend: String,
    /// Arithmetic.
    pub precision: String,
}

/// The paper's share of each task (SPEC 9), the share of text to a single modality cut in two.
fn paper_tasks() -> BTreeMap<Task, f64> {
    [(Task::T2v, 0.05), (Task::T2a, 0.05), (Task::A2v, 0.15), (Task::V2a, 0.15), (Task::Joint, 0.6)].into()
}

fn even_rate() -> usize {
    ccl_world::space::EVEN_RATE
}

fn one() -> f64 {
    1.0
}

impl Default for TrainConfig {
    /// Every default; no model and no data yet.
    fn default() -> Self {
        Self {
            model: ModelSource::default(),
            data: DataSource::default(),
            tasks: paper_tasks(),
            time: Time::default(),
            optimiser: OptimiserConfig::default(),
            ema: Ema::default(),
            train: Loop::default(),
        }
    }
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 0.01,
            groups: Vec::new(),
            freeze: Vec::new(),
            warmup: 100,
            schedule: Schedule::Constant,
            decay_from: 0.0,
            decay_to: 0.0,
            clip: 1.0,
            accumulate: 1,
        }
    }
}

impl Default for Ema {
    fn default() -> Self {
        Self { decay: 0.999 }
    }
}

impl Default for Loop {
    fn default() -> Self {
        Self {
            out: "run".into(),
            steps: 1000,
            batch: 8,
            seed: 0,
            prompt_drop: 0.1,
            checkpoint_every: 500,
            keep_last: 2,
            validate_every: 0,
            log_every: 50,
            max_skipped: 5,
            memory: None,
            threads: None,
            backend: "auto".into(),
            precision: "f32".into(),
        }
    }
}

impl TrainConfig {
    /// Reads a file, changes it as `set` says (`train.steps=100`, values as in TOML), and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, a field is unknown, missing or out of range; the message names file and field.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, Error> {
        let size = std::fs::metadata(path).map_err(|e| Error::read(path, &e))?.len();
        let place = path.display();
        if size > MAX_BYTES {
            return Err(Error::Failed(format!("{place}: larger than 1 MiB; this is no training configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, &e))?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or_default().matches('\n').count()) + 1;
            Error::Failed(format!("{place}: line {line}: {}", e.message().replace('\n', " ")))
        })?;
        for change in set {
            apply(&mut table, change)?;
        }
        let fail = |e: toml::de::Error| Error::Failed(format!("{place}: {}", e.to_string().trim().replace('\n', " ")));
        let mut config = Self::deserialize(table).map_err(fail)?;
        config.check().map_err(|problem| Error::Failed(format!("{place}: {problem}")))?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Makes the paths of a file in `home` ones of the process.
    fn resolve(&mut self, home: &Path) {
        if let Some(Value::String(path)) = &mut self.model.config {
            *path = home.join(&*path).display().to_string();
        }
        let ModelSource { init, init_video, init_audio, .. } = &mut self.model;
        let paths = [init, init_video, init_audio, &mut self.data.dir, &mut self.data.validation];
        for path in paths.into_iter().flatten().chain([&mut self.train.out]) {
            *path = home.join(&*path);
        }
    }

    /// What is wrong, beginning with the field.
    fn check(&self) -> Result<(), String> {
        self.check_sources()?;
        if let Some((task, w)) = self.tasks.iter().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
            return Err(format!("tasks.{task} must be a weight, 0 or above, is {w}"));
        }
        if !self.tasks.values().any(|w| *w > 0.0) {
            return Err("tasks: no task has a weight above 0".into());
        }
        match self.time {
            Time::Uniform => {}
            Time::LogitNormal { mean, std } => {
                within("time.mean", mean, -100.0, 100.0)?;
                within("time.std", std, 1e-6, 100.0)?;
            }
            Time::Shifted { shift } => within("time.shift", shift, 1e-6, 1e6)?,
        }
        self.check_optimiser()?;
        within("ema.decay", self.ema.decay, 0.0, 1.0 - 1e-12)?;
        let t = &self.train;
        within("train.prompt_drop", t.prompt_drop, 0.0, 1.0)?;
        let counts = [
            ("steps", t.steps),
            ("batch", t.batch as u64),
            ("checkpoint_every", t.checkpoint_every),
            ("log_every", t.log_every),
            ("max_skipped", t.max_skipped),
        ];
        for (name, n) in counts {
            if n == 0 || n > 1 << 40 {
                return Err(format!("train.{name} must be at least 1, is {n}"));
            }
        }
        const BACKENDS: [&str; 5] = ["auto", "cpu", "wgpu", "cuda", "reference"];
        if !BACKENDS.contains(&t.backend.as_str()) {
            return Err(format!("train.backend is `{}`: use {}", t.backend, BACKENDS.join(", ")));
        }
        match t.precision.as_str() {
            "f32" => Ok(()),
            other => Err(format!("train.precision is `{other}`: training computes in f32 so far; write \"f32\"")),
        }
    }

    fn check_sources(&self) -> Result<(), String> {
        let m = &self.model;
        if m.init.is_some() && (m.init_video.is_some() || m.init_audio.is_some()) {
            return Err("model.init stands alone: init_video and init_audio begin from two checkpoints".into());
        }
        match &m.config {
            None if m.init.is_none() => {
                return Err("model.config is missing: name a config.json, or give its fields".into());
            }
            Some(v) if !(v.is_string() || v.is_object()) => {
                return Err("model.config must be the path of a config.json or a table of its fields".into());
            }
            _ => {}
        }
        match (&self.data.dir, &self.data.world) {
            (None, None) => Err("data.dir is missing: name a dataset's directory (or give data.world)".into()),
            (Some(_), Some(_)) => Err("data.dir and data.world exclude each other: keep one".into()),
            _ if self.data.held_out > 0 && self.data.validation.is_some() => {
                Err("data.held_out and data.validation exclude each other: keep one".into())
            }
            _ if self.train.validate_every > 0 && self.data.held_out == 0 && self.data.validation.is_none() => {
                Err("train.validate_every needs samples: give data.held_out or data.validation".into())
            }
            _ => Ok(()),
        }
    }

    fn check_optimiser(&self) -> Result<(), String> {
        let o = &self.optimiser;
        within("optimiser.lr", o.lr, 0.0, f64::from(f32::MAX))?;
        within("optimiser.weight_decay", o.weight_decay, 0.0, 1e6)?;
        for (i, group) in o.groups.iter().enumerate() {
            within(&format!("optimiser.groups[{i}].lr"), group.lr.unwrap_or(0.0), 0.0, f64::from(f32::MAX))?;
            within(&format!("optimiser.groups[{i}].weight_decay"), group.weight_decay.unwrap_or(0.0), 0.0, 1e6)?;
        }
        for beta in o.betas {
            within("optimiser.betas", beta, 1e-6, 1.0 - 1e-9)?;
        }
        within("optimiser.eps", o.eps, 1e-30, 1.0)?;
        within("optimiser.decay_from", o.decay_from, 0.0, 1.0)?;
        within("optimiser.decay_to", o.decay_to, 0.0, 1.0)?;
        within("optimiser.clip", o.clip, 0.0, f64::from(f32::MAX))?;
        if o.schedule == Schedule::Constant && (o.decay_from != 0.0 || o.decay_to != 0.0) {
            return Err("optimiser.decay_from and decay_to belong to schedule = \"cosine\"".into());
        }
        if !(1..=1 << 20).contains(&o.accumulate) {
            return Err(format!("optimiser.accumulate must be at least 1, is {}", o.accumulate));
        }
        Ok(())
    }

    /// Rates of the groups at full height, those of no group last, each with its weight decay.
    pub fn groups(&self) -> Vec<(f64, f64)> {
        let o = &self.optimiser;
        let own = |g: &Group| (g.lr.unwrap_or(o.lr), g.weight_decay.unwrap_or(o.weight_decay));
        o.groups.iter().map(own).chain([(o.lr, o.weight_decay)]).collect()
    }

    /// The share of the full rate at a step; steps count from 1.
    pub fn rate_at(&self, step: u64) -> f64 {
        let o = &self.optimiser;
        let rise = if o.warmup == 0 { 1.0 } else { (step as f64 / o.warmup as f64).min(1.0) };
        let (at, stop) = (step as f64, o.decay_from * self.train.steps as f64);
        if o.schedule == Schedule::Constant || at < stop {
            return rise;
        }
        let done = ((at - stop) / (self.train.steps as f64 - stop).max(1.0)).min(1.0);
        rise * (o.decay_to + (1.0 - o.decay_to) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
    }

    /// How far the average moves towards the parameters of a step; steps count from 1.
    pub fn average_at(&self, step: u64) -> f64 {
        let step = step as f64;
        1.0 - self.ema.decay.min((1.0 + step) / (10.0 + step))
    }

    /// Everything that the course of a training depends on, by field. The data and the model are told by what they are, which
    /// is for the caller to add, not by where they lie.
    pub fn settings(&self) -> BTreeMap<String, Value> {
        let whole = serde_json::to_value(self).unwrap_or_default();
        let mut out = BTreeMap::new();
        for part in ["tasks", "time", "optimiser", "ema"] {
            let fields = whole[part].as_object().into_iter().flatten();
            out.extend(fields.map(|(name, value)| (format!("{part}.{name}"), value.clone())));
        }
        for name in ["batch", "seed", "prompt_drop"] {
            out.insert(format!("train.{name}"), whole["train"][name].clone());
        }
        if self.optimiser.schedule == Schedule::Cosine {
            out.insert("train.steps".into(), whole["train"]["steps"].clone());
        }
        out.insert("data.held_out".into(), whole["data"]["held_out"].clone());
        out
    }
}

fn within(field: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{field} must be {low} to {high}, is {value}")) }
}

/// Sets `a.b.c=value` in a table.
fn apply(table: &mut toml::Table, change: &str) -> Result<(), Error> {
    let usage = |problem: &str| Error::Usage(format!("--set {change}: {problem}"));
    let (key, text) = change.split_once('=').ok_or_else(|| usage("is not of the form FIELD=VALUE"))?;
    let parsed: toml::Table = toml::from_str(&format!("v = {text}"))
        .or_else(|_| toml::from_str(&format!("v = {}", toml::Value::String(text.trim().into()))))
        .map_err(|_| usage("the value is no TOML"))?;
    let value = parsed.get("v").cloned().ok_or_else(|| usage("the value is no TOML"))?;
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|l| !l.is_empty()).ok_or_else(|| usage("names no field"))?;
    let mut at = table;
    for part in path {
        let next = at.entry(part).or_insert_with(|| toml::Table::new().into());
        at = next.as_table_mut().ok_or_else(|| usage(&format!("`{part}` has no fields")))?;
    }
    at.insert(last.into(), value);
    Ok(())
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.get(i..).is_some_and(|end| matches(tail, end)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> TrainConfig {
        toml::from_str(&format!("model.config = \"c\"\ndata.dir = \"d\"\n{text}")).expect("a configuration")
    }

    #[test]
    fn patterns() {
        let name = "video.blocks.0.cca.q.weight";
        for pattern in ["*", "*.cca.*", "video.*", "*weight", "video.blocks.0.cca.q.weight", "*cca*q*"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["", "cca", "audio.*", "*.cca", "*q*cca*"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }

    #[test]
    fn rates() {
        let c = config(
            "train.steps = 1000\n[optimiser]\nwarmup = 10\nschedule = \"cosine\"\ndecay_from = 0.6\ndecay_to = 0.05",
        );
        let want = [(1, 0.1), (10, 1.0), (599, 1.0), (600, 1.0), (800, 0.525), (1000, 0.05)];
        for (step, rate) in want {
            assert!((c.rate_at(step) - rate).abs() < 1e-12, "{step}: {}", c.rate_at(step));
        }
        assert_eq!(config("optimiser.warmup = 0").rate_at(1), 1.0);
        assert!((config("ema.decay = 0.5").average_at(1) - 9.0 / 11.0).abs() < 1e-12);
        assert_eq!(config("ema.decay = 0.5").average_at(100), 0.5);
    }

    #[test]
    fn defaults_are_the_papers() {
        let c = config("");
        assert_eq!(c.tasks.values().sum::<f64>(), 1.0);
        assert_eq!((c.tasks[&Task::Joint], c.tasks[&Task::A2v], c.train.prompt_drop), (0.6, 0.15, 0.1));
        assert_eq!(c.check(), Ok(()));
        let t = config("[time]\nkind = \"logit-normal\"").time;
        assert_eq!(t, Time::LogitNormal { mean: 0.0, std: 1.0 });
    }

    #[test]
    fn changes_by_option() {
        let mut table: toml::Table = toml::from_str("train.steps = 5").expect("a table");
        for change in ["train.steps=7", "optimiser.lr = 1e-3", "train.backend=cpu", "tasks={joint=1}"] {
            apply(&mut table, change).expect("a change");
        }
        assert_eq!(table["train"]["steps"].as_integer(), Some(7));
        assert_eq!(table["train"]["backend"].as_str(), Some("cpu"));
        assert_eq!(table["tasks"]["joint"].as_integer(), Some(1));
        assert!(apply(&mut table, "train.steps").is_err() && apply(&mut table, "train.steps.x=1").is_err());
    }
}
