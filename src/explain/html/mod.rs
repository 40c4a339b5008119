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
mod training;

use ccl_ir::Plan;
use maud::html;

use super::cost::Machine;
use super::trace::Trace;
use super::training::Training;
use crate::page::{Section, shell};

/// The page for a plan, with times by a machine's roofline, and measured times where there are some.
pub fn page(plan: &Plan, machine: &Machine, trace: Option<&Trace>) -> String {
    let about = &plan.about;
    let training = Training::of(plan);
    let sections: Vec<Section> = training
        .iter()
        .map(training::section)
        .chain([
            passes::section(plan),
            graph::section(plan),
            rewrites::applied(plan),
            rewrites::refused(plan),
            memory::section(plan),
            kernels::section(plan, machine, trace),
            roofline::section(plan, machine, trace),
            about::section(plan),
        ])
        .collect();
    let title = format!("{} {} – ccl plan", about.task, about.clip);
    let head = html! {
        p.kicker { "ccl plan" }
        h1 { (about.task) " " span.soft { (about.clip) } }
        (summary::head(plan, machine, trace))
    };
    shell(&title, &head, &sections)
}

/// The page for two plans.
pub fn diff_page(diff: &super::Diff) -> String {
    shell("Two plans – ccl", &diff::head(diff), &diff::sections(diff))
}
