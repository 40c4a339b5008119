//! A plan as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use ccl_ir::{Binding, Event, Plan};
use ccl_runtime::device::human_bytes;

use super::kernels::{carried, kernels};
use super::rules::rules;
use super::training::Training;
use super::units::{human_flops, signed_work};

/// The explanation; with every event, or one line for each rule.
pub fn text(plan: &Plan, all_events: bool) -> String {
    let mut out = String::new();
    let (about, r) = (&plan.about, &plan.report);
    let _ = writeln!(
        out,
        "{} for clip {}, batch {}, guidance {}, target {}, matrices in {}\n",
        about.task, about.clip, about.batch, about.guidance, about.target, about.dtype
    );
    let _ = writeln!(out, "work                 before        after   bytes moved");
    for b in Binding::ALL {
        let of = |m: &BTreeMap<String, u64>| m.get(b.name()).copied().unwrap_or(0);
        let (before, after, bytes) = (of(&r.flops_before), of(&r.flops), of(&r.bytes));
        if before + after + bytes > 0 {
            let (before, after) = (human_flops(before), human_flops(after));
            let _ = writeln!(out, "  {:<10} {before:>14} {after:>12}  {:>12}", b.name(), human_bytes(bytes));
        }
    }
    let training = Training::of(plan);
    let _ = match &training {
        None => writeln!(out, "  (load: once per model; prologue: once per clip; step: every denoising step)\n"),
        Some(_) => writeln!(out, "  (step: every batch; epilogue: every update; `before` is the forward pass)\n"),
    };
    if let Some(t) = &training {
        phases(t, &mut out);
    }
    let _ = writeln!(
        out,
        "memory     {:>10}   the lower bound of this order is {}",
        human_bytes(r.peak_bytes),
        human_bytes(r.live_lower_bound_bytes)
    );
    let _ = writeln!(out, "  weights  {:>10}   {} tensors", human_bytes(r.weight_bytes), plan.weights.len());
    if plan.state_bytes > 0 {
        let (bytes, count) = (human_bytes(plan.state_bytes), plan.states.len());
        let _ = writeln!(out, "  states   {bytes:>10}   {count} parameters, moments and averages, updated in place");
    }
    let _ = writeln!(
        out,
        "  kept     {:>10}   inputs, and values kept from one entry to the next",
        human_bytes(plan.persistent_bytes)
    );
    let _ = writeln!(out, "  working  {:>10}\n", human_bytes(plan.scratch_bytes));
    let _ = writeln!(out, "kernels                                   calls          work   bytes moved");
    for k in kernels(plan) {
        let (name, flops) = (format!("{} {}", k.entry, k.name), human_flops(k.flops));
        let _ = writeln!(out, "  {name:<38} {:>7}  {flops:>12}  {:>12}", k.count, human_bytes(k.bytes));
    }
    if let Some(carried) = carried(plan) {
        let _ = writeln!(out, "  the plan {carried}");
    }
    let _ = writeln!(out, "\nwhat the passes did");
    if all_events {
        for e in &r.events {
            let _ = writeln!(out, "  {}", event_line(e));
        }
    } else {
        summary(&r.events, &mut out);
    }
    out
}

/// Phases of a training step by stream.
fn phases(t: &Training, out: &mut String) {
    let streams = t.streams();
    let names: String = streams.iter().map(|s| format!("{s:>14}")).collect();
    let _ = writeln!(out, "training step     {names}   bytes moved");
    for phase in t.phases() {
        let flops = |s: &&str| format!("{:>14}", human_flops(t.share(phase, s).map_or(0, |s| s.flops)));
        let work: String = streams.iter().map(flops).collect();
        let bytes = t.shares.iter().filter(|s| s.phase == phase).map(|s| s.bytes).sum();
        let _ = writeln!(out, "  {:<16}{work}  {:>12}", phase.name(), human_bytes(bytes));
    }
    t.sentences().iter().for_each(|s| {
        let _ = writeln!(out, "  {s}");
    });
    out.push('\n');
}

fn event_line(e: &Event) -> String {
    let mark = if e.applied { " " } else { "not " };
    let deltas = signed_work(e.flops_delta, e.bytes_delta).join(" ");
    format!("{mark}{}: {} at {}: {} {deltas}", e.pass, e.rule, e.at, e.reason).trim_end().to_string()
}

/// One line for each pass and rule, with one place and its reason as an example.
fn summary(events: &[Event], out: &mut String) {
    for r in rules(events) {
        let [flops, bytes] = signed_work(r.flops(), r.bytes());
        let refused = if r.applied { "" } else { " refused" };
        let what = format!("{}: {}{refused}", r.pass, r.rule);
        let _ = writeln!(out, "  {what:<44} {:>5} x  {flops:>14} {bytes:>12}", r.events.len());
        if let Some(first) = r.events.first() {
            let _ = writeln!(out, "      e.g. {}: {}", first.at, first.reason);
        }
    }
    let _ = writeln!(out, "  (--events lists every one)");
}
