//! Where a training begins: the model's configuration and its first parameters, and the data.

use std::path::Path;
use std::sync::Arc;

use ccl_data::{Dataset, Source};
use ccl_ir::TensorType;
use ccl_model::{Clip, Config, Stream};
use ccl_runtime::RuntimeError;
use ccl_runtime::weights::{WeightBytes, WeightSource, WeightStore};
use ccl_world::World;
use serde_json::Value;

use super::config::{DataSource, ModelSource};
use super::engine::Sizes;
use crate::error::Error;
use crate::model_dir::{ModelDir, expected, read_config};

/// A model's configuration and first parameters.
pub struct Start {
    /// The configuration.
    pub model: Config,
    /// Every parameter.
    pub parameters: Box<dyn WeightSource>,
}

impl Start {
    /// From what a training configuration says.
    ///
    /// # Errors
    /// When a configuration or checkpoint is wrong or does not fit.
    pub fn new(source: &ModelSource, seed: u64) -> Result<Self, Error> {
        let given = source.config.as_ref().map(model_config).transpose()?;
        if let Some(dir) = &source.init {
            let start = Self::from_checkpoint(dir, seed)?;
            if given.is_some_and(|g| g != start.model) {
                let place = dir.display();
                return Err(Error::Failed(format!(
                    "{place}: has another configuration than model.config; leave one out"
                )));
            }
            return Ok(start);
        }
        let model = given.ok_or_else(|| Error::Failed("model.config is missing".into()))?;
        let fresh = WeightStore::fresh(&expected(&model), seed);
        let [video, audio] = [(Stream::Video, &source.init_video), (Stream::Audio, &source.init_audio)]
            .map(|(m, dir)| dir.as_deref().map(|dir| single(dir, m, &model, seed)).transpose());
        Ok(Self { model, parameters: Box::new(Joined { fresh, video: video?, audio: audio? }) })
    }

    /// From a model directory.
    ///
    /// # Errors
    /// When its files are wrong.
    pub fn from_checkpoint(dir: &Path, seed: u64) -> Result<Self, Error> {
        let model = ModelDir::open(dir)?;
        let weights = model.weights(&model.files()?, seed)?;
        Ok(Self { model: model.config, parameters: Box::new(weights) })
    }
}

/// A configuration from a path or from its fields.
///
/// # Errors
/// When the file cannot be read, or the configuration is wrong.
pub fn model_config(value: &Value) -> Result<Config, Error> {
    match value {
        Value::String(path) => {
            let path = Path::new(path);
            read_config(&if path.is_dir() { path.join("config.json") } else { path.into() })
        }
        fields => Config::from_json(&fields.to_string())
            .map_err(|source| Error::Model { place: "model.config".into(), source }),
    }
}

/// The weights of one stream's checkpoint.
fn single(dir: &Path, m: Stream, model: &Config, seed: u64) -> Result<WeightStore, Error> {
    let checkpoint = ModelDir::open(dir)?;
    let fail = |problem: String| Error::Failed(format!("{}: {problem}", dir.display()));
    if checkpoint.config.stream(m) != model.stream(m) || checkpoint.config.layers != model.layers {
        return Err(fail(format!("its {m} stream has other sizes than model.config")));
    }
    let weights = checkpoint.weights(&checkpoint.files()?, seed)?;
    let prefix = format!("{m}.");
    let missing = weights.fresh_names().find(|n| n.starts_with(&prefix) && !n.contains(".cca.")).map(str::to_owned);
    match missing {
        Some(name) => Err(fail(format!("holds no {m} stream: `{name}` is not there"))),
        None => Ok(weights),
    }
}

/// Two streams from checkpoints of their own, and a fresh cross attention.
struct Joined {
    fresh: WeightStore,
    video: Option<WeightStore>,
    audio: Option<WeightStore>,
}

impl WeightSource for Joined {
    fn load(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError> {
        let stream = if name.starts_with("video.") { &self.video } else { &self.audio };
        match stream {
            Some(stream) if !name.contains(".cca.") => stream.load(name, want),
            _ => self.fresh.load(name, want),
        }
    }
}

/// Samples to learn from, and some to validate with.
pub struct Data {
    /// All samples.
    pub train: Arc<dyn Source>,
    /// How many of them are for training; the rest are kept for validation.
    pub used: usize,
    /// Samples for validation, and the first of them.
    pub validation: Option<(Arc<dyn Source>, usize)>,
    /// What tells this data from other data.
    pub fingerprint: String,
}

impl Data {
    /// Opens what a training configuration says.
    ///
    /// # Errors
    /// When a dataset is broken, or nothing would be left to train on.
    pub fn open(source: &DataSource) -> Result<Self, Error> {
        let (train, fingerprint): (Arc<dyn Source>, String) = match (&source.dir, &source.world) {
            (_, Some(w)) => {
                let world = World::new(w.seed, w.rate, w.clips)
                    .map_err(|source| Error::World { place: "data.world".into(), source })?;
                (Arc::new(world), format!("world of seed {}, rate {}, {} clips", w.seed, w.rate, w.clips))
            }
            (Some(dir), None) => {
                let dataset = Dataset::open(dir)?;
                let index = dataset.index().to_json()?;
                (Arc::new(dataset), blake3::hash(index.as_bytes()).to_hex().to_string())
            }
            (None, None) => return Err(Error::Failed("data.dir is missing".into())),
        };
        let Some(used) = train.len().checked_sub(source.held_out).filter(|n| *n > 0) else {
            let problem = format!("data.held_out is {}, but there are {} samples", source.held_out, train.len());
            return Err(Error::Failed(problem));
        };
        let validation: Option<(Arc<dyn Source>, usize)> = match &source.validation {
            Some(dir) => Some((Arc::new(Dataset::open(dir)?), 0)),
            None if source.held_out > 0 => Some((Arc::clone(&train), used)),
            None => None,
        };
        Ok(Self { train, used, validation, fingerprint })
    }

    /// Sizes of a batch of this data.
    ///
    /// # Errors
    /// When the data does not say the clip's sizes and `clip` does not either.
    pub fn sizes(&self, model: &Config, clip: Option<Clip>, batch: usize) -> Result<Sizes, Error> {
        let shape = |name: &str| self.train.schema().get(name).map(|t| t.shape.as_slice());
        let (video, audio) = (shape("video"), shape("audio"));
        let found = Clip {
            frames: video.map(|s| s[1]).or(clip.map(|c| c.frames)).unwrap_or(0),
            height: video.map(|s| s[2]).or(clip.map(|c| c.height)).unwrap_or(0),
            width: video.map(|s| s[3]).or(clip.map(|c| c.width)).unwrap_or(0),
            audio: audio.map(|s| s[1]).or(clip.map(|c| c.audio)).unwrap_or(0),
        };
        if (video.is_none() || audio.is_none()) && clip.is_none() {
            let lacks = if video.is_none() { "video" } else { "audio" };
            let problem =
                format!("the data has no `{lacks}`: say the clip's latent sizes with data.clip = \"TxHxW@L\"");
            return Err(Error::Failed(problem));
        }
        if let Some(other) = clip.filter(|c| *c != found) {
            return Err(Error::Failed(format!("data.clip is {other}, but the data is {found}")));
        }
        let text_tokens = shape("text").map_or(0, |s| s[0]);
        let image_tokens = if model.image_dim > 0 { shape("image").map_or(0, |s| s[0]) } else { 0 };
        Ok(Sizes { clip: found, batch, text_tokens, image_tokens })
    }
}
