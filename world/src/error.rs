//! What can go wrong, in one line.

use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
pub enum WorldError {
    /// A tensor is no latent or prompt of this world.
    #[error("`{name}` {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// A setting that cannot be used.
    #[error("{what}: {problem}")]
    Option {
        /// Which one.
        what: &'static str,
        /// What is wrong and what to give instead.
        problem: String,
    },
}

impl WorldError {
    /// A tensor that does not fit; `problem` continues the sentence "`name` ...".
    pub fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), problem: problem.into() }
    }

    /// A setting that cannot be used.
    pub fn option(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Option { what, problem: problem.into() }
    }
}
