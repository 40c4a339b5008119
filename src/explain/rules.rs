//! Events by rule, and their places folded over equal blocks.

use std::collections::BTreeMap;

use ccl_ir::Event;

/// All events of one rule that were applied, or all that were refused.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    /// The pass.
    pub pass: &'a str,
    /// The rule.
    pub rule: &'a str,
    /// Whether it applied.
    pub applied: bool,
    /// Its events in order.
    pub events: Vec<&'a Event>,
}

impl Rule<'_> {
    /// Change of FLOPs by all events.
    pub fn flops(&self) -> i64 {
        self.events.iter().map(|e| e.flops_delta).fold(0, i64::saturating_add)
    }

    /// Change of bytes by all events.
    pub fn bytes(&self) -> i64 {
        self.events.iter().map(|e| e.bytes_delta).fold(0, i64::saturating_add)
    }
}

/// Events by pass, rule and whether they applied, in the order of their first event.
pub fn rules(events: &[Event]) -> Vec<Rule<'_>> {
    let mut place: BTreeMap<(&str, &str, bool), usize> = BTreeMap::new();
    let mut list: Vec<Rule> = Vec::new();
    for e in events {
        let (pass, rule, applied) = (e.pass.as_str(), e.rule.as_str(), e.applied);
        let i = *place.entry((pass, rule, applied)).or_insert_with(|| {
            list.push(Rule { pass, rule, applied, events: Vec::new() });
            list.len() - 1
        });
        list[i].events.push(e);
    }
    list
}

/// Events that say the same of several blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where, with `N` for a block's number.
    pub at: String,
    /// The numbers of the blocks; empty outside blocks.
    pub blocks: Vec<usize>,
    /// Number of events.
    pub count: usize,
    /// Why, with `N` for a block's number.
    pub reason: String,
    /// Change of FLOPs by all of them.
    pub flops: i64,
    /// Change of bytes by all of them.
    pub bytes: i64,
}

/// Events of one rule, those of equal blocks as one.
pub fn places(rule: &Rule<'_>) -> Vec<Place> {
    let mut index: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut list: Vec<Place> = Vec::new();
    for e in &rule.events {
        let (at, block) = fold(&e.at);
        let (reason, _) = fold(&e.reason);
        let i = *index.entry((at.clone(), reason.clone())).or_insert_with(|| {
            list.push(Place { at, blocks: Vec::new(), count: 0, reason, flops: 0, bytes: 0 });
            list.len() - 1
        });
        let p = &mut list[i];
        p.blocks.extend(block);
        p.count += 1;
        p.flops = p.flops.saturating_add(e.flops_delta);
        p.bytes = p.bytes.saturating_add(e.bytes_delta);
    }
    list
}

/// A text with `N` for the number of every block in it, and the first of these numbers:
/// `video.blocks.3.cca` gives `video.blocks.N.cca` and 3.
pub fn fold(text: &str) -> (String, Option<usize>) {
    const BLOCKS: &str = "blocks.";
    let mut out = String::with_capacity(text.len());
    let mut first = None;
    let mut rest = text;
    while let Some(i) = rest.find(BLOCKS) {
        let (before, after) = rest.split_at(i + BLOCKS.len());
        out.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if let Ok(n) = after[..digits].parse() {
            out.push('N');
            first = first.or(Some(n));
            rest = &after[digits..];
        } else {
            rest = after;
        }
    }
    out.push_str(rest);
    (out, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_blocks_are_one_place() {
        let event = |at: &str, reason: &str| Event {
            pass: "cse".into(),
            rule: "same value".into(),
            at: at.into(),
            applied: true,
            reason: reason.into(),
            flops_delta: -2,
            bytes_delta: -3,
        };
        let events = [
            event("u/video.blocks.0.cca", "the same as `c/video.blocks.0.cca`"),
            event("u/video.blocks.12.cca", "the same as `c/video.blocks.12.cca`"),
            event("u/video.head", "another"),
        ];
        let rules = rules(&events);
        assert_eq!((rules.len(), rules[0].flops(), rules[0].bytes()), (1, -6, -9));
        let places = places(&rules[0]);
        assert_eq!(places.len(), 2);
        assert_eq!((places[0].at.as_str(), places[0].blocks.as_slice()), ("u/video.blocks.N.cca", &[0, 12][..]));
        assert_eq!(places[0].reason, "the same as `c/video.blocks.N.cca`");
        assert_eq!((places[1].at.as_str(), places[1].blocks.as_slice()), ("u/video.head", &[][..]));
    }

    #[test]
    fn what_is_no_block_stays() {
        assert_eq!(fold("blocks.x blocks."), ("blocks.x blocks.".into(), None));
        assert_eq!(fold("a.blocks.7"), ("a.blocks.N".into(), Some(7)));
    }
}
