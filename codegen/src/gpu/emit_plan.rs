//! All kernels of a plan for a target, without a device.
//!
//! Every call is lowered; launches that share a blueprint and the numbers of their arguments share a kernel, whose text is emitted once.
//! The result is the same for any number of threads.

use std::collections::HashMap;

use ccl_ir::Plan;
use ccl_ir::plan::{BufferRef, Emitted, EmittedCall, EmittedKernel, EmittedLaunch};
use rayon::prelude::*;
use thiserror::Error;

use super::blueprint::Blueprint;
use super::emit::{EmitError, KernelText, emit};
use super::launch::{Launch, LowerError, Ref};
use super::lower::{Lowered, lower_in};
use super::target::{Language, Target};
use super::tiles::Choices;

/// Why a plan has no kernels for a target.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EmitPlanError {
    /// A call cannot run there.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A kernel has no text.
    #[error("{op} at `{at}`: {source}")]
    Emit {
        /// Name of the operator that first launches it.
        op: &'static str,
        /// Model path of that call.
        at: String,
        /// What is wrong.
        source: EmitError,
    },
}

/// What a kernel's text depends on.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    blueprint: Blueprint,
    /// Buffers of each list.
    buffers: [usize; 5],
    sizes: usize,
}

impl Identity {
    fn of(launch: &Launch) -> Self {
        Self {
            blueprint: launch.blueprint.clone(),
            buffers: lists(launch).map(<[Ref]>::len),
            sizes: launch.sizes.len(),
        }
    }
}

/// The lists of buffers in the order of the kernels' arguments.
fn lists(launch: &Launch) -> [&[Ref]; 5] {
    [&launch.halves, &launch.floats, &launch.ints, &launch.half_outs, &launch.float_outs]
}

/// The first launch of a kernel: its text is emitted from this one.
struct First {
    launch: Launch,
    op: &'static str,
    at: String,
}

/// Lowers every call of a plan for a target and emits each kernel that is launched.
///
/// # Errors
/// When the target lacks something that a call needs, or a kernel cannot be compiled to its language.
pub fn emit_plan(plan: &Plan, target: &Target) -> Result<Emitted, EmitPlanError> {
    let mut known: HashMap<Identity, u32> = HashMap::new();
    let mut firsts: Vec<First> = Vec::new();
    let mut entries = std::collections::BTreeMap::new();
    for (&entry, calls) in &plan.entries {
        let mut emitted = Vec::with_capacity(calls.len());
        for call in calls {
            let launches = match lower_in(plan, call, target)? {
                Lowered::Host => {
                    emitted.push(EmittedCall::Host);
                    continue;
                }
                Lowered::Device(launches) => launches,
            };
            let launches = launches.into_iter().map(|launch| {
                let kernel = *known.entry(Identity::of(&launch)).or_insert_with(|| {
                    firsts.push(First { launch: launch.clone(), op: call.op.name(), at: call.at.clone() });
                    firsts.len() as u32 - 1
                });
                let buffers = lists(&launch).concat().into_iter().map(buffer).collect();
                EmittedLaunch { kernel, cubes: launch.cubes, buffers, sizes: launch.sizes }
            });
            emitted.push(EmittedCall::Launches(launches.collect()));
        }
        entries.insert(entry, emitted);
    }
    // Collected before errors are looked at, so that the first kernel's error is reported.
    let texts: Vec<Result<KernelText, EmitError>> = firsts.par_iter().map(|f| emit(&f.launch, target)).collect();
    let kernels = firsts.into_iter().zip(texts).map(|(first, text)| {
        let text = text.map_err(|source| EmitPlanError::Emit { op: first.op, at: first.at, source })?;
        Ok(kernel(&first.launch.blueprint, text))
    });
    Ok(Emitted {
        target: target.name.clone(),
        language: language(target).into(),
        compiled: None,
        choices: match &target.choices {
            none if *none == Choices::default() => serde_json::Value::Null,
            // Maps from text to small structs: JSON holds them all.
            some => serde_json::to_value(some).unwrap_or_default(),
        },
        kernels: kernels.collect::<Result<_, EmitPlanError>>()?,
        entries,
    })
}

fn language(target: &Target) -> &'static str {
    match target.language {
        Language::Cuda(_) => "cuda",
        Language::Wgsl => "wgsl",
    }
}

fn buffer(r: Ref) -> BufferRef {
    match r {
        Ref::In(i) => BufferRef::In(i),
        Ref::Out(i) => BufferRef::Out(i),
    }
}

fn kernel(blueprint: &Blueprint, text: KernelText) -> EmittedKernel {
    // Blueprints are plain data with string keys: JSON holds them all.
    let json = serde_json::to_value(blueprint).unwrap_or_default();
    let name = json["kernel"].as_object().and_then(|kind| kind.keys().next().cloned()).unwrap_or_default();
    let shared_bytes = text.shared_bytes as u64;
    EmittedKernel { name, text: text.text, units: text.units, shared_bytes, blueprint: json, code: None }
}
