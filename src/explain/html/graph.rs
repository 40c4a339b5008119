//! The graph before and after the passes, folded by block.

use std::collections::BTreeMap;

use ccl_ir::plan::{Call, Operand, Place};
use ccl_ir::{Binding, Plan};
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::fold::{Fate, Group, Item, Part, groups};
use super::super::units::{human_flops, percent};
use super::Section;
use super::parts::{blocks, delta, flops, kind, mark, path, table};

/// The section.
pub fn section(plan: &Plan) -> Section {
    let (groups, sources) = (groups(plan), sources(plan));
    let most = groups.iter().flat_map(|g| &g.items).map(scale).max().unwrap_or(0).max(1);
    let lead = html! {
        "The program by guidance pass and stream; blocks that are equal before and after are shown once. "
        "Open one for its parts, and a part's calls. Grey is pruned: "
        "the task does not take that way, or nobody reads it. Dashed is computed elsewhere: merged with an equal value, "
        "or made part of another operation. Calls are numbered within their entry; what they read, by the number of the "
        "call that wrote it."
    };
    let body = html! {
        ul.legend.marks { @for b in Binding::ALL { li { (mark(b)) } } }
        p.key {
            "upper bar: what the task needs · lower bar: what the plan computes, "
            span.swatch.step {} " in every step, " span.swatch.prologue {} " once"
        }
        @for g in &groups { (group(plan, g, most, &sources)) }
    };
    Section { id: "graph", title: "Graph", lead, body }
}

/// The larger of the work of an item before and after, for the length of its bars.
fn scale(item: &Item) -> u64 {
    let t = item.total();
    t.needed.flops.max(t.step().saturating_add(t.once()))
}

