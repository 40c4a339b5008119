//! The page for two plans: what differs, and nothing else.

use ccl_ir::plan::Count;
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::diff::{Diff, Number, Pair, Unit, folded};
use super::super::units::human_flops;
use super::Section;
use super::parts::{delta, path, table};

/// Names, and what differs most in a sentence.
pub fn head(diff: &Diff) -> Markup {
    let [this, other] = &diff.names;
    let find = |name: &str| diff.numbers.iter().find(|n| n.name == name);
    html! {
        p.kicker { "two ccl plans" }
        h1 { "What differs" }
        dl.names { dt { "this" } dd { code { (path(this)) } } dt { "other" } dd { code { (path(other)) } } }
        p.sentence {
            @if diff.same { "They are the same plan." }
            @else if diff.is_silent() { "The same calls, work and memory: they differ in places or details alone." }
            @else {
                "The other plan " (clause(find("step work"), "does", "as much work in a step"))
                " and " (clause(find("memory"), "takes", "as much memory")) "."
            }
        }
        div.tiles {
            @for name in ["step work", "step traffic", "step calls", "memory"] {
                @if let Some(n) = find(name) {
                    div.tile {
                        h3 { (name) }
                        p.big { (n.unit.human(n.other)) }
                        p.note { "this: " (n.unit.human(n.this)) " " (delta(n.this, n.other)) }
                    }
                }
            }
        }
    }
}

/// What the other plan has of a number, as a part of a sentence.
fn clause(n: Option<&Number>, verb: &str, same: &str) -> Markup {
    html! {
        (verb) " "
        @match n {
            None => { (same) }
            Some(n) => {
                b { (n.unit.human(n.other)) } " of " (if n.unit == Unit::Bytes { "memory" } else { "work in a step" })
                " where this one " (verb) " " (n.unit.human(n.this)) " (" (delta(n.this, n.other)) ")"
            }
        }
    }
}

/// The sections that have something to say, and the others with a word.
pub fn sections(diff: &Diff) -> Vec<Section> {
    vec![
        section("for", "Made for", "Task, sizes, target and the model's configuration.", texts(&diff.about)),
        section("numbers", "Work and memory", "By entry.", numbers(&diff.numbers)),
        section("kernels", "Kernels", "Calls and work by entry and kernel.", counts(&diff.kernels)),
        section(
            "modules",
            "Modules",
            "Calls and work by place; blocks that differ alike are one.",
            counts(&diff.modules),
        ),
        section("rules", "Rules", "How often each rule applied or was refused.", times(&diff.rules)),
        section(
            "weights",
            "Weights",
            "What one reads and the other does not, or in another type.",
            texts(&diff.weights),
        ),
        section("ports", "Tensors", "Inputs and outputs.", texts(&diff.ports)),
    ]
}

fn section(id: &'static str, title: &'static str, lead: &str, body: Option<Markup>) -> Section {
    let body = body.unwrap_or_else(|| html! { p.empty { "No difference." } });
    Section { id, title, lead: html! { (lead) }, body }
}

/// Rows of what the plans have, between a head and nothing.
fn rows<T>(
    list: &[Pair<T>],
    numeric: bool,
    cell: impl Fn(&T) -> Markup,
    change: impl Fn(&Pair<T>) -> Markup,
) -> Option<Markup> {
    let head = html! { th { "" } th.n[numeric] { "this" } th.n[numeric] { "other" } th.n { "change" } };
    let one =
        |v: &Option<T>| html! { td.n[numeric] { @match v { Some(v) => (cell(v)), None => { span.soft { "–" } } } } };
    let body = html! {
        @for p in list { tr { th scope="row" { (path(&p.name)) } (one(&p.this)) (one(&p.other)) td.n { (change(p)) } } }
    };
    (!list.is_empty()).then(|| table(head, body))
}

fn texts(list: &[Pair<String>]) -> Option<Markup> {
    let gone = |p: &Pair<String>| match (&p.this, &p.other) {
        (Some(_), None) => html! { span.good { "gone" } },
        (None, Some(_)) => html! { span.bad { "new" } },
        _ => html! {},
    };
    rows(&folded(list), false, |s| html! { code { (s) } }, gone)
}

fn numbers(list: &[Number]) -> Option<Markup> {
    let pair = |n: &Number| Pair { name: n.name.clone(), this: Some((n.unit, n.this)), other: Some((n.unit, n.other)) };
    let list: Vec<Pair<(Unit, u64)>> = list.iter().map(pair).collect();
    let of = |v: &Option<(Unit, u64)>| v.map_or(0, |v| v.1);
    rows(&list, true, |(unit, n)| html! { (unit.human(*n)) }, |p| delta(of(&p.this), of(&p.other)))
}

fn counts(list: &[Pair<Count>]) -> Option<Markup> {
    let cell = |c: &Count| {
        html! {
            (c.nodes) @if c.nodes == 1 { " call" } @else { " calls" }
            @if c.flops > 0 { small.soft { (human_flops(c.flops)) } }
            small.soft { (human_bytes(c.bytes)) }
        }
    };
    // What costs most is what matters: work where both have it, else traffic.
    let change = |p: &Pair<Count>| {
        let of = |f: fn(&Count) -> u64| (p.this.as_ref().map_or(0, f), p.other.as_ref().map_or(0, f));
        let ((fa, fb), (ba, bb)) = (of(|c| c.flops), of(|c| c.bytes));
        html! { @if fa != fb { (delta(fa, fb)) } @else { (delta(ba, bb)) } }
    };
    rows(list, true, cell, change)
}

fn times(list: &[Pair<usize>]) -> Option<Markup> {
    rows(list, true, |n| html! { "×" (n) }, |_| html! {})
}
