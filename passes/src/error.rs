//! What can go wrong while compiling.

use ccl_ir::IrError;
use thiserror::Error;

/// Errors of the compiler.
#[derive(Debug, Error)]
pub enum PassError {
    /// A graph or plan that is not well formed.
    #[error("after pass `{pass}`: {source}")]
    Ir {
        /// The pass that made it.
        pass: &'static str,
        /// What is wrong.
        source: IrError,
    },
    /// A question that the task does not answer.
    #[error("route `{flag}` at `{at}` has no answer: the task's table of routes lacks it")]
    Unanswered {
        /// The question.
        flag: String,
        /// Where it is asked.
        at: String,
    },
    /// The task wants nothing that the graph computes.
    #[error("graph `{0}` has no output that the task wants")]
    NoOutputs(String),
    /// A pass changed a result.
    #[error("pass `{pass}` changed `{output}`: relative difference {found:.3e}, allowed {allowed:.1e}")]
    Changed {
        /// The pass.
        pass: String,
        /// The output that differs.
        output: String,
        /// The difference.
        found: f64,
        /// What is allowed.
        allowed: f64,
    },
}

impl PassError {
    /// Adds the pass to an error of `ir`.
    pub(crate) fn ir(pass: &'static str) -> impl Fn(IrError) -> PassError {
        move |source| PassError::Ir { pass, source }
    }
}
