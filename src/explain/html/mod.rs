//! The explanation as one HTML page that needs nothing else: no network, no script to be read, any width, light or dark.
//!
//! One module for each section. Every text goes through `maud`, which escapes it; the policy in the page's head forbids the
//! browser to load anything.

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
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cost::Machine;
use super::trace::Trace;
use super::training::Training;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// One section of a page.
struct Section {
    /// Anchor.
    id: &'static str,
    /// Title, short enough for the table of contents.
    title: &'static str,
    /// What it shows, in a sentence.
    lead: Markup,
    body: Markup,
}

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

/// Head, table of contents and sections.
fn shell(title: &str, head: &Markup, sections: &[Section]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "To the contents" }
                nav.toc aria-label="Contents" {
                    a href="#top" { "Summary" }
                    @for s in sections { a href={ "#" (s.id) } { (s.title) } }
                }
                main #main {
                    header.top #top { (head) }
                    @for s in sections {
                        section id=(s.id) aria-labelledby={ (s.id) "-title" } {
                            h2 id={ (s.id) "-title" } { (s.title) }
                            p.lead { (s.lead) }
                            (s.body)
                        }
                    }
                    footer { p.note { "Written by ccl " (env!("CARGO_PKG_VERSION")) ". This page loads nothing." } }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}
