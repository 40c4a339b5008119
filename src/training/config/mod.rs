//! The file that says how to train: TOML, every field with a default but for the model and the data.
//!
//! Unknown fields are refused. Paths in the file are relative to it. [`TrainConfig::settings`] lists what the course of a training depends on; a
//! training that is resumed must agree with it.

mod course;
mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ccl_ir::DType;
use ccl_model::{Clip, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use course::matches;

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
    /// What products read and tokens are stored in.
    pub precision: Precision,
}

/// What products read and tokens are stored in. Sums, norms, the loss, the parameters and all that the optimiser keeps are `f32` in any case.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `f32`.
    #[default]
    F32,
    /// `bf16`, on GPUs that have it.
    Bf16,
    /// `f16`, on GPUs that have it; gradients are scaled, so that small ones are not lost.
    F16,
}

impl Precision {
    /// The type of tokens.
    pub const fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
            Precision::F16 => DType::F16,
        }
    }
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
            precision: Precision::F32,
        }
    }
}

impl TrainConfig {
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
        if self.train.precision != Precision::F32 {
            out.insert("train.precision".into(), whole["train"]["precision"].clone());
        }
        out.insert("data.held_out".into(), whole["data"]["held_out"].clone());
        out
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration that says this beside what it must.
    pub fn config(text: &str) -> TrainConfig {
        toml::from_str(&format!("model.config = \"c\"\ndata.dir = \"d\"\n{text}")).expect("a configuration")
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
}
