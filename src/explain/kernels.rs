//! The calls of a plan, summed up by kernel.

use std::collections::BTreeMap;

use ccl_ir::{Binding, Plan};
use serde::Serialize;

/// Calls of one kernel in one of the plan's entries.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// The kernels of a plan by entry, the most work first.
pub fn kernels(plan: &Plan) -> Vec<Kernel> {
    let mut all: BTreeMap<(Binding, &str), Kernel> = BTreeMap::new();
    for (&entry, calls) in &plan.entries {
        for call in calls {
            let name = call.op.name();
            let new = || Kernel { name: name.into(), entry, count: 0, flops: 0, bytes: 0 };
            let kernel = all.entry((entry, name)).or_insert_with(new);
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

/// What a plan carries for its target, for people; `None` where it carries nothing.
pub fn carried(plan: &Plan) -> Option<String> {
    let k = plan.kernels.as_ref()?;
    let bytes: usize = k.kernels.iter().map(|k| k.text.len()).sum();
    let text = ccl_runtime::device::human_bytes(bytes as u64);
    let (kernels, launches) = (k.kernels.len(), k.launches().count());
    let compiled = k.compiled.as_ref().map(|by| {
        let code: usize = k.kernels.iter().filter_map(|k| k.code.as_ref()).map(|c| c.cubin.len()).sum();
        format!(
            ", compiled for {} by {}: {}",
            by.architecture,
            by.compiler,
            ccl_runtime::device::human_bytes(code as u64)
        )
    });
    let compiled = compiled.unwrap_or_default();
    let library = match ccl_codegen::gpu::tensor::library::chosen(plan) {
        0 => String::new(),
        n => format!(", {n} of them cuBLASLt's where it is there"),
    };
    Some(format!(
        "carries {kernels} kernels for {} ({text} of {}{compiled}) and {launches} launches{library}",
        k.target, k.language
    ))
}
