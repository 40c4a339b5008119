//! Batches as plans want them: samples of the data with flow times, noise and dropped prompts.

use std::sync::Arc;

use ccl_data::{Batch, BatchOptions, Batches, Source};
use ccl_ir::TensorType;
use ccl_model::Task;
use ccl_runtime::session::Tensors;
use ccl_runtime::{HostData, HostTensor};

use super::config::{Time, TrainConfig};
use super::draws::{Draws, Place};
use super::source::Data;
use crate::error::Error;

/// Inputs of a task's plan: names and types.
pub type Wanted = [(String, TensorType)];

/// Batches of training, in order.
pub struct Feed {
    batches: Batches,
    maker: Maker,
}

/// What turns samples into a batch.
#[derive(Clone, Copy, Debug)]
struct Maker {
    draws: Draws,
    time: Time,
    prompt_drop: f64,
}

impl Feed {
    /// Begins at a position: the number of samples that came before.
    ///
    /// # Errors
    /// When the data cannot be streamed.
    pub fn new(config: &TrainConfig, data: &Data, position: u64) -> Result<Self, Error> {
        let t = &config.train;
        let options = BatchOptions { position, samples: Some(0..data.used), ..BatchOptions::new(t.batch, t.seed) };
        let batches = Batches::new(Arc::clone(&data.train), options)?;
        Ok(Self { batches, maker: Maker { draws: Draws::new(t.seed), time: config.time, prompt_drop: t.prompt_drop } })
    }

    /// Samples that were used so far.
    pub fn position(&self) -> u64 {
        self.batches.position()
    }

    /// The next batch, as batch `part` of a step.
    ///
    /// # Errors
    /// When a sample is broken or lacks what is wanted.
    pub fn next(&mut self, step: u64, part: usize, wanted: &Wanted) -> Result<Tensors, Error> {
        let batch = self.batches.next().ok_or_else(|| Error::Failed("the data came to an end".into()))??;
        self.maker.make(batch, Place::Step { step, part }, wanted)
    }
}

/// Batches of validation, the same at every one.
pub struct Validation {
    batches: Batches,
    count: usize,
    batch: usize,
    maker: Maker,
}

impl Validation {
    /// The validation that a configuration asks for; `None` where it asks for none.
    ///
    /// # Errors
    /// When there are fewer samples than in a batch, or the data cannot be streamed.
    pub fn new(config: &TrainConfig, data: &Data) -> Result<Option<Self>, Error> {
        let (Some((source, first)), true) = (&data.validation, config.train.validate_every > 0) else {
            return Ok(None);
        };
        let batch = config.train.batch;
        let (samples, count) = (source.len() - first, (source.len() - first) / batch);
        if count == 0 {
            let problem = format!("a validation needs at least a batch of {batch} samples, there are {samples}");
            return Err(Error::Failed(problem));
        }
        let mut options = BatchOptions::new(batch, 0);
        (options.shuffle, options.prefetch, options.samples) = (false, 0, Some(*first..source.len()));
        let maker = Maker { draws: Draws::new(config.train.seed), time: config.time, prompt_drop: 0.0 };
        Ok(Some(Self { batches: Batches::new(Arc::clone(source), options)?, count, batch, maker }))
    }

    /// Number of batches; what is left over is not used.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One batch.
    ///
    /// # Errors
    /// When a sample is broken or lacks what is wanted.
    pub fn batch(&self, part: usize, wanted: &Wanted) -> Result<Tensors, Error> {
        let batch = self.batches.batch_at((part * self.batch) as u64)?;
        self.maker.make(batch, Place::Validation { part }, wanted)
    }
}

impl Maker {
    fn make(&self, batch: Batch, place: Place, wanted: &Wanted) -> Result<Tensors, Error> {
        let count = batch.samples.len();
        let mut given = batch.tensors;
        let mut out = Tensors::new();
        for (name, ty) in wanted {
            let tensor = match name.as_str() {
                "t" => self.draws.times(place, count, self.time),
                noise if noise.starts_with("noise.") => self.draws.noise(place, noise, &ty.shape),
                _ => given.remove(name).ok_or_else(|| Error::Failed(format!("the data has no `{name}`")))?,
            };
            out.insert(name.clone(), tensor);
        }
        if let Some(HostTensor { data: HostData::F32(text), .. }) = out.get_mut("text") {
            // The empty prompt is all padding, which is zero (SPEC 2).
            let width = text.len() / count;
            for (text, dropped) in text.chunks_mut(width.max(1)).zip(self.draws.drops(place, count, self.prompt_drop)) {
                if dropped {
                    text.fill(0.0);
                }
            }
        }
        Ok(out)
    }
}

/// Checks that data has what a task's plan wants, in its shapes.
///
/// # Errors
/// Names the tensor, what it is and what it should be.
pub fn check(source: &dyn Source, task: Task, wanted: &Wanted) -> Result<(), Error> {
    for (name, ty) in wanted.iter().filter(|(n, _)| n != "t" && !n.starts_with("noise.")) {
        let Some(spec) = source.schema().get(name) else {
            let names = source.schema().names().join(", ");
            return Err(Error::Failed(format!("the data has no `{name}`, which task {task} needs, only {names}")));
        };
        if spec.shape != ty.shape[1..] {
            let (has, want) = (&spec.shape, &ty.shape[1..]);
            return Err(Error::Failed(format!("`{name}` of the data has shape {has:?}, the model wants {want:?}")));
        }
    }
    Ok(())
}
