//! A training step by phase and stream.

use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::super::training::Training;
use super::Section;
use super::parts::{flops, table};

/// The section.
pub fn section(t: &Training) -> Section {
    let lead = html! {
        "What a training step is made of: from the batch to the loss, back to the gradients, and on to the next parameters. "
        "What is computed again was not kept for the backward pass."
    };
    let body = html! {
        (shares(t))
        ul { @for s in t.sentences() { li { (s) } } }
    };
    Section { id: "training", title: "Training", lead, body }
}

fn shares(t: &Training) -> Markup {
    let streams = t.streams();
    let head = html! {
        th { "Phase" }
        @for s in &streams { th.n { (s) } }
        th.n { "Traffic" }
        th.n { "Calls" }
    };
    let body = html! {
        @for phase in t.phases() {
            @let all = t.shares.iter().filter(|s| s.phase == phase);
            tr {
                th scope="row" { (phase.name()) }
                @for s in &streams { td.n { (flops(t.share(phase, s).map_or(0, |s| s.flops))) } }
                td.n { (human_bytes(all.clone().map(|s| s.bytes).sum())) }
                td.n { (all.map(|s| s.calls).sum::<usize>()) }
            }
        }
    };
    table(head, body)
}
