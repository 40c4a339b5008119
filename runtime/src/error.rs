//! What can go wrong while plans run, and how it is said.
//!
//! Every message is one line that names the file, tensor or option and what is wrong with it. Texts that come out of
//! files pass through [`one_line`], so that a hostile name cannot break that promise.

use std::io;
use std::path::{Path, PathBuf};

use ccl_ir::{Binding, IrError};
use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The operating system refused to read or write a file.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or directory is not what it should be.
    #[error("{path}: {problem}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor in a file is not what it should be.
    #[error("{path}: tensor `{name}` {problem}")]
    Tensor {
        /// The file, or the model directory.
        path: PathBuf,
        /// Name of the tensor in that file.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// A named input is missing or does not fit the plan.
    #[error("{place}: `{name}` {problem}")]
    Input {
        /// Where inputs come from: a file, or `inputs`.
        place: String,
        /// Name of the input.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// A weight cannot be given to a plan.
    #[error("weight `{name}` {problem}")]
    Weight {
        /// Canonical name.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// An option or argument has a value that cannot be used.
    #[error("{option}: {problem}")]
    Option {
        /// The option as on the command line.
        option: &'static str,
        /// What is wrong and what to give instead.
        problem: String,
    },
    /// A result is no number, or too large for one.
    #[error("{when}: `{name}` is not finite")]
    NotFinite {
        /// What ran, e.g. `step 3`.
        when: String,
        /// Name of the output.
        name: String,
    },
    /// There is not enough memory.
    #[error("{what}: needs {}, {problem}", crate::device::human_bytes(*.bytes))]
    Memory {
        /// What the memory is for.
        what: String,
        /// How much of it.
        bytes: u64,
        /// Why it cannot be had, and what to do.
        problem: String,
    },
    /// A kernel failed; on devices that run ahead this may be seen only when a result is read.
    #[error("{entry}: {op} at `{at}`: {problem}")]
    Kernel {
        /// The plan's entry point.
        entry: Binding,
        /// Name of the operator.
        op: &'static str,
        /// Model path of the call.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// A plan that must not be run.
    #[error(transparent)]
    Plan(#[from] IrError),
    /// A backend cannot be set up.
    #[error("backend {backend}: {problem}")]
    Backend {
        /// Its name.
        backend: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A device is of no use any more to this process: it failed for good, or does not answer.
    #[error("backend {backend}: {problem}")]
    Lost {
        /// The backend's name.
        backend: &'static str,
        /// What happened.
        problem: String,
    },
    /// A session or sampler was driven in the wrong order.
    #[error("{what}: {problem}")]
    Order {
        /// Which part.
        what: &'static str,
        /// What was asked for and what would be right.
        problem: String,
    },
    /// The caller stopped the run.
    #[error("cancelled after step {done} of {steps}")]
    Cancelled {
        /// Steps that are done.
        done: usize,
        /// Steps of the whole run.
        steps: usize,
    },
}

impl RuntimeError {
    /// An option that cannot be used.
    pub fn option(option: &'static str, problem: impl Into<String>) -> Self {
        Self::Option { option, problem: problem.into() }
    }

    /// A session or sampler driven in the wrong order.
    pub fn order(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Order { what, problem: problem.into() }
    }

    /// The system's refusal to `action` (a verb) the file at `path`.
    pub fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.into(), action, source }
    }

    /// A problem with a whole file or directory.
    pub fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self::File { path: path.into(), problem: problem.into() }
    }

    /// A problem with one tensor of a file; `problem` continues the sentence "tensor `name` ...".
    pub fn tensor(path: &Path, name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), name: one_line(name), problem: problem.into() }
    }

    /// A problem with one input; `problem` continues the sentence "`name` ...".
    pub fn input(place: &str, name: &str, problem: impl Into<String>) -> Self {
        Self::Input { place: place.into(), name: one_line(name), problem: problem.into() }
    }

    /// A problem with one weight; `problem` continues the sentence "weight `name` ...".
    pub fn weight(name: &str, problem: impl Into<String>) -> Self {
        Self::Weight { name: one_line(name), problem: problem.into() }
    }
}

/// A text from a file as part of a one-line message: control characters escaped, length bounded.
pub fn one_line(text: &str) -> String {
    const MOST: usize = 200;
    let mut line = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MOST {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
