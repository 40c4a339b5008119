//! The memory plan as a picture: the calls of an entry from left to right, working memory from bottom to top.

use std::ops::Range;

use ccl_ir::{Binding, Plan};
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::lifetimes::{Life, lifetimes, live_bytes};
use super::super::units::percent;
use super::Section;
use super::parts::{KINDS, kind, legend, path, short, table};

/// Buffers that get a rectangle and a tooltip of their own; smaller and shorter ones share a shape by kind.
const MOST_RECTS: usize = 700;
/// Calls that the closer view shows.
const WINDOW: usize = 96;
/// Columns of the curve of live bytes.
const COLUMNS: usize = 500;
/// Buffers in the table below the pictures.
const MOST_ROWS: usize = 12;

/// The section.
pub fn section(plan: &Plan) -> Section {
    let r = &plan.report;
    let lead = html! {
        "Working memory (" (human_bytes(plan.scratch_bytes)) ") is shared by all entries and planned call by call. "
        "Each block is a buffer: from the call that writes it to the last that reads it, at its place in memory. "
        "Weights (" (human_bytes(r.weight_bytes)) ") and kept values ("
        (human_bytes(plan.persistent_bytes)) ") stay where they are and are not drawn."
    };
    let entries = [Binding::Step, Binding::Prologue, Binding::Load, Binding::Epilogue];
    let body = html! {
        @for entry in entries {
            @let lives = lifetimes(plan, entry);
            @if !lives.is_empty() {
                @if entry == Binding::Step { (pictures(plan, entry, &lives)) }
                @else {
                    details.item.entry {
                        summary { span.name { "The same for the " (entry) } span.work { (plan.calls(entry).len()) " calls" } }
                        (pictures(plan, entry, &lives))
                    }
                }
            }
        }
    };
    Section { id: "memory", title: "Memory", lead, body }
}

fn pictures(plan: &Plan, entry: Binding, lives: &[Life]) -> Markup {
    let calls = plan.calls(entry).len();
    let live = live_bytes(lives, calls);
    let (peak, most) =
        live.iter().enumerate().max_by_key(|&(i, b)| (b, std::cmp::Reverse(i))).map_or((0, 0), |(i, b)| (i, *b));
    let extent = lives.iter().map(|l| l.offset + l.bytes).max().unwrap_or(0).max(1);
    let start = peak.saturating_sub(WINDOW / 2).min(calls.saturating_sub(WINDOW));
    html! {
        h3 { "The whole " (entry) span.soft { " · " (calls) " calls, " (lives.len()) " buffers" } }
        (picture(lives, 0..calls, extent, Some(&live)))
        @if calls > 2 * WINDOW {
            h3 { "Around the fullest moment" span.soft { " · call " (peak) ", " (human_bytes(most)) " alive" } }
            (picture(lives, start..start + WINDOW, extent, None))
        }
        (legend(lives.iter().map(|l| l.by.op.name())))
        (fullest(lives, peak, most))
    }
}

/// One picture. Coordinates run from 0 to 1000 both ways, and the browser stretches them.
fn picture(lives: &[Life], calls: Range<usize>, extent: u64, live: Option<&[u64]>) -> Markup {
    let across = 1000.0 / calls.len().max(1) as f64;
    let up = 1000.0 / extent as f64;
    let mut shown: Vec<&Life> = lives.iter().filter(|l| l.first < calls.end && l.last >= calls.start).collect();
    // The largest areas first; the order is the same in every run.
    let area = |l: &Life| l.bytes as u128 * (l.last - l.first + 1) as u128;
    shown.sort_by_key(|l| (std::cmp::Reverse(area(l)), l.first, l.offset));
    let (large, small) = shown.split_at(shown.len().min(MOST_RECTS));
    let corner = |l: &Life| {
        let (first, last) = (l.first.max(calls.start), l.last.min(calls.end - 1));
        let x = (first - calls.start) as f64 * across;
        let (width, height) = ((last - first + 1) as f64 * across, l.bytes as f64 * up);
        [x, 1000.0 - l.offset as f64 * up - height, width, height.max(0.5)].map(short)
    };
    let outline = |class: &str| {
        let of = small.iter().filter(|l| kind(l.by.op.name()).0 == class).map(|l| {
            let [x, y, w, h] = corner(l);
            format!("M{x} {y}h{w}v{h}h-{w}z")
        });
        of.collect::<String>()
    };
    html! {
        figure.memory {
            div.frame {
                span.y-top { (human_bytes(extent)) }
                svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="buffers over time" {
                    @for (class, _) in KINDS {
                        @let d = outline(class);
                        @if !d.is_empty() { path class=(class) d=(d) {} }
                    }
                    @for l in large {
                        @let [x, y, w, h] = corner(l);
                        rect class=(kind(l.by.op.name()).0) x=(x) y=(y) width=(w) height=(h) { title { (l.describe()) } }
                    }
                    @if let Some(live) = live { path.live d=(curve(live, up)) {} }
                }
            }
            figcaption {
                span { "call " (calls.start) }
                output.tip aria-live="polite" {
                    @if live.is_some() { "line: bytes alive" }
                    @if !small.is_empty() { " · the " (small.len()) " smallest have no tooltip" }
                }
                span { "call " (calls.end.saturating_sub(1)) }
            }
        }
    }
}

/// Bytes alive over time, the most of each column.
fn curve(live: &[u64], up: f64) -> String {
    let columns = live.len().clamp(1, COLUMNS);
    let mut d = String::new();
    for c in 0..columns {
        let (from, to) = (c * live.len() / columns, (c + 1) * live.len() / columns);
        let most = live[from..to].iter().max().copied().unwrap_or(0);
        let x = |i: usize| short(1000.0 * i as f64 / columns as f64);
        let y = short(1000.0 - most as f64 * up);
        d += &format!("{}{} {y}H{}", if c == 0 { "M" } else { "L" }, x(c), x(c + 1));
    }
    d
}

/// The largest buffers that are alive at the fullest moment.
fn fullest(lives: &[Life], peak: usize, most: u64) -> Markup {
    let mut alive: Vec<&Life> = lives.iter().filter(|l| l.first <= peak && peak <= l.last).collect();
    alive.sort_by_key(|l| (std::cmp::Reverse(l.bytes), l.first, l.offset));
    let head = html! {
        th { "Alive at call " (peak) } th { "Type" }
        th.n { "Size" } th.n { "Share" } th.n { "Written" } th.n { "Last read" }
    };
    let body = html! {
        @for l in alive.iter().take(MOST_ROWS) {
            tr {
                th.swatched scope="row" {
                    i class=(kind(l.by.op.name()).0) {} (l.by.op.name())
                    small.soft { code { (path(&l.by.at)) } }
                }
                td { code { @if let Some(o) = l.by.outputs.get(l.port) { (o.ty) } } }
                td.n { (human_bytes(l.bytes)) }
                td.n { (percent(l.bytes as f64 / most.max(1) as f64)) }
                td.n { (l.first) }
                td.n { (l.last) }
            }
        }
    };
    html! {
        details.item {
            summary { span.name { "What fills it at the fullest moment" } span.work { (alive.len()) " buffers" } }
            (table(head, body))
            @if alive.len() > MOST_ROWS { p.note { "and " (alive.len() - MOST_ROWS) " smaller ones" } }
        }
    }
}
