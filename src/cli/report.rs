//! What `explain` says of a plan, as data.

use std::collections::BTreeMap;

use ccl::explain::{Kernel, Training, kernels};
use ccl_ir::plan::Stage;
use ccl_ir::{Event, Plan};
use serde::Serialize;

/// The document that `explain --format json` prints.
#[derive(Serialize)]
pub struct Report<'a> {
    task: &'a str,
    clip: &'a str,
    batch: usize,
    guidance: &'a str,
    target: &'a str,
    dtype: &'a str,
    flops_before: &'a BTreeMap<String, u64>,
    flops: &'a BTreeMap<String, u64>,
    bytes: &'a BTreeMap<String, u64>,
    peak_bytes: u64,
    weight_bytes: u64,
    persistent_bytes: u64,
    scratch_bytes: u64,
    live_lower_bound_bytes: u64,
    kernels: Vec<Kernel>,
    carried_kernels: usize,
    passes: &'a [Stage],
    events: &'a [Event],
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Training>,
}

/// The document for a plan.
pub fn report(plan: &Plan) -> Report<'_> {
    let about = &plan.about;
    Report {
        task: &about.task,
        clip: &about.clip,
        batch: about.batch,
        guidance: &about.guidance,
        target: &about.target,
        dtype: about.dtype.name(),
        flops_before: &plan.report.flops_before,
        flops: &plan.report.flops,
        bytes: &plan.report.bytes,
        peak_bytes: plan.report.peak_bytes,
        weight_bytes: plan.report.weight_bytes,
        persistent_bytes: plan.persistent_bytes,
        scratch_bytes: plan.scratch_bytes,
        live_lower_bound_bytes: plan.report.live_lower_bound_bytes,
        kernels: kernels(plan),
        carried_kernels: plan.kernels.as_ref().map_or(0, |k| k.kernels.len()),
        passes: &plan.report.stages,
        events: &plan.report.events,
        training: Training::of(plan),
    }
}
