//! What the program says on standard error: logs and notes, one line each.
//!
//! Standard error may be closed early (`ccl ... 2>&1 | head`); what cannot be said is dropped and the work goes on.

use std::fmt;
use std::io::{IsTerminal, Write as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes a line to standard error, whatever the log level.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes the one line of a failure to standard error.
pub fn error(text: &str) {
    note(&format!("error: {}", one_line(text)));
}

/// Warnings are logged always, more with `-v` or by `CCL_LOG`; in colour on a terminal.
pub fn start(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_env("CCL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .event_format(Line)
        .try_init();
}

/// Events as `warning: ...`.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (name, colour) = match *event.metadata().level() {
            Level::ERROR => ("error", 31),
            Level::WARN => ("warning", 33),
            Level::INFO => ("info", 32),
            Level::DEBUG => ("debug", 34),
            Level::TRACE => ("trace", 35),
        };
        if out.has_ansi_escapes() {
            write!(out, "\x1b[1;{colour}m{name}:\x1b[0m ")?;
        } else {
            write!(out, "{name}: ")?;
        }
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        writeln!(out, "{}", one_line(&text))
    }
}

/// The text with control characters escaped: a path may have a line break in it, a message has none.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn line_breaks_and_escapes_are_shown() {
        assert_eq!(one_line("a\nb\u{1b}[1m ü"), "a\\nb\\u{1b}[1m ü");
    }
}
