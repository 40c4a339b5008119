//! Kernels by their share of time.

use std::collections::BTreeMap;

use ccl_ir::{Binding, Plan};
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::cost::{Bound, Machine};
use super::super::kernels::{Kernel, carried, kernels};
use super::super::trace::Trace;
use super::super::units::{human_rate, human_seconds, percent};
use super::Section;
use super::parts::{flops, kind, path, table};

/// The section.
pub fn section(plan: &Plan, machine: &Machine, trace: Option<&Trace>) -> Section {
    let lead = html! {
        "Calls summed up by kernel. Time is " b { "an estimate" } ": the larger of work at "
        (human_rate(machine.flops_per_s(), "FLOP/s")) " and traffic at " (human_rate(machine.bytes_per_s(), "B/s")) ", and "
        (human_seconds(machine.spec.call_seconds)) " to start a call: what good kernels sustain on "
        (machine.spec.name) ", by which the passes chose too (" code { "--device-spec" } ")."
        @if let Some(t) = trace { " Measured times are from " (t.device) "." }
    };
    let body = html! {
        @for entry in [Binding::Step, Binding::Prologue, Binding::Load, Binding::Epilogue] {
            @if !plan.calls(entry).is_empty() { (rows(plan, entry, machine, trace)) }
        }
        @if let Some(c) = carried(plan) { p.note { "The plan " (c) "." } }
    };
    Section { id: "kernels", title: "Kernels", lead, body }
}

/// Estimated seconds of an entry's kernels, and how much of each is bound by what.
pub fn estimates(plan: &Plan, entry: Binding, machine: &Machine) -> BTreeMap<&'static str, (f64, Bound)> {
    let mut sums: BTreeMap<&'static str, [f64; 3]> = BTreeMap::new();
    for call in plan.calls(entry) {
        let (seconds, bound) = machine.seconds(call.work());
        sums.entry(call.op.name()).or_default()[bound as usize] += seconds;
    }
    let most = |s: [f64; 3]| {
        let all = [Bound::Compute, Bound::Memory, Bound::Launch];
        (
            s.iter().sum(),
            all.into_iter().max_by(|a, b| s[*a as usize].total_cmp(&s[*b as usize])).unwrap_or(Bound::Memory),
        )
    };
    sums.into_iter().map(|(op, s)| (op, most(s))).collect()
}

fn rows(plan: &Plan, entry: Binding, machine: &Machine, trace: Option<&Trace>) -> Markup {
    let estimates = estimates(plan, entry, machine);
    let total: f64 = estimates.values().map(|e| e.0).sum();
    let mut list: Vec<Kernel> = kernels(plan).into_iter().filter(|k| k.entry == entry).collect();
    let estimate = |k: &Kernel| estimates.get(k.name.as_str()).map_or(0.0, |e| e.0);
    let trace = trace.filter(|t| t.calls.iter().any(|c| c.entry == entry));
    let measured = |k: &Kernel| trace.and_then(|t| t.seconds(entry, &k.name));
    let key = |k: &Kernel| measured(k).unwrap_or(estimate(k));
    list.sort_by(|a, b| key(b).total_cmp(&key(a)).then_with(|| a.name.cmp(&b.name)));
    let all_measured: f64 = list.iter().filter_map(measured).sum();
    let head = html! {
        th { "Kernel" }
        @if trace.is_some() { th { "Share" } th.n { "Measured" } th.n { "Rate" } }
        th { @if trace.is_some() { "Estimated share" } @else { "Share" } }
        th.n { "Estimate" }
        th { "Bound by" }
        th.n { "Calls" }
        th.n { "Work" }
        th.n { "Traffic" }
        th.n { "FLOP/B" }
    };
    let body = html! {
        @for k in &list {
            @let (seconds, bound) = estimates.get(k.name.as_str()).copied().unwrap_or((0.0, Bound::Memory));
            tr {
                th.swatched scope="row" { i class=(kind(&k.name).0) {} (path(&k.name)) }
                @if trace.is_some() {
                    @if let Some(s) = measured(k) {
                        td { (share(s / all_measured, kind(&k.name).0)) }
                        td.n { (human_seconds(s)) }
                        td.n { (rate(k, s)) }
                    } @else { td {} td.n { "–" } td {} }
                }
                td { (share(seconds / total, kind(&k.name).0)) }
                td.n { (human_seconds(seconds)) }
                td { (bound.name()) }
                td.n { (k.count) }
                td.n { (flops(k.flops)) }
                td.n { (human_bytes(k.bytes)) }
                td.n {
                    @if k.flops > 0 { (format!("{:.0}", k.flops as f64 / k.bytes.max(1) as f64)) }
                    @else { span.soft { "–" } }
                }
            }
        }
    };
    let calls = plan.calls(entry).len();
    html! {
        h3 {
            (entry)
            span.soft {
                " · " (calls) " calls · about " (human_seconds(total))
                @if trace.is_some() { " · measured " (human_seconds(all_measured)) }
            }
        }
        (table(head, body))
    }
}

fn rate(k: &Kernel, seconds: f64) -> String {
    if k.flops > 0 {
        human_rate(k.flops as f64 / seconds, "FLOP/s")
    } else {
        human_rate(k.bytes as f64 / seconds, "B/s")
    }
}

/// A share as a bar and a number.
fn share(part: f64, class: &str) -> Markup {
    let width = format!("width:{:.1}%", 100.0 * part);
    html! { span.share { span.track { span.bar.(class) style=(width) {} } span.n { (percent(part)) } } }
}
