//! HTML pages that need nothing else: no network, no script to be read, any width, light or dark.
//!
//! Every text goes through `maud`, which escapes it; the policy in a page's head forbids the browser to load anything.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// One section of a page.
pub(crate) struct Section {
    /// Anchor.
    pub id: &'static str,
    /// Title, short enough for the table of contents.
    pub title: &'static str,
    /// What it shows, in a sentence.
    pub lead: Markup,
    /// The rest.
    pub body: Markup,
}

/// Head, table of contents and sections.
pub(crate) fn shell(title: &str, head: &Markup, sections: &[Section]) -> String {
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

/// A table that scrolls sideways on its own where the screen is narrow.
pub(crate) fn table(head: Markup, body: Markup) -> Markup {
    html! { div.scroll tabindex="0" { table { thead { tr { (head) } } tbody { (body) } } } }
}

/// A number for a drawing: one decimal, no more bytes than it needs.
pub(crate) fn short(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), Into::into)
}
