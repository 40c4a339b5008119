//! What a graph costs on its way through the passes: plain numbers for people and for `explain`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The program after one pass. What is counted does not depend on the machine: the same compilation, the same numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The pass; `build` for the graph as the model writes it, `lower` for the finished plan.
    pub pass: String,
    /// Operations that compute or move something: no inputs, weights or views.
    pub nodes: usize,
    /// FLOPs by the entry that computes them, as in [`super::Report::flops`]. Before values get their binding times all are in `step`.
    pub flops: BTreeMap<String, u64>,
    /// Bytes moved by each entry, every operand of an operation once.
    pub bytes: BTreeMap<String, u64>,
    /// Weights that are read, in bytes.
    pub weight_bytes: u64,
    /// Weights, kept values, and the most bytes alive at once when the graph is evaluated in its own order: an estimate until the
    /// plan exists, for nothing is overwritten in place and no copies are counted that views turn out to need.
    pub peak_bytes: u64,
    /// How many of [`super::Report::events`] had happened when the pass was done.
    pub events: usize,
}

/// A number of operations and their work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Operations that compute or move something.
    pub nodes: usize,
    /// Their FLOPs.
    pub flops: u64,
    /// Bytes that they read and write.
    pub bytes: u64,
}

impl Count {
    /// Adds one operation.
    pub fn add(&mut self, work: crate::op::Work) {
        self.merge(&Count { nodes: 1, flops: work.flops, bytes: work.bytes });
    }

    /// Adds another number of operations; what is too large stays at the largest number.
    pub fn merge(&mut self, other: &Count) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.flops = self.flops.saturating_add(other.flops);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A module of the model before the compiler works on it; what became of it is in the plan's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Path as in [`super::Call::at`], down to the parts of a block: `cond/video.blocks.3.cca`.
    pub at: String,
    /// As built, every route open.
    pub built: Count,
    /// What the task needs of it: routes taken, dead code gone.
    pub specialised: Count,
    /// Operators as built, with their number.
    pub operators: BTreeMap<String, usize>,
}
