//! What can be wrong with a model's description.

use ccl_ir::IrError;
use thiserror::Error;

/// Errors of this crate. Each message is one line that names the setting and says what it may be; the caller adds
/// the file or option that it came from.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ModelError {
    /// A text that is no JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// A field of `config.json` that is unknown, missing, of the wrong kind or out of range.
    #[error("field `{field}` {problem}")]
    Config {
        /// Path of the field, e.g. `video.dim`.
        field: String,
        /// What is wrong with it and what it may be.
        problem: String,
    },
    /// A clip that is not written `TxHxW@L`, is too large, or cannot be cut into the model's patches.
    #[error("clip `{clip}`: {problem}")]
    Clip {
        /// The clip as given.
        clip: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A task or guidance that does not exist.
    #[error("there is no {what} `{name}`: use one of {known}")]
    Unknown {
        /// `task` or `guidance`.
        what: &'static str,
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A setting of a [`crate::Spec`] that is out of range or that the model cannot serve.
    #[error("{0}")]
    Spec(String),
    /// An operator that cannot take what the model's sizes give it.
    #[error(transparent)]
    Ir(#[from] IrError),
}

impl ModelError {
    /// A problem with one field of a configuration.
    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { field: field.into(), problem: problem.into() }
    }
}

/// A text from outside as it may stand in a one-line message: escaped and cut to a sensible length.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let mut out = String::new();
    for c in text.chars().take(MOST) {
        if matches!(c, '"' | '\'') { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    if text.chars().nth(MOST).is_some() {
        out.push_str("...");
    }
    out
}