fn group(plan: &Plan, g: &Group, most: u64, sources: &Sources) -> Markup {
    let sum = |of: &dyn Fn(&Part) -> u64| g.items.iter().map(|i| of(&i.total())).fold(0, u64::saturating_add);
    let (needed, step) = (sum(&|p| p.needed.flops), sum(&Part::step));
    html! {
        div.group {
            h3 { code { (g.name) } @if needed.max(step) > 0 { " " span.soft { (some(needed)) " → " (some(step)) " a step" } } }
            @for item in &g.items { (one(plan, item, &g.name, most, sources)) }
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

fn one(plan: &Plan, item: &Item, group: &str, most: u64, sources: &Sources) -> Markup {
    let total = item.total();
    let (needed, step, once) = (total.needed.flops, total.step(), total.once());
    let name = name(item, group);
    html! {
        details.item.(class(total.fate())) {
            summary {
                span.name {
                    (if name.is_empty() { group } else { &name })
                    @if item.times() > 1 { b.times { "×" (item.times()) } }
                }
                span.marks { (fate(&total)) }
                span.work {
                    @if needed.max(step).max(once) > 0 { (some(needed)) " → " (some(step)) (delta(needed, step)) }
                    @else { span.soft { (operations(total.built.nodes)) } }
                }
                // A bar that would be a speck says nothing.
                @if scale(item) > most / 200 {
                    span.bars2 {
                        span.bar.was style=(width(needed, most)) {}
                        span.row { span.bar.step style=(width(step, most)) {} span.bar.prologue style=(width(once, most)) {} }
                    }
                }
            }
            (parts(item))
            (calls(plan, item, sources))
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
            Fate::Merged => {
                span.mark.none title="merged with an equal value, or part of another operation" { "computed elsewhere" }
            }
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
        th { "When" }
        th.n { "Work needed" }
        th.n { "Work of a step" }
        th.n { "Work done once" }
        th { "As built" }
        th { "As planned" }
    };
    let body = html! {
        @for p in &item.parts {
            tr class=(class(p.fate())) {
                th scope="row" { @if p.name.is_empty() { "(between the parts)" } @else { (path(tail(&p.name, item))) } }
                td { (fate(p)) }
                td.n {
                    (flops(p.needed.flops))
                    @if p.built.flops != p.needed.flops { small.soft { "of " (flops(p.built.flops)) } }
                }
                td.n { (flops(p.step())) }
                td.n { (flops(p.once())) }
                td { (operators(p.operators.iter().map(|(name, &n)| (name.as_str(), n)))) }
                td { (operators(p.planned().into_iter())) }
            }
        }
    };
    html! {
        @if item.times() > 1 { p.note { "One of " (item.times()) " equal blocks:" } }
        (table(head, body))
    }
}

/// The plan's calls of one block.
fn calls(plan: &Plan, item: &Item, sources: &Sources) -> Markup {
    let mut list: Vec<(Binding, usize, &Call)> = Vec::new();
    for (&entry, calls) in &plan.entries {
        let of = calls.iter().enumerate().filter(|(_, c)| item.holds(&c.at));
        list.extend(of.map(|(i, c)| (entry, i, c)));
    }
    if list.is_empty() {
        return html! {};
    }
    let all = list.iter().map(|(_, _, c)| c.work().flops).fold(0, u64::saturating_add);
    let head = html! {
        th { "Call" } th { "Operator" } th { "At" } th { "Reads" } th { "Result" }
        th.n { "Work" } th.n { "Share" } th.n { "Traffic" }
    };
    let body = html! {
        @for (entry, i, call) in &list {
            @let w = call.work();
            tr {
                td { (entry) " " (i) }
                td { i class=(kind(call.op.name()).0) {} (call.op.name()) }
                td { code { (tail(&call.at, item)) } }
                td { code { (reads(plan, *entry, call, sources)) } }
                td { code { @for o in &call.outputs { (o.ty) " " } } }
                td.n { (flops(w.flops)) }
                td.n { @if w.flops > 0 { (percent(w.flops as f64 / all as f64)) } }
                td.n { (human_bytes(w.bytes)) }
            }
        }
    };
    let which = item.blocks.first().map_or(String::new(), |b| format!(" of block {b}"));
    html! {
        details.calls {
            summary { (list.len()) @if list.len() == 1 { " call" } @else { " calls" } (which) }
            (table(head, body))
        }
    }
}

/// What wrote each buffer: a call by entry and position, or an input by name.
type Sources<'a> = BTreeMap<u32, Source<'a>>;

enum Source<'a> {
    Input(&'a str),
    Call(Binding, usize),
}

fn sources(plan: &Plan) -> Sources<'_> {
    let mut map = BTreeMap::new();
    for port in &plan.inputs {
        if let Place::Buffer(b) = port.operand.place {
            map.insert(b, Source::Input(&port.name));
        }
    }
    for (&entry, calls) in &plan.entries {
        for (i, output) in calls.iter().enumerate().flat_map(|(i, c)| c.outputs.iter().map(move |o| (i, o))) {
            if let Place::Buffer(b) = output.place {
                map.insert(b, Source::Call(entry, i));
            }
        }
    }
    map
}

/// What a call reads: positions of calls, those of other entries with their name, inputs and weights.
fn reads(plan: &Plan, entry: Binding, call: &Call, sources: &Sources) -> String {
    let name = |operand: &Operand| match operand.place {
        Place::Weight(w) => plan.weights.get(w as usize).map_or(String::new(), |w| tail_of_weight(&w.name).to_string()),
        Place::Buffer(b) => match sources.get(&b) {
            Some(Source::Call(e, i)) if *e == entry => i.to_string(),
            Some(Source::Call(e, i)) => format!("{e} {i}"),
            Some(Source::Input(name)) => (*name).to_string(),
            None => "?".into(),
        },
    };
    call.inputs.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The last two steps of a weight's path: `q.weight`.
fn tail_of_weight(name: &str) -> &str {
    name.rmatch_indices('.').nth(1).map_or(name, |(i, _)| &name[i + 1..])
}

/// A path inside its block, or inside its stream.
fn tail<'a>(at: &'a str, item: &Item) -> &'a str {
    match item.blocks.first() {
        Some(n) => at.strip_prefix(&format!("{}.{n}.", item.path)).unwrap_or(at),
        None if at.contains('/') => at.split_once('.').map_or(at, |(_, tail)| tail),
        None => at,
    }
}
