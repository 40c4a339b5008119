//! A dataset on disk, open.

use std::path::{Path, PathBuf};

use ccl_runtime::RuntimeError;
use ccl_runtime::tensorfile::{TensorEntry, TensorFile};

use crate::error::DataError;
use crate::index::{Index, split_name, tensor_name};
use crate::schema::Schema;
use crate::source::{Sample, Source};

/// An open dataset: every shard is memory-mapped, every header checked against the index. Data is read when it is used.
#[derive(Debug)]
pub struct Dataset {
    dir: PathBuf,
    index: Index,
    starts: Vec<usize>,
    shards: Vec<TensorFile>,
}

impl Dataset {
    /// Opens the dataset in a directory.
    ///
    /// # Errors
    /// When the index is broken, a shard is missing or cut short, or a sample's tensor is missing or has another type or shape than
    /// the index says. The first problem is named; [`check`](crate::check()) names all, and looks at the values too.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let index = Index::read(dir)?;
        let starts = index.starts();
        let mut shards = Vec::with_capacity(index.shards.len());
        for (shard, start) in index.shards.iter().zip(&starts) {
            let file = TensorFile::open(&dir.join(&shard.file))?;
            for sample in *start..start + shard.samples {
                for name in index.schema.tensors().keys() {
                    let problem = header_problem(&file, &index.schema, sample, name);
                    if let Some(problem) = problem {
                        return Err(RuntimeError::tensor(file.path(), &tensor_name(sample, name), problem).into());
                    }
                }
            }
            if let Some((name, problem)) = strangers(&file, &index.schema, *start, shard.samples).next() {
                return Err(RuntimeError::tensor(file.path(), name, problem).into());
            }
            shards.push(file);
        }
        Ok(Self { dir: dir.into(), index, starts, shards })
    }

    /// The directory as given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

impl Source for Dataset {
    fn len(&self) -> usize {
        self.index.samples
    }

    fn schema(&self) -> &Schema {
        &self.index.schema
    }

    fn sample(&self, index: usize, names: &[String]) -> Result<Sample, DataError> {
        if index >= self.len() {
            return Err(DataError::dataset(&self.dir, format!("has {} samples, none with number {index}", self.len())));
        }
        let shard = &self.shards[self.starts.partition_point(|&start| start <= index) - 1];
        let mut sample = Sample::new();
        for name in names {
            if self.index.schema.get(name).is_none() {
                return Err(no_tensor(&self.dir, &self.index.schema, name));
            }
            sample.insert(name.clone(), shard.read(&tensor_name(index, name))?);
        }
        Ok(sample)
    }
}

/// There is no tensor of this name in a dataset.
fn no_tensor(dir: &Path, schema: &Schema, name: &str) -> DataError {
    DataError::dataset(dir, format!("has no tensor `{name}`, only {}", schema.names().join(", ")))
}

/// What a shard's header says wrong about a sample's tensor, as the rest of a sentence about it.
pub(crate) fn header_problem(file: &TensorFile, schema: &Schema, sample: usize, tensor: &str) -> Option<String> {
    let spec = schema.get(tensor)?;
    let Some(TensorEntry { dtype, shape, .. }) = file.tensors().get(&tensor_name(sample, tensor)) else {
        return Some("is missing".into());
    };
    if *dtype != spec.dtype {
        return Some(format!("has type {dtype}, the index says {}", spec.dtype));
    }
    (*shape != spec.shape).then(|| format!("has shape {shape:?}, the index says {:?}", spec.shape))
}

/// Tensors in a shard that belong to no sample of it, with what is wrong, as the rest of a sentence.
pub(crate) fn strangers<'a>(
    file: &'a TensorFile,
    schema: &'a Schema,
    start: usize,
    samples: usize,
) -> impl Iterator<Item = (&'a str, String)> {
    let last = start + samples - 1;
    file.tensors().keys().filter_map(move |name| {
        let problem = match split_name(name) {
            None => "has no sample's name, such as 00000000.video".into(),
            Some((sample, _)) if !(start..=last).contains(&sample) => {
                format!("is of another sample; the index says {start} to {last}")
            }
            Some((_, tensor)) if schema.get(tensor).is_none() => "is not in the index".into(),
            Some(_) => return None,
        };
        Some((name.as_str(), problem))
    })
}
