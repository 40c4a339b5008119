//! Plans: kernel calls, buffers and lifetimes as plain data.
//!
//! A plan knows no backend. Each [`Call`] is an [`Op`] on typed, strided [`Operand`]s; a backend decides how
//! to run it. A plan compiled for a GPU carries the kernels that it would launch there ([`Emitted`]), for the reader. Values live in *regions*: weights (from the checkpoint), `Persistent` memory (inputs, and what
//! one entry leaves for a later one), `Scratch` memory, which every entry reuses from its start, and the `State` of training, which outlives the plan.
//!
//! [`Plan::check`] proves a plan safe to execute: it trusts nothing the planner said, so that a plan from
//! a file can be run without fear.

mod check;
mod codec;
mod emitted;
mod stage;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use codec::{MAGIC, VERSION};
pub use emitted::{BufferRef, Code, Compiled, Emitted, EmittedCall, EmittedKernel, EmittedLaunch};
pub use stage::{Count, Module, Stage};

use crate::event::Event;
use crate::graph::Binding;
use crate::op::{Op, Work};
use crate::types::{DType, TensorType};

/// Byte alignment of every buffer: what GPUs want of a binding's offset.
pub const ALIGNMENT: u64 = 256;

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// Kept between entries: inputs, and values that a later entry reads.
    Persistent,
    /// Meaningless once the entry that wrote it has returned its outputs.
    Scratch,
    /// Tensors that outlive the plan, and that other plans may share: parameters in training, the optimiser's moments.
    State,
}

/// A run of bytes in a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// The region.
    pub region: Region,
    /// First byte, a multiple of [`ALIGNMENT`].
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// What an operand refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A weight, by its index in [`Plan::weights`].
    Weight(u32),
    /// A buffer, by its index in [`Plan::buffers`].
    Buffer(u32),
}

/// A typed, strided view of a weight or a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operand {
    /// What is viewed.
    pub place: Place,
    /// Type of the view.
    pub ty: TensorType,
    /// First element of the view, counted in elements from the start of the place.
    pub offset: u64,
    /// Distance in elements between neighbours of each dimension; 0 repeats.
    pub strides: Vec<u64>,
}

impl Operand {
    /// Whether the elements are packed in row-major order (dimensions of size 1 may have any stride).
    pub fn is_dense(&self) -> bool {
        let mut want = 1u64;
        for (&n, &s) in self.ty.shape.iter().zip(&self.strides).rev() {
            if n != 1 && s != want {
                return false;
            }
            want *= n as u64;
        }
        true
    }

    /// Whether neighbours in the last dimension are neighbours in memory.
    pub fn has_packed_rows(&self) -> bool {
        match (self.ty.shape.last(), self.strides.last()) {
            (Some(&n), Some(&s)) => n == 1 || s == 1,
            _ => true,
        }
    }
}

/// One kernel call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What is computed.
    pub op: Op,
    /// From what.
    pub inputs: Vec<Operand>,
    /// Into what; always dense. Outputs that nobody reads still have a buffer.
    pub outputs: Vec<Operand>,
    /// Model path, for messages and traces.
    pub at: String,
}

impl Call {
    /// The call's work by its operator's own count.
    pub fn work(&self) -> Work {
        let inputs: Vec<&TensorType> = self.inputs.iter().map(|o| &o.ty).collect();
        let outputs: Vec<TensorType> = self.outputs.iter().map(|o| o.ty.clone()).collect();
        self.op.work(&inputs, &outputs)
    }
}

/// A weight that the plan reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanWeight {
    /// Canonical checkpoint name.
    pub name: String,
    /// Type that the kernels want; the loader converts from what the file holds.
    pub ty: TensorType,
}

/// A tensor of the state that a plan reads or updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanState {
    /// Name, e.g. `adam.m.video.head.head.bias`.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
    /// The buffer in [`Region::State`] that holds it between runs, by its index in [`Plan::buffers`].
    pub buffer: u32,
}

/// A tensor that the caller writes before, or reads after, an entry runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Name, e.g. `video`, `schedule`, `guided.audio`.
    pub name: String,
    /// The entry that first reads it (inputs) or that writes it (outputs).
    pub binding: Binding,
    /// Where it is; dense.
    pub operand: Operand,
}

/// Numbers for people and for `explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// FLOPs as built and specialised, nothing hoisted.
    pub flops_before: BTreeMap<String, u64>,
    /// FLOPs of each entry after all passes.
    pub flops: BTreeMap<String, u64>,
    /// Bytes moved by each entry's calls.
    pub bytes: BTreeMap<String, u64>,
    /// Weights as the kernels want them.
    pub weight_bytes: u64,
    /// Weights, persistent and scratch memory.
    pub peak_bytes: u64,
    /// The least that any placement of the same schedule needs: weights, persistent values and the largest sum of
    /// live scratch bytes.
    pub live_lower_bound_bytes: u64,
    /// What every pass did and refused to do.
    pub events: Vec<Event>,
    /// The program as built, and after each pass in order.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The modules of the program as built, in its order.
    #[serde(default)]
    pub modules: Vec<Module>,
    /// What computing blocks again comes to, in a training step with a budget of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

