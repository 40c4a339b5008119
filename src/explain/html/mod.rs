//! The explanation as one [page](crate::page), one module for each section.

mod about;
mod diff;
mod graph;
mod kernels;
mod memory;
mod parts;
mod passes;
mod rewrites;
mod roofline;
mod summary;

use ccl_ir::Plan;
use maud::html;

use super::cost::Machine;
use super::trace::Trace;
use crate::page::{Section, shell};

/// The page for a plan, with measured times where there are some.
pub fn page(plan: &Plan, trace: Option<&Trace>) -> String {
    let machine = Machine::for_plan(plan);
    let about = &plan.about;
    let sections = [
        passes::section(plan),
        graph::section(plan),
        rewrites::applied(plan),
        rewrites::refused(plan),
        memory::section(plan),
        kernels::section(plan, &machine, trace),
        roofline::section(plan, &machine, trace),
        about::section(plan),
    ];
    let title = format!("{} {} – ccl plan", about.task, about.clip);
    let head = html! {
        p.kicker { "ccl plan" }
        h1 { (about.task) " " span.soft { (about.clip) } }
        (summary::head(plan, &machine, trace))
    };
    shell(&title, &head, &sections)
}

/// The page for two plans.
pub fn diff_page(diff: &super::Diff) -> String {
    shell("Two plans – ccl", &diff::head(diff), &diff::sections(diff))
}
