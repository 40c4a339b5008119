//! The first screen: what was gained, in a sentence and in five numbers.

use std::collections::BTreeMap;

use ccl_ir::plan::Stage;
use ccl_ir::{Binding, Plan};
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::cost::Machine;
use super::super::rules::rules;
use super::super::trace::Trace;
use super::super::training::{Phase, Training};
use super::super::units::{change, human_flops, human_seconds, percent};

/// Chips, the sentence and the tiles.
pub fn head(plan: &Plan, machine: &Machine, trace: Option<&Trace>) -> Markup {
    let about = &plan.about;
    html! {
        ul.chips {
            li { "batch " b { (about.batch) } }
            li { "guidance " b { (about.guidance) } }
            li { "target " b { (about.target) } }
            li { "matrices " b { (about.dtype) } }
        }
        (sentence(plan))
        div.tiles {
            (work(plan))
            (memory(plan))
            (traffic(plan))
            (time(plan, machine, trace))
            (rewrites(plan))
        }
    }
}

fn of(map: &BTreeMap<String, u64>, b: Binding) -> u64 {
    map.get(b.name()).copied().unwrap_or(0)
}

/// What the plan saves, in one sentence.
fn sentence(plan: &Plan) -> Markup {
    if let Some(t) = Training::of(plan) {
        return training_sentence(plan, &t);
    }
    let r = &plan.report;
    let (before, after) = (of(&r.flops_before, Binding::Step), of(&r.flops, Binding::Step));
    let once = of(&r.flops, Binding::Prologue).saturating_add(of(&r.flops, Binding::Load));
    let above = r.peak_bytes as f64 / r.live_lower_bound_bytes.max(1) as f64 - 1.0;
    html! {
        p.sentence {
            "A denoising step does " b { (human_flops(after)) }
            @if after < before {
                ", " b.good { (percent(1.0 - after as f64 / before as f64)) " less" }
                " than the " (human_flops(before)) " that the task asks for"
            } @else if after == before {
                ", all that the task asks for"
            } @else {
                " where the task asks for " (human_flops(before))
            }
            @if once > 0 { "; " b { (human_flops(once)) } " are done once, before the loop" }
            ". It needs " b { (human_bytes(r.peak_bytes)) } " of memory, "
            @if above > 0.0005 { (percent(above)) " above the least that this order of calls can do with." }
            @else { "the least that this order of calls can do with." }
        }
    }
}

/// What a training step takes, in one sentence.
fn training_sentence(plan: &Plan, t: &Training) -> Markup {
    let r = &plan.report;
    let of = |phase| t.shares.iter().filter(|s| s.phase == phase).map(|s| s.flops).sum::<u64>();
    html! {
        p.sentence {
            "A training step does " b { (human_flops(r.flops.values().sum())) } ": " (human_flops(of(Phase::Forward))) " forward"
            @if of(Phase::Again) > 0 { ", " (human_flops(of(Phase::Again))) " of it once more" }
            ", and " (human_flops(of(Phase::Backward))) " backward. It needs " b { (human_bytes(r.peak_bytes)) } " of memory."
        }
    }
}

/// A tile: name, number, something below.
fn tile(name: &str, number: &str, below: Markup) -> Markup {
    html! { div.tile { h3 { (name) } p.big { (number) } (below) } }
}

/// Two bars, before and after.
fn bars(before: (&str, u64), after: (&str, u64), human: fn(u64) -> String) -> Markup {
    let most = before.1.max(after.1).max(1) as f64;
    html! {
        dl.bars {
            @for (class, (name, n)) in [("was", before), ("is", after)] {
                dt { (name) }
                dd { span.bar.(class) style={ "width:" (format!("{:.1}", 100.0 * n as f64 / most)) "%" } {} span { (human(n)) } }
            }
        }
    }
}

fn work(plan: &Plan) -> Markup {
    let r = &plan.report;
    let (before, after) = (of(&r.flops_before, Binding::Step), of(&r.flops, Binding::Step));
    let below = html! {
        (bars(("as specialised", before), ("as planned", after), human_flops))
        @for b in [Binding::Load, Binding::Prologue, Binding::Epilogue] {
            @let n = of(&r.flops, b);
            @if n > 0 { p.note { (human_flops(n)) " " (super::parts::mark(b)) } }
        }
    };
    tile("Work of a step", &human_flops(after), below)
}

fn memory(plan: &Plan) -> Markup {
    let r = &plan.report;
    // A plan has weights or, in training, states.
    let pieces = [
        ("weights", r.weight_bytes),
        ("states", plan.state_bytes),
        ("kept", plan.persistent_bytes),
        ("working", plan.scratch_bytes),
    ];
    let pieces: Vec<(&str, u64)> = pieces.into_iter().filter(|(_, n)| *n > 0).collect();
    let all = r.peak_bytes.max(1) as f64;
    let below = html! {
        div.stack {
            @for &(name, n) in &pieces {
                span class={ "s-" (name) } style={ "width:" (format!("{:.1}", 100.0 * n as f64 / all)) "%" }
                    title={ (name) " " (human_bytes(n)) } {}
            }
        }
        ul.legend { @for &(name, n) in &pieces { li { i class={ "s-" (name) } {} (name) " " b { (human_bytes(n)) } } } }
        @if let Some(s) = needed(plan) { p.note { "about " (human_bytes(s.peak_bytes)) " as specialised" } }
    };
    tile("Memory", &human_bytes(r.peak_bytes), below)
}

/// The program as the task needs it: the first stage without dead code.
pub fn needed(plan: &Plan) -> Option<&Stage> {
    plan.report.stages.iter().find(|s| s.pass == "dead")
}

fn traffic(plan: &Plan) -> Markup {
    let after = of(&plan.report.bytes, Binding::Step);
    let below = html! {
        @if let Some(s) = needed(plan) {
            (bars(("as specialised", of(&s.bytes, Binding::Step)), ("as planned", after), human_bytes))
        }
    };
    tile("Memory traffic of a step", &human_bytes(after), below)
}

fn time(plan: &Plan, machine: &Machine, trace: Option<&Trace>) -> Markup {
    let about = machine.entry_seconds(plan, Binding::Step);
    let estimate = html! { "by the roofline of " (machine.spec.name) };
    match trace {
        None => tile(
            "Time of a step, estimated",
            &human_seconds(about),
            html! {
                p.note { (estimate) "; nothing was measured" }
            },
        ),
        Some(t) => tile(
            "Time of a step, measured",
            &human_seconds(t.step_s),
            html! {
                p.note { "on " (t.device) }
                p.note { (human_seconds(about)) " " (estimate) }
            },
        ),
    }
}

fn rewrites(plan: &Plan) -> Markup {
    let events = &plan.report.events;
    let (done, not): (Vec<_>, Vec<_>) = rules(events).into_iter().partition(|r| r.applied);
    let count = |list: &[super::super::rules::Rule]| list.iter().map(|r| r.events.len()).sum::<usize>();
    let below = html! {
        p.note { "by " (done.len()) " rules, " a href="#rewrites" { "each with its law" } }
        p.note { a href="#refusals" { (count(&not)) " refused" } ", with reasons" }
        @if let Some(first) = plan.report.stages.first() {
            @let calls = plan.entries.values().map(Vec::len).sum::<usize>();
            p.note { (first.nodes) " operations became " (calls) " calls (" (change(first.nodes as u64, calls as u64)) ")" }
        }
    };
    tile("Rewrites", &count(&done).to_string(), below)
}