/// A training step that computes blocks again for their backward pass, next to the same step that keeps what the backward pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Bytes that the plan may take.
    pub budget: u64,
    /// Blocks that are computed again; 0 where everything fits.
    pub blocks: usize,
    /// Blocks of the model.
    pub of: usize,
    /// FLOPs of all entries of the step that keeps everything.
    pub kept_flops: u64,
    /// Memory of the step that keeps everything.
    pub kept_peak_bytes: u64,
}

/// What the plan is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Task, as on the command line.
    pub task: String,
    /// Clip, as on the command line: `TxHxW@L`.
    pub clip: String,
    /// Batch size.
    pub batch: usize,
    /// Guidance form, as on the command line.
    pub guidance: String,
    /// Target, as on the command line.
    pub target: String,
    /// Storage type of matrices.
    pub dtype: DType,
    /// Version of the compiler that wrote the plan.
    pub compiler: String,
    /// The model's configuration as JSON, defaults filled in.
    pub config: serde_json::Value,
}

impl About {
    /// Of a program that belongs to no model: what is measured or checked by itself.
    pub fn no_model(task: &str, batch: usize, dtype: DType) -> Self {
        Self {
            task: task.into(),
            clip: String::new(),
            batch,
            guidance: "none".into(),
            target: "cpu".into(),
            dtype,
            compiler: String::new(),
            config: serde_json::Value::Null,
        }
    }
}

/// A program for a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is for.
    pub about: About,
    /// Weights that it reads; nothing else of a checkpoint is loaded.
    pub weights: Vec<PlanWeight>,
    /// Buffers of both regions.
    pub buffers: Vec<Buffer>,
    /// Bytes of persistent memory.
    pub persistent_bytes: u64,
    /// Bytes of scratch memory.
    pub scratch_bytes: u64,
    /// Tensors of the state that it reads or updates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<PlanState>,
    /// Bytes of the state, with what other plans keep there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub state_bytes: u64,
    /// Tensors that the caller writes.
    pub inputs: Vec<Port>,
    /// Tensors that the caller reads.
    pub outputs: Vec<Port>,
    /// Calls of each entry point, in order.
    pub entries: BTreeMap<Binding, Vec<Call>>,
    /// Where the weights were when the plan was made, if they were there.
    pub weights_from: Option<WeightsFrom>,
    /// Numbers for people.
    pub report: Report,
    /// The kernels for [`About::target`], where that is a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Emitted>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The checkpoint that a plan was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsFrom {
    /// The model directory as an absolute path.
    pub directory: String,
    /// The same relative to the plan file's directory, tried first; empty where there is none.
    pub relative: String,
    /// BLAKE3 over the checkpoint's headers and samples of its data, in hexadecimal.
    pub fingerprint: String,
}

impl Plan {
    /// A plan that does nothing.
    pub fn empty(about: About) -> Self {
        Self {
            about,
            weights: Vec::new(),
            buffers: Vec::new(),
            persistent_bytes: 0,
            scratch_bytes: 0,
            states: Vec::new(),
            state_bytes: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            entries: BTreeMap::new(),
            weights_from: None,
            report: Report::default(),
            kernels: None,
        }
    }

    /// Calls of one entry point.
    pub fn calls(&self, entry: Binding) -> &[Call] {
        self.entries.get(&entry).map_or(&[], Vec::as_slice)
    }

    /// The inputs of a call of this plan that lie where its first output does: it works in place. They are of one type with
    /// the output, and element `i` of the result depends on their element `i` only, in a plan that [`Plan::check`] passes.
    pub fn in_place(&self, call: &Call) -> Vec<usize> {
        let bytes = |o: &Operand| match o.place {
            Place::Buffer(b) => self.buffers.get(b as usize).map(|b| (b.region, b.offset)),
            Place::Weight(_) => None,
        };
        let Some(out) = call.outputs.first().and_then(bytes) else { return Vec::new() };
        (0..call.inputs.len()).filter(|&i| bytes(&call.inputs[i]) == Some(out)).collect()
    }

    /// The input with this name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// The state with this name.
    pub fn state(&self, name: &str) -> Option<&PlanState> {
        self.states.iter().find(|s| s.name == name)
    }

    /// The output with this name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|p| p.name == name)
    }
}
