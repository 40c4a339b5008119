//! What a pass did, or refused to do, and why.

use serde::{Deserialize, Serialize};

/// One rewrite, or one refusal, of a pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Name of the pass.
    pub pass: String,
    /// Name of the rule.
    pub rule: String,
    /// Model path, or the name of a value.
    pub at: String,
    /// Whether the rewrite happened.
    pub applied: bool,
    /// Why it happened, or why not.
    pub reason: String,
    /// Change of the step's work in floating point operations (negative: work saved).
    pub flops_delta: i64,
    /// Change of memory traffic in bytes.
    pub bytes_delta: i64,
}
