//! What can be wrong with a graph or a plan.

use thiserror::Error;

/// Why an operator cannot take what it was given. The graph adds where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(pub String);

impl Problem {
    /// A problem described by `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns early with a [`Problem`] unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => {
        if !$cond {
            return Err($crate::Problem(format!($($arg)*)));
        }
    };
}

/// Errors of this crate; each message names the place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IrError {
    /// An operator cannot take its inputs.
    #[error("{op} at `{at}`: {problem}")]
    Node {
        /// Name of the operator.
        op: String,
        /// Model path of the node.
        at: String,
        /// What is wrong.
        problem: Problem,
    },
    /// A text that is no graph.
    #[error("graph text, line {line}: {problem}")]
    Text {
        /// Line in the text, from 1.
        line: usize,
        /// What is wrong.
        problem: Problem,
    },
    /// The structure of a graph is broken.
    #[error("graph `{graph}`: {problem}")]
    Graph {
        /// Name of the graph.
        graph: String,
        /// What is wrong.
        problem: Problem,
    },
    /// A value that the interpreter needs is missing or has another shape.
    #[error("value `{name}`: {problem}")]
    Binding {
        /// Name of the input or weight.
        name: String,
        /// What is wrong.
        problem: Problem,
    },
    /// A plan that must not be run.
    #[error("plan: {0}")]
    Plan(Problem),
}
