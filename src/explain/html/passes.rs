//! The pipeline as a time line: what each pass left.

use std::collections::BTreeMap;

use ccl_ir::plan::Stage;
use ccl_ir::{Binding, Event, Plan};
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::units::human_flops;
use super::Section;
use super::parts::{delta, flops, short, table};

/// The section.
pub fn section(plan: &Plan) -> Section {
    let stages = &plan.report.stages;
    let lead = html! {
        "The program after each pass, in order. Until " code { "hoist" } " has given every value its binding time, "
        "all work counts as the step's. "
        "Memory is an estimate in the graph's own order, until " code { "lower" } " has placed every buffer."
    };
    let body = if stages.is_empty() {
        html! { p.empty { "This plan keeps no record of its passes: it was made by an older compiler. Compile it again." } }
    } else {
        html! {
            div.multiples {
                (chart("Work of a step", stages, step_flops, human_flops))
                (chart("Traffic of a step", stages, step_bytes, human_bytes))
                (chart("Memory", stages, |s| s.peak_bytes, human_bytes))
            }
            (rows(stages, &plan.report.events))
        }
    };
    Section { id: "passes", title: "Passes", lead, body }
}

fn of(map: &BTreeMap<String, u64>, b: Binding) -> u64 {
    map.get(b.name()).copied().unwrap_or(0)
}

fn step_flops(s: &Stage) -> u64 {
    of(&s.flops, Binding::Step)
}

fn step_bytes(s: &Stage) -> u64 {
    of(&s.bytes, Binding::Step)
}

fn once_flops(s: &Stage) -> u64 {
    let once = [Binding::Load, Binding::Prologue, Binding::Epilogue];
    once.iter().map(|&b| of(&s.flops, b)).fold(0, u64::saturating_add)
}

/// One column for each stage.
fn chart(name: &str, stages: &[Stage], value: fn(&Stage) -> u64, human: fn(u64) -> String) -> Markup {
    let most = stages.iter().map(value).max().unwrap_or(0).max(1) as f64;
    let width = 1000.0 / stages.len() as f64;
    let (first, last) = (stages.first().map_or(0, value), stages.last().map_or(0, value));
    html! {
        figure.columns {
            figcaption { b { (name) } " " span.soft { (human(first)) " → " (human(last)) } }
            svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label={ (name) " after each pass" } {
                @for (i, s) in stages.iter().enumerate() {
                    @let height = 100.0 * value(s) as f64 / most;
                    @let changed = i > 0 && value(&stages[i - 1]) != value(s);
                    rect.changed[changed] x=(short(i as f64 * width + 0.08 * width)) y=(short(100.0 - height))
                        width=(short(0.84 * width)) height=(short(height)) { title { (s.pass) ": " (human(value(s))) } }
                }
            }
        }
    }
}

fn rows(stages: &[Stage], events: &[Event]) -> Markup {
    let head = html! {
        th { "Pass" }
        th.n { "Operations" }
        th.n { "Work of a step" }
        th.n { "Work done once" }
        th.n { "Traffic of a step" }
        th.n { "Memory" }
        th.n { "Rewrites" }
        th.n { "Refused" }
    };
    let body = html! {
        @for (i, s) in stages.iter().enumerate() {
            @let before = if i == 0 { s } else { &stages[i - 1] };
            @let from = if i == 0 { 0 } else { before.events };
            @let here = events.get(from..s.events).unwrap_or_default();
            @let done = here.iter().filter(|e| e.applied).count();
            @let idle = i > 0 && Stage { pass: String::new(), ..s.clone() } == Stage { pass: String::new(), ..before.clone() };
            tr.idle[idle] {
                th.pass scope="row" title=(purpose(&s.pass)) { (s.pass) small { (purpose(&s.pass)) } }
                td.n { (s.nodes) (delta(before.nodes as u64, s.nodes as u64)) }
                td.n { (flops(step_flops(s))) (delta(step_flops(before), step_flops(s))) }
                td.n { (flops(once_flops(s))) }
                td.n { (human_bytes(step_bytes(s))) (delta(step_bytes(before), step_bytes(s))) }
                td.n { (human_bytes(s.peak_bytes)) (delta(before.peak_bytes, s.peak_bytes)) }
                td.n { (number(done)) }
                td.n { (number(here.len() - done)) }
            }
        }
    };
    html! { div.timeline { (table(head, body)) } }
}

fn number(n: usize) -> Markup {
    html! { @if n == 0 { span.soft { "–" } } @else { (n) } }
}

/// What a pass is for.
fn purpose(pass: &str) -> &'static str {
    match pass {
        "build" => "the model as written, every route open",
        "specialise" => "routes take the task's answers",
        "dead" => "what no result needs goes",
        "simplify" => "neutral operations go",
        "cse" => "equal values are computed once",
        "raise" => "plain patterns become fused operators",
        "algebra" => "the cheapest of all equal forms",
        "differentiate" => "the backward pass behind the forward pass",
        "optimise" => "from gradients to the next parameters",
        "rematerialise" => "blocks are computed again, not kept",
        "hoist" => "every value at its earliest moment",
        "fuse" => "elementwise chains become one operation",
        "precision" => "tokens are stored in half precision",
        "split" => "keys are dealt out to fill the device",
        "layout" => "copies where a view cannot be read",
        "lower" => "calls, their order, buffers",
        _ => "",
    }
}
