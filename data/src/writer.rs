//! Makes a dataset: whole or not at all, the same bytes for the same samples.
//!
//! Everything is written to a hidden directory beside the target, which takes the target's name last. A failure or a crash leaves
//! no half of a dataset under that name.

use std::fs;
use std::path::{Path, PathBuf};

use ccl_runtime::write::{temporary_directory_beside, write_atomic};
use ccl_runtime::{HostData, HostTensor, RuntimeError, convert};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};
use tempfile::TempDir;

use ccl_runtime::tensorfile::FileDType;

use crate::error::DataError;
use crate::index::{INDEX, Index, MAX_SAMPLES, Shard, tensor_name};
use crate::schema::{Schema, TensorSpec};
use crate::source::Sample;

/// How a dataset is written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Samples in one shard, at least 1.
    pub shard_samples: usize,
    /// What to say of the dataset in its index.
    pub about: Map<String, Value>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { shard_samples: 1024, about: Map::new() }
    }
}

/// Writes samples one after the other. Nothing is under the dataset's name before [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    temporary: TempDir,
    schema: Schema,
    options: WriterOptions,
    /// Stored bytes of the shard in the making: name, type, shape, data.
    pending: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    shards: Vec<Shard>,
    samples: usize,
    written: usize,
}

impl Writer {
    /// Begins a dataset at `dir`, which must not exist or be an empty directory.
    ///
    /// # Errors
    /// When `dir` exists and is not empty, its parent does not exist or cannot be written, a type cannot be stored (integers are `I32`,
    /// floats `F32`, `BF16` or `F16`), or a shard would have no samples.
    pub fn create(dir: &Path, schema: Schema, options: WriterOptions) -> Result<Self, DataError> {
        if options.shard_samples == 0 {
            return Err(DataError::option("shard size", "a shard has at least 1 sample"));
        }
        for (name, spec) in schema.tensors() {
            stored_type(spec.dtype).map_err(|problem| DataError::option(format!("tensor `{name}`"), problem))?;
        }
        let temporary = temporary_directory_beside(dir)?;
        let pending = Vec::new();
        Ok(Self { target: dir.into(), temporary, schema, options, pending, shards: Vec::new(), samples: 0, written: 0 })
    }

    /// Adds a sample, the next number.
    ///
    /// # Errors
    /// When it lacks a tensor of the schema, has another one, a shape or kind differs, a value is not finite or too large for the stored
    /// type, or a file cannot be written.
    pub fn add(&mut self, sample: &Sample) -> Result<(), DataError> {
        let number = self.samples;
        if number == MAX_SAMPLES {
            return Err(DataError::option("samples", format!("a dataset has at most {MAX_SAMPLES} samples")));
        }
        if let Some(name) = sample.keys().find(|name| self.schema.get(name).is_none()) {
            return Err(DataError::sample(number, name, "is not in the schema"));
        }
        let mut stored = Vec::with_capacity(self.schema.tensors().len());
        for (name, spec) in self.schema.tensors() {
            let fail = |problem: String| DataError::sample(number, name, problem);
            let tensor = sample.get(name).ok_or_else(|| fail("is missing".into()))?;
            let bytes = stored_bytes(tensor, spec).map_err(fail)?;
            let dtype = stored_type(spec.dtype).map_err(|problem| fail(problem.into()))?;
            stored.push((tensor_name(number, name), dtype, spec.shape.clone(), bytes));
        }
        self.pending.append(&mut stored);
        self.samples += 1;
        if self.samples - self.written == self.options.shard_samples { self.write_shard() } else { Ok(()) }
    }

    /// Writes the last shard and the index, and gives the dataset its name.
    ///
    /// # Errors
    /// When there is no sample or a file cannot be written; then there is nothing at the target.
    pub fn finish(mut self) -> Result<Index, DataError> {
        if self.samples == 0 {
            return Err(DataError::option("samples", "a dataset has at least 1 sample"));
        }
        if self.samples > self.written {
            self.write_shard()?;
        }
        let index = Index::new(self.schema, self.shards, self.options.about);
        write_atomic(&self.temporary.path().join(INDEX), index.to_json()?.as_bytes())?;
        // Replaces an empty directory, and fails where there is anything else by now.
        fs::rename(self.temporary.path(), &self.target).map_err(|e| RuntimeError::io(&self.target, "write", e))?;
        // The directory has another name now and stays.
        let _ = self.temporary.keep();
        Ok(index)
    }

    fn write_shard(&mut self) -> Result<(), DataError> {
        let file = format!("shard-{:05}.safetensors", self.shards.len());
        let path = self.temporary.path().join(&file);
        let shown = self.target.join(&file);
        let mut views = Vec::with_capacity(self.pending.len());
        for (name, dtype, shape, bytes) in &self.pending {
            let view = TensorView::new(*dtype, shape.clone(), bytes)
                .map_err(|e| RuntimeError::tensor(&shown, name, format!("cannot be written: {e}")))?;
            views.push((name, view));
        }
        let bytes = safetensors::serialize(views, None)
            .map_err(|e| RuntimeError::file(&shown, format!("cannot write tensors: {e}")))?;
        write_atomic(&path, &bytes).map_err(|e| match e {
            // The hidden directory's name says nothing to the user.
            RuntimeError::Io { action, source, .. } => RuntimeError::io(&shown, action, source),
            other => other,
        })?;
        self.shards.push(Shard {
            file,
            samples: self.samples - self.written,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        });
        self.pending.clear();
        self.written = self.samples;
        Ok(())
    }
}

/// A tensor's bytes as the schema wants them; the error is the rest of a sentence about it.
fn stored_bytes(tensor: &HostTensor, spec: &TensorSpec) -> Result<Vec<u8>, String> {
    if tensor.shape != spec.shape {
        return Err(format!("has shape {:?}, the schema says {:?}", tensor.shape, spec.shape));
    }
    match (&tensor.data, spec.dtype.plan_type()) {
        (HostData::F32(data), Some(to)) if to.is_float() => convert::narrow(data, to).map_err(|e| e.to_string()),
        (HostData::I32(_), Some(to)) if !to.is_float() => Ok(tensor.bytes().to_vec()),
        (HostData::F32(_), _) => Err(format!("holds real numbers, the schema says {}", spec.dtype)),
        (HostData::I32(_), _) => Err(format!("holds whole numbers, the schema says {}", spec.dtype)),
    }
}

fn stored_type(dtype: FileDType) -> Result<Dtype, &'static str> {
    match dtype {
        FileDType::F32 => Ok(Dtype::F32),
        FileDType::F16 => Ok(Dtype::F16),
        FileDType::Bf16 => Ok(Dtype::BF16),
        FileDType::I32 => Ok(Dtype::I32),
        FileDType::F64 | FileDType::I64 => Err("cannot be stored; use F32, BF16, F16 or I32"),
    }
}
