//! The model's modules before and after the passes, equal blocks as one.

use std::collections::BTreeMap;

use ccl_ir::plan::{Call, Count};
use ccl_ir::{Binding, Plan};
use ccl_passes::record::module;

/// What became of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The task does not need it: its route is not taken, or nobody reads it.
    Pruned,
    /// It is computed elsewhere: merged with an equal value, or made part of another operation.
    Merged,
    /// Computed before the loop or after it.
    Hoisted,
    /// Computed in every step, some of it elsewhere.
    Split,
    /// Computed in every step.
    Kept,
}

/// Work of a part of the model, as built, as needed and as planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Name inside its block, or the whole path outside blocks.
    pub name: String,
    /// As built, every route open.
    pub built: Count,
    /// As the task needs it.
    pub needed: Count,
    /// Operators as built.
    pub operators: BTreeMap<String, usize>,
    /// Calls of the plan by entry.
    pub after: BTreeMap<Binding, Count>,
    /// Operators of the plan by entry.
    pub kernels: BTreeMap<(Binding, &'static str), usize>,
}

impl Part {
    fn count(&mut self, entry: Binding, call: &Call) {
        self.after.entry(entry).or_default().add(call.work());
        *self.kernels.entry((entry, call.op.name())).or_default() += 1;
    }

    /// Adds another part's numbers.
    fn absorb(&mut self, other: &Part) {
        self.built.merge(&other.built);
        self.needed.merge(&other.needed);
        other.after.iter().for_each(|(&entry, count)| self.after.entry(entry).or_default().merge(count));
    }

    /// FLOPs of the plan in every step.
    pub fn step(&self) -> u64 {
        self.after.get(&Binding::Step).map_or(0, |c| c.flops)
    }

    /// FLOPs of the plan before and after the loop.
    pub fn once(&self) -> u64 {
        let other = self.after.iter().filter(|(b, _)| **b != Binding::Step);
        other.map(|(_, c)| c.flops).fold(0, u64::saturating_add)
    }

    /// Operators of the plan in all entries.
    pub fn planned(&self) -> BTreeMap<&'static str, usize> {
        let mut sum = BTreeMap::new();
        self.kernels.iter().for_each(|(&(_, op), n)| *sum.entry(op).or_default() += n);
        sum
    }

    /// What became of it.
    pub fn fate(&self) -> Fate {
        let step = self.after.get(&Binding::Step).is_some_and(|c| c.nodes > 0);
        let other = self.after.iter().any(|(&b, c)| b != Binding::Step && c.nodes > 0);
        match (step, other) {
            (true, true) => Fate::Split,
            (true, false) => Fate::Kept,
            (false, true) => Fate::Hoisted,
            // Of a plan without a record of the build nothing can be said to be missing.
            _ if self.needed.nodes == 0 => Fate::Pruned,
            _ => Fate::Merged,
        }
    }
}

/// One module outside blocks, or a run of equal blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Path of the module, or of the blocks without their numbers: `cond/video.blocks`.
    pub path: String,
    /// Numbers of the blocks, all equal; empty for a module outside blocks.
    pub blocks: Vec<usize>,
    /// The parts of one of them.
    pub parts: Vec<Part>,
}

impl Item {
    /// Number of equal blocks.
    pub fn times(&self) -> usize {
        self.blocks.len().max(1)
    }

    /// The parts of all its blocks together, without operators.
    pub fn total(&self) -> Part {
        let mut sum = Part { name: self.path.clone(), ..Part::default() };
        for _ in 0..self.times() {
            self.parts.iter().for_each(|p| sum.absorb(p));
        }
        sum
    }

    /// Whether a call at this path belongs to the first of the blocks, or to the module.
    pub fn holds(&self, at: &str) -> bool {
        let (path, block, _) = split(module(at));
        path == self.path && block == self.blocks.first().copied()
    }
}

/// A stream of one guidance pass, or what belongs to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `cond/video`, or `shared`.
    pub name: String,
    /// Its modules and blocks in the order of the program.
    pub items: Vec<Item>,
}

/// The program folded by block.
pub fn groups(plan: &Plan) -> Vec<Group> {
    let mut parts: Vec<(String, Option<usize>, Part)> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    let mut part_at = |parts: &mut Vec<(String, Option<usize>, Part)>, at: &str| -> usize {
        *place.entry(at.to_string()).or_insert_with(|| {
            let (path, block, name) = split(at);
            parts.push((path.into(), block, Part { name: name.into(), ..Part::default() }));
            parts.len() - 1
        })
    };
    for m in &plan.report.modules {
        let i = part_at(&mut parts, &m.at);
        let part = &mut parts[i].2;
        (part.built, part.needed, part.operators) = (m.built, m.specialised, m.operators.clone());
    }
    for (&entry, calls) in &plan.entries {
        for call in calls {
            let i = part_at(&mut parts, module(&call.at));
            parts[i].2.count(entry, call);
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for (path, block, part) in parts {
        let name = group_name(&path);
        let g = groups.iter().position(|g| g.name == name).unwrap_or_else(|| {
            groups.push(Group { name: name.into(), items: Vec::new() });
            groups.len() - 1
        });
        let items = &mut groups[g].items;
        match items.iter_mut().find(|i| i.path == path && i.blocks.first().copied() == block) {
            Some(item) => item.parts.push(part),
            None => items.push(Item { path, blocks: block.into_iter().collect(), parts: vec![part] }),
        }
    }
    groups.iter_mut().for_each(merge);
    groups
}

/// Merges blocks that follow each other and are equal.
fn merge(group: &mut Group) {
    let mut out: Vec<Item> = Vec::new();
    for item in group.items.drain(..) {
        match out.last_mut() {
            Some(last) if !item.blocks.is_empty() && last.path == item.path && last.parts == item.parts => {
                last.blocks.extend(item.blocks);
            }
            _ => out.push(item),
        }
    }
    group.items = out;
}

/// A module's path as the path of its block list, the block's number and the part: `cond/video.blocks`, 3, `cca`. Outside
/// blocks the path is all there is.
fn split(at: &str) -> (&str, Option<usize>, &str) {
    const BLOCKS: &str = ".blocks";
    let Some(i) = at.find(".blocks.") else { return (at, None, at) };
    let (path, rest) = at.split_at(i + BLOCKS.len());
    let rest = &rest[1..];
    let (number, part) = rest.split_once('.').unwrap_or((rest, ""));
    match number.parse() {
        Ok(n) => (path, Some(n), part),
        Err(_) => (at, None, at),
    }
}

/// Guidance pass and stream of a path.
fn group_name(path: &str) -> &str {
    if !path.contains('/') {
        return "shared";
    }
    path.split_once('.').map_or(path, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_their_block() {
        assert_eq!(split("cond/video.blocks.3.cca"), ("cond/video.blocks", Some(3), "cca"));
        assert_eq!(split("cond/video.blocks.12"), ("cond/video.blocks", Some(12), ""));
        assert_eq!(split("cond/video.head"), ("cond/video.head", None, "cond/video.head"));
        assert_eq!(group_name("cond/video.blocks"), "cond/video");
        assert_eq!(group_name("schedule"), "shared");
    }
}
