//! What the plan is for, and what it takes and gives.

use ccl_ir::Plan;
use ccl_ir::plan::Port;
use ccl_runtime::device::human_bytes;
use maud::{Markup, html};

use super::Section;
use super::parts::{mark, path, table};

/// The section.
pub fn section(plan: &Plan) -> Section {
    let about = &plan.about;
    let config = serde_json::to_string_pretty(&about.config).unwrap_or_default();
    let lead = html! {
        "Made by " (about.compiler) ", from the model's configuration"
        @if plan.weights_from.is_some() { " and its weights" } "."
    };
    let body = html! {
        h3 { "Tensors" }
        (ports("Input", &plan.inputs))
        (ports("Output", &plan.outputs))
        p.note {
            (plan.weights.len()) " weights, " (human_bytes(plan.report.weight_bytes))
            @if let Some(from) = &plan.weights_from { ", from " code { (path(&from.directory)) } }
        }
        details.item { summary { span.name { "Configuration" } } pre { (config) } }
    };
    Section { id: "about", title: "About", lead, body }
}

fn ports(what: &str, list: &[Port]) -> Markup {
    let head = html! { th { (what) } th { "Type" } th.n { "Size" } th { "When" } };
    let body = html! {
        @for p in list {
            tr {
                th scope="row" { code { (path(&p.name)) } }
                td { code { (p.operand.ty) } }
                td.n { (human_bytes(p.operand.ty.bytes())) }
                td { (mark(p.binding)) }
            }
        }
    };
    table(head, body)
}
