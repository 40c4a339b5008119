//! The graph before and after the passes, folded by block.

use ccl_ir::plan::Call;
use ccl_ir::{Binding, Plan};
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::fold::{Fate, Group, Item, Part, groups};
use super::super::units::{human_flops, percent};
use super::Section;
use super::parts::{blocks, delta, flops, kind, mark, path, table};

/// The section.
pub fn section(plan: &Plan) -> Section {
    let groups = groups(plan);
    let most = groups.iter().flat_map(|g| &g.items).map(scale).max().unwrap_or(0).max(1);
    let lead = html! {
        "The program by guidance pass and stream; blocks that are equal before and after are shown once. "
        "Open one for its parts, and a part's calls. Grey is pruned: "
        "the task does not take that way, or nobody reads it. Dashed is computed elsewhere: merged with an equal value, or made part of another operation."
    };
    let body = html! {
        ul.legend.marks { @for b in Binding::ALL { li { (mark(b)) } } }
        p.key { "upper bar: what the task needs · lower bar: what the plan computes, " span.swatch.step {} "in every step, " span.swatch.prologue {} "once" }
        @for g in &groups { (group(plan, g, most)) }
    };
    Section { id: "graph", title: "Graph", lead, body }
}

/// The larger of the work of an item before and after, for the length of its bars.
fn scale(item: &Item) -> u64 {
    let t = item.total();
    let after: u64 = Binding::ALL.iter().map(|&b| t.flops(b)).sum();
    t.needed.flops.max(after) * item.times() as u64
}

fn group(plan: &Plan, g: &Group, most: u64) -> Markup {
    let sum = |of: &dyn Fn(&Part) -> u64| -> u64 { g.items.iter().map(|i| of(&i.total()) * i.times() as u64).sum() };
    let (needed, step) = (sum(&|p| p.needed.flops), sum(&|p| p.flops(Binding::Step)));
    html! {
        div.group {
            h3 { code { (g.name) } @if needed + step > 0 { " " span.soft { (some(needed)) " → " (some(step)) " a step" } } }
            @for item in &g.items { (one(plan, item, &g.name, most)) }
        }
    }
}

/// The name of an item inside its group.
fn name(item: &Item, group: &str) -> String {
    match item.blocks.as_slice() {
        [] => item.path.strip_prefix(group).map_or(item.path.as_str(), |p| p.trim_start_matches('.')).to_string(),
        list => blocks(list),
    }
}

fn one(plan: &Plan, item: &Item, group: &str, most: u64) -> Markup {
    let total = item.total();
    let times = item.times() as u64;
    let (needed, step) = (total.needed.flops * times, total.flops(Binding::Step) * times);
    let once: u64 = [Binding::Load, Binding::Prologue, Binding::Epilogue].iter().map(|&b| total.flops(b) * times).sum();
    let name = name(item, group);
    html! {
        details.item.(class(total.fate())) {
            summary {
                span.name { (if name.is_empty() { group } else { &name }) @if times > 1 { b.times { "×" (times) } } }
                span.marks { (fate(&total)) }
                span.work {
                    @if needed + step + once > 0 { (some(needed)) " → " (some(step)) (delta(needed, step)) }
                    @else { span.soft { (operations(total.built.nodes * item.times())) } }
                }
                // A bar that would be a speck says nothing.
                @if 200 * needed.max(step + once) > most {
                    span.bars2 {
                        span.bar.was style=(width(needed, most)) {}
                        span.row { span.bar.step style=(width(step, most)) {} span.bar.prologue style=(width(once, most)) {} }
                    }
                }
            }
            (parts(item))
            (calls(plan, item))
        }
    }
}

fn width(n: u64, most: u64) -> String {
    format!("width:{:.2}%", 100.0 * n as f64 / most as f64)
}

/// FLOPs in a sentence, where a dash would look like a minus.
fn some(n: u64) -> String {
    if n == 0 { "0".into() } else { human_flops(n) }
}

fn operations(n: usize) -> String {
    if n == 1 { "1 operation".into() } else { format!("{n} operations") }
}

