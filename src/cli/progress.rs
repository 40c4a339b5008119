//! How far long work is, on standard error.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar with the count, the time since the beginning and the time left. Where standard error is no terminal, a line for every tenth of
/// the work.
pub struct Bar {
    bar: Option<ProgressBar>,
    unit: &'static str,
    total: u64,
    begin: Instant,
    said: Cell<u64>,
    quiet: Duration,
}

impl Bar {
    /// Begins to count `total` pieces of work, each a `unit`.
    pub fn start(unit: &'static str, total: usize) -> Self {
        let total = total as u64;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = format!("{unit} {{pos}}/{{len}} {{wide_bar}} {{elapsed_precise}}, {{eta}} left");
            let style = ProgressStyle::with_template(&template);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, unit, total, begin: Instant::now(), said: Cell::new(0), quiet: Duration::ZERO }
    }

    /// Says nothing in the first second: work that may be done at once.
    pub fn quiet_at_first(mut self) -> Self {
        self.quiet = Duration::from_secs(1);
        self
    }

    /// So many pieces are done.
    pub fn set_position(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let tenth = done * 10 / self.total.max(1);
        if done > 0 && tenth > self.said.get() && self.begin.elapsed() >= self.quiet {
            self.said.set(tenth);
            let elapsed = self.begin.elapsed().as_secs_f64();
            let left = elapsed / done as f64 * (self.total - done) as f64;
            super::log::note(&format!("{} {done}/{}: {elapsed:.1} s, {left:.1} s left", self.unit, self.total));
        }
    }

    /// All is done, or nothing more will be.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
