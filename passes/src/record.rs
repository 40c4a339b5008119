//! Events of one compilation.

use std::collections::BTreeMap;

use ccl_ir::{Event, Work};

/// Collects events. Many equal small rewrites of one module become one event with a count.
#[derive(Debug, Default)]
pub struct Record {
    /// All events so far.
    pub events: Vec<Event>,
    /// Rewrites of the pass that runs now, by rule and module.
    grouped: BTreeMap<(String, String), Group>,
    /// How many rewrites may still be made; `None`: as many as there are.
    fuel: Option<usize>,
    /// Rewrites that were made, and the last of them.
    spent: Spent,
}

/// The rewrites of a compilation: how many were made, and which was the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Number of rewrites.
    pub count: usize,
    /// Pass, rule and place of the last.
    pub last: Option<[String; 3]>,
}

#[derive(Debug, Default)]
struct Group {
    count: usize,
    flops: i64,
    bytes: i64,
    reason: String,
}

impl Record {
    /// A record that allows this many rewrites and then no more: to find the one that changes a result. Compilations of one graph make
    /// their rewrites in the same order.
    pub fn with_fuel(fuel: Option<usize>) -> Self {
        Self { fuel, ..Self::default() }
    }

    /// Whether a rewrite may be made; counts it if so.
    pub fn allow(&mut self, pass: &str, rule: &str, at: &str) -> bool {
        match &mut self.fuel {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        self.spent.count += 1;
        // Only a limited compilation is asked for its last rewrite.
        if self.fuel == Some(0) {
            self.spent.last = Some([pass, rule, at].map(str::to_owned));
        }
        true
    }

    /// The rewrites so far.
    pub fn spent(&self) -> &Spent {
        &self.spent
    }

    /// A rewrite, with the change that it makes.
    pub fn applied(&mut self, pass: &str, rule: &str, at: &str, reason: impl Into<String>, flops: i64, bytes: i64) {
        self.push(pass, rule, at, true, reason.into(), flops, bytes);
    }

    /// A rewrite that was not made.
    pub fn refused(&mut self, pass: &str, rule: &str, at: &str, reason: impl Into<String>) {
        self.push(pass, rule, at, false, reason.into(), 0, 0);
    }

    #[allow(clippy::too_many_arguments)]
    fn push(&mut self, pass: &str, rule: &str, at: &str, applied: bool, reason: String, flops: i64, bytes: i64) {
        let event = Event {
            pass: pass.into(),
            rule: rule.into(),
            at: at.into(),
            applied,
            reason,
            flops_delta: flops,
            bytes_delta: bytes,
        };
        self.events.push(event);
    }

    /// Adds a small rewrite at `at` to the group of its module; [`Record::close`] writes the groups.
    pub fn count(&mut self, rule: &str, at: &str, reason: &str, work: Work, sign: i64) {
        let group = self.grouped.entry((rule.into(), module(at).into())).or_default();
        group.count += 1;
        group.flops += sign * work.flops as i64;
        group.bytes += sign * work.bytes as i64;
        if group.reason.is_empty() {
            group.reason = reason.into();
        }
    }

    /// Writes the groups as events of `pass`.
    pub fn close(&mut self, pass: &str) {
        for ((rule, at), g) in std::mem::take(&mut self.grouped) {
            let times = if g.count == 1 { String::new() } else { format!(" ({} operations)", g.count) };
            self.applied(pass, &rule, &at, format!("{}{times}", g.reason), g.flops, g.bytes);
        }
    }
}

/// The module of a path: guidance pass, stream, block and the block's part,
/// `cond/video.blocks.3.cca.norm_q` -> `cond/video.blocks.3.cca`.
pub fn module(at: &str) -> &str {
    let mut parts = 0;
    let keep = if at.contains(".blocks.") { 4 } else { 2 };
    for (i, c) in at.char_indices() {
        if c == '.' {
            parts += 1;
            if parts == keep {
                return &at[..i];
            }
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::module;

    #[test]
    fn modules_are_blocks_parts() {
        assert_eq!(module("cond/video.blocks.3.cca.norm_q"), "cond/video.blocks.3.cca");
        assert_eq!(module("cond/video.blocks.3.cca"), "cond/video.blocks.3.cca");
        assert_eq!(module("uncond/audio.head.head"), "uncond/audio.head");
        assert_eq!(module("schedule"), "schedule");
    }
}