/// How a part is drawn.
fn class(fate: Fate) -> &'static str {
    match fate {
        Fate::Pruned => "pruned",
        Fate::Merged => "merged",
        Fate::Hoisted => "hoisted",
        Fate::Split | Fate::Kept => "kept",
    }
}

/// What became of a part.
fn fate(part: &Part) -> Markup {
    html! {
        @match part.fate() {
            Fate::Pruned => { span.mark.none { "pruned" } }
            Fate::Merged => { span.mark.none title="merged with an equal value, or part of another operation" { "computed elsewhere" } }
            _ => { @for (&b, c) in &part.after { @if c.nodes > 0 { (mark(b)) } } }
        }
    }
}

fn operators<'a>(ops: impl Iterator<Item = (&'a str, usize)>) -> Markup {
    html! {
        span.ops {
            @for (name, n) in ops {
                span { i class=(kind(name).0) {} (name) @if n > 1 { " ×" (n) } }
            }
        }
    }
}

/// Parts of one block.
fn parts(item: &Item) -> Markup {
    let head = html! {
        th { "Part" }
        th { "As built" }
        th { "As planned" }
        th.n { "Work needed" }
        th.n { "Work of a step" }
        th.n { "Work done once" }
        th { "When" }
    };
    let body = html! {
        @for p in &item.parts {
            @let once = p.flops(Binding::Load) + p.flops(Binding::Prologue) + p.flops(Binding::Epilogue);
            tr class=(class(p.fate())) {
                th scope="row" { @if item.blocks.is_empty() { (path(&p.name)) } @else if p.name.is_empty() { "(between the parts)" } @else { (p.name) } }
                td { (operators(p.operators.iter().map(|(name, &n)| (name.as_str(), n)))) }
                td { (operators(p.planned().into_iter())) }
                td.n { (flops(p.needed.flops)) @if p.built.flops != p.needed.flops { small.soft { "of " (flops(p.built.flops)) } } }
                td.n { (flops(p.flops(Binding::Step))) }
                td.n { (flops(once)) }
                td { (fate(p)) }
            }
        }
    };
    html! {
        @if item.times() > 1 { p.note { "One of " (item.times()) " equal blocks:" } }
        (table(head, body))
    }
}

/// The plan's calls of one block.
fn calls(plan: &Plan, item: &Item) -> Markup {
    let mut list: Vec<(Binding, usize, &Call)> = Vec::new();
    for (&entry, calls) in &plan.entries {
        let of = calls.iter().enumerate().filter(|(_, c)| item.holds(&c.at).is_some());
        list.extend(of.map(|(i, c)| (entry, i, c)));
    }
    if list.is_empty() {
        return html! {};
    }
    let all: u64 = list.iter().map(|(_, _, c)| c.work().flops).sum();
    let head = html! { th { "Call" } th { "Operator" } th { "At" } th { "Result" } th.n { "Work" } th.n { "Share" } th.n { "Traffic" } };
    let body = html! {
        @for (entry, i, call) in &list {
            @let w = call.work();
            tr {
                td { (entry) " " (i) }
                td { i class=(kind(call.op.name()).0) {} (call.op.name()) }
                td { code { (path(tail(&call.at, item))) } }
                td { code { @for o in &call.outputs { (o.ty) " " } } }
                td.n { (flops(w.flops)) }
                td.n { @if w.flops > 0 { (percent(w.flops as f64 / all as f64)) } }
                td.n { (human_bytes(w.bytes)) }
            }
        }
    };
    let which = item.blocks.first().map_or(String::new(), |b| format!(" of block {b}"));
    html! { details.calls { summary { (list.len()) @if list.len() == 1 { " call" } @else { " calls" } (which) } (table(head, body)) } }
}

/// A path inside its block.
fn tail<'a>(at: &'a str, item: &Item) -> &'a str {
    match item.blocks.first() {
        Some(n) => at.strip_prefix(&format!("{}.{n}.", item.path)).unwrap_or(at),
        None => at,
    }
}
