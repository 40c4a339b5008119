//! Rewrites and refusals by rule.

use ccl_ir::{Event, Plan};
use ccl_passes::law;
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::rules::{Place, Rule, places, rules};
use super::super::units::human_flops;
use super::Section;
use super::parts::{blocks, gain, path, table};

/// Places of one rule that a page lists; the rest are counted.
const MOST_PLACES: usize = 120;

/// What the passes did.
pub fn applied(plan: &Plan) -> Section {
    let lead = html! {
        "Every rule that applied, in the order of the passes: what it gains, the law that makes it right, and where. "
        "Gains are the rule's own; a later pass may take what an earlier one left."
    };
    Section { id: "rewrites", title: "Rewrites", lead, body: list(&plan.report.events, true) }
}

/// What the passes did not do.
pub fn refused(plan: &Plan) -> Section {
    let lead = html! { "Places where a rule nearly applied, and why it did not." };
    Section { id: "refusals", title: "Refusals", lead, body: list(&plan.report.events, false) }
}

fn list(events: &[Event], applied: bool) -> Markup {
    let rules: Vec<Rule> = rules(events).into_iter().filter(|r| r.applied == applied).collect();
    html! {
        @if rules.is_empty() { p.empty { "None." } }
        @else {
            input.filter type="search" placeholder="Filter by rule, place or reason" aria-label="Filter" hidden;
            @for r in &rules { (rule(r)) }
        }
    }
}

fn rule(r: &Rule) -> Markup {
    let places = places(r);
    html! {
        details.item.rule {
            summary {
                span.name { (r.rule) span.soft { " · " (r.pass) } }
                span.times { "×" (r.events.len()) }
                @if r.applied {
                    span.gains {
                        @if r.flops() != 0 { span { (gain(r.flops(), human_flops)) " work" } }
                        @if r.bytes() != 0 { span { (gain(r.bytes(), human_bytes)) " traffic" } }
                    }
                }
                @if let Some(law) = law(r.pass, r.rule).filter(|_| r.applied) { span.law { (law) } }
                @else if let Some(first) = places.first() { span.law.reason { (first.reason) } }
            }
            (table(head(r.applied), html! { @for p in places.iter().take(MOST_PLACES) { (place(p, r.applied)) } }))
            @if places.len() > MOST_PLACES {
                p.note { "and " (places.len() - MOST_PLACES) " more places; " code { "ccl explain --events" } " lists all" }
            }
        }
    }
}

fn head(applied: bool) -> Markup {
    html! {
        th { "Place" }
        th.n { "Times" }
        @if applied { th.n { "Work" } th.n { "Traffic" } }
        th { "Why" @if !applied { " not" } }
    }
}

fn place(p: &Place, applied: bool) -> Markup {
    html! {
        tr {
            th scope="row" { code { (path(&p.at)) } @if !p.blocks.is_empty() { small.soft { (blocks(&p.blocks)) } } }
            td.n { (p.count) }
            @if applied { td.n { (gain(p.flops, human_flops)) } td.n { (gain(p.bytes, human_bytes)) } }
            td.why { (path(&p.reason)) }
        }
    }
}
