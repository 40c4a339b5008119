//! What `explain` says of a plan, as data.

use std::collections::BTreeMap;

use ccl_ir::{Binding, Event, Plan};
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
    events: &'a [Event],
}

/// Calls of one kernel, summed up over the plan's entries.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// Name of the operator.
    pub name: String,
    /// Entry that calls it.
    pub entry: Binding,
    /// Number of calls.
    pub count: usize,
    /// Floating point operations of all calls.
    pub flops: u64,
    /// Bytes that all calls move.
    pub bytes: u64,
}

/// The kernels of a plan, the most work first.
pub fn kernels(plan: &Plan) -> Vec<Kernel> {
    let mut all: BTreeMap<(Binding, &str), Kernel> = BTreeMap::new();
    for (&entry, calls) in &plan.entries {
        for call in calls {
            let name = call.op.name();
            let kernel = all.entry((entry, name)).or_insert_with(|| Kernel {
                name: name.into(),
                entry,
                count: 0,
                flops: 0,
                bytes: 0,
            });
            let work = call.work();
            kernel.count += 1;
            kernel.flops += work.flops;
            kernel.bytes += work.bytes;
        }
    }
    let mut list: Vec<Kernel> = all.into_values().collect();
    list.sort_by_key(|k| (k.entry, std::cmp::Reverse((k.flops, k.bytes))));
    list
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
        events: &plan.report.events,
    }
}
