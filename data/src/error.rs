//! What can go wrong with datasets, and how it is said: one line that names the file, the sample or the option.

use std::path::{Path, PathBuf};

use ccl_runtime::RuntimeError;
use ccl_runtime::error::one_line;
use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file cannot be read or written, or a tensor in one is broken.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A dataset, or its index, is not what it should be.
    #[error("{path}: {problem}")]
    Dataset {
        /// The directory or the index.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A sample does not have what the schema says.
    #[error("sample {sample}: `{tensor}` {problem}")]
    Sample {
        /// Number of the sample.
        sample: usize,
        /// Name of the tensor in the sample.
        tensor: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// A description of tensors, or an option, that cannot be used.
    #[error("{what}: {problem}")]
    Option {
        /// The option or part.
        what: String,
        /// What is wrong and what to give instead.
        problem: String,
    },
    /// The thread that prefetches batches died.
    #[error("the thread that prefetches batches stopped; run without prefetching to see why")]
    Prefetch,
}

impl DataError {
    /// A problem with a dataset's directory or index.
    pub fn dataset(path: &Path, problem: impl Into<String>) -> Self {
        Self::Dataset { path: path.into(), problem: problem.into() }
    }

    /// A problem with one tensor of a sample; `problem` continues the sentence "`tensor` ...".
    pub fn sample(sample: usize, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Sample { sample, tensor: one_line(tensor), problem: problem.into() }
    }

    /// An option that cannot be used.
    pub fn option(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Option { what: what.into(), problem: problem.into() }
    }
}
