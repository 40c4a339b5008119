//! Two plans next to each other: what differs, and by how much.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ccl_ir::plan::Count;
use ccl_ir::{Binding, Plan};
use ccl_passes::record::module;
use ccl_runtime::device::human_bytes;
use serde::Serialize;

use super::kernels::kernels;
use super::rules::{fold, rules};
use super::units::{change, human_flops, ranges};

/// What differs between this plan and another one. What is equal is in no list.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Names of the two plans, for people.
    pub names: [String; 2],
    /// What the plans are for.
    pub about: Vec<Pair<String>>,
    /// FLOPs and bytes of each entry, memory, numbers of calls.
    pub numbers: Vec<Number>,
    /// Kernels by entry.
    pub kernels: Vec<Pair<Count>>,
    /// Modules by entry, those of blocks that differ alike as one.
    pub modules: Vec<Pair<Count>>,
    /// How often each rule applied or was refused.
    pub rules: Vec<Pair<usize>>,
    /// Weights that one plan reads and the other does not, or in another type.
    pub weights: Vec<Pair<String>>,
    /// Inputs and outputs likewise.
    pub ports: Vec<Pair<String>>,
    /// Whether the plans are equal in every byte, listed or not.
    pub same: bool,
}

/// Something that the plans have differently; `None` where one of them lacks it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair<T> {
    /// What it is.
    pub name: String,
    /// In this plan.
    pub this: Option<T>,
    /// In the other.
    pub other: Option<T>,
}

/// A number that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Number {
    /// What is counted.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// In this plan.
    pub this: u64,
    /// In the other.
    pub other: u64,
}

/// Units of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Floating point operations.
    Flops,
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

impl Unit {
    /// The number for people.
    pub fn human(self, n: u64) -> String {
        match self {
            Unit::Flops => human_flops(n),
            Unit::Bytes => human_bytes(n),
            Unit::Count => n.to_string(),
        }
    }
}

/// Entries of two maps that are not equal.
fn pairs<K: Ord + Clone, T: Clone + PartialEq>(
    this: &BTreeMap<K, T>,
    other: &BTreeMap<K, T>,
    name: impl Fn(&K) -> String,
) -> Vec<Pair<T>> {
    let keys: BTreeSet<&K> = this.keys().chain(other.keys()).collect();
    let pair = |k: &K| Pair { name: name(k), this: this.get(k).cloned(), other: other.get(k).cloned() };
    keys.into_iter().map(pair).filter(|p| p.this != p.other).collect()
}

impl Diff {
    /// Compares two plans.
    pub fn new(names: [String; 2], this: &Plan, other: &Plan) -> Self {
        let both = |of: &dyn Fn(&Plan) -> BTreeMap<String, String>| pairs(&of(this), &of(other), String::clone);
        Self {
            names,
            about: both(&about),
            numbers: numbers(this, other),
            kernels: pairs(&by_kernel(this), &by_kernel(other), |(entry, name)| format!("{entry} {name}")),
            modules: modules(this, other),
            rules: pairs(&by_rule(this), &by_rule(other), String::clone),
            weights: both(&|p| p.weights.iter().map(|w| (w.name.clone(), w.ty.to_string())).collect()),
            ports: both(&ports),
            same: this == other,
        }
    }

    /// The differences as text for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let [this, other] = &self.names;
        if self.same {
            return format!("{this} and {other} are the same plan\n");
        }
        let _ = writeln!(out, "this   {this}\nother  {other}");
        let row = |out: &mut String, name: &str, this: &str, other: &str, change: &str| {
            let line = format!("  {name:<46} {this:>16} {other:>16}  {change}");
            let _ = writeln!(out, "{}", line.trim_end());
        };
        let heading = |out: &mut String, name: &str| row(out, "", "this", "other", &format!("({name})"));
        let said = |s: &Option<String>| s.clone().unwrap_or_else(|| "–".into());
        for (name, list) in [("for", &self.about), ("inputs and outputs", &self.ports), ("weights", &self.weights)] {
            if !list.is_empty() {
                let _ = writeln!(out);
                heading(&mut out, name);
            }
            for p in folded(list) {
                row(&mut out, &p.name, &said(&p.this), &said(&p.other), "");
            }
        }
        if !self.numbers.is_empty() {
            let _ = writeln!(out);
            heading(&mut out, "work and memory");
        }
        for n in &self.numbers {
            row(&mut out, &n.name, &n.unit.human(n.this), &n.unit.human(n.other), &change(n.this, n.other));
        }
        for (name, list) in [("kernels", &self.kernels), ("modules", &self.modules)] {
            if !list.is_empty() {
                let _ = writeln!(out);
                heading(&mut out, name);
            }
            for p in list {
                let calls = |c: &Option<Count>| c.map_or("–".into(), |c| format!("{} calls", c.nodes));
                let flops = |c: &Option<Count>| c.map_or(0, |c| c.flops);
                let (a, b) = (flops(&p.this), flops(&p.other));
                let work = if a == b { String::new() } else { format!("{} → {}", human_flops(a), human_flops(b)) };
                row(&mut out, &p.name, &calls(&p.this), &calls(&p.other), &work);
            }
        }
        if !self.rules.is_empty() {
            let _ = writeln!(out);
            heading(&mut out, "rules");
        }
        for p in &self.rules {
            let times = |n: &Option<usize>| n.map_or("–".into(), |n| format!("{n} x"));
            row(&mut out, &p.name, &times(&p.this), &times(&p.other), "");
        }
        if self.is_silent() {
            let _ = writeln!(out, "\n  the same calls, work and memory; the plans differ in places or details alone");
        }
        out
    }

    /// Whether the plans differ, but in nothing that is listed.
    pub fn is_silent(&self) -> bool {
        let lists = [self.about.len(), self.numbers.len(), self.kernels.len(), self.modules.len()];
        !self.same && lists.iter().chain(&[self.rules.len(), self.weights.len(), self.ports.len()]).all(|n| *n == 0)
    }
}

/// Pairs of texts, those that say the same of several blocks as one.
pub fn folded(list: &[Pair<String>]) -> Vec<Pair<String>> {
    fold_pairs(list.iter().map(|p| (p.name.as_str(), "", p.this.clone(), p.other.clone())), |_, _| ())
}

/// Folds over blocks: `(path, suffix of the name, this, other)`.
fn fold_pairs<'a, T: PartialEq + Clone>(
    list: impl Iterator<Item = (&'a str, &'a str, Option<T>, Option<T>)>,
    add: impl Fn(&mut Option<T>, &Option<T>),
) -> Vec<Pair<T>> {
    // Path and suffix, block numbers, one block's values, their sums.
    type Run<'a, T> = (String, &'a str, Vec<usize>, [Option<T>; 2], [Option<T>; 2]);
    let mut runs: Vec<Run<'a, T>> = Vec::new();
    for (path, suffix, this, other) in list {
        let (path, block) = fold(path);
        let one = [this, other];
        let run = runs.iter_mut().find(|r| block.is_some() && r.0 == path && r.1 == suffix && r.3 == one);
        match (run, block) {
            (Some(run), Some(n)) => {
                run.2.push(n);
                add(&mut run.4[0], &one[0]);
                add(&mut run.4[1], &one[1]);
            }
            _ => runs.push((path, suffix, block.into_iter().collect(), one.clone(), one)),
        }
    }
    let pair = |(path, suffix, blocks, _, [this, other]): Run<'a, T>| {
        let at = match blocks.as_slice() {
            [] => path,
            list => path.replacen("blocks.N", &format!("blocks.{}", ranges(list).replace(", ", ",")), 1),
        };
        Pair { name: format!("{at}{suffix}"), this, other }
    };
    runs.into_iter().map(pair).collect()
}

fn about(plan: &Plan) -> BTreeMap<String, String> {
    let a = &plan.about;
    let mut map: BTreeMap<String, String> = [
        ("task", a.task.clone()),
        ("clip", a.clip.clone()),
        ("batch", a.batch.to_string()),
        ("guidance", a.guidance.clone()),
        ("target", a.target.clone()),
        ("dtype", a.dtype.to_string()),
        ("compiler", a.compiler.clone()),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into();
    flatten("config", &a.config, &mut map);
    map
}

/// The leaves of a JSON document by path.
fn flatten(path: &str, value: &serde_json::Value, map: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, v)| flatten(&format!("{path}.{name}"), v, map));
        }
        leaf => {
            map.insert(path.into(), leaf.to_string());
        }
    }
}

fn ports(plan: &Plan) -> BTreeMap<String, String> {
    let say =
        |what: &str, p: &ccl_ir::plan::Port| (format!("{what} {}", p.name), format!("{} {}", p.operand.ty, p.binding));
    plan.inputs.iter().map(|p| say("input", p)).chain(plan.outputs.iter().map(|p| say("output", p))).collect()
}

fn numbers(this: &Plan, other: &Plan) -> Vec<Number> {
    let mut list = Vec::new();
    let mut add = |name: String, unit, of: &dyn Fn(&Plan) -> u64| {
        let (this, other) = (of(this), of(other));
        if this != other {
            list.push(Number { name, unit, this, other });
        }
    };
    for b in Binding::ALL {
        let get = |m: &BTreeMap<String, u64>| m.get(b.name()).copied().unwrap_or(0);
        add(format!("{b} work"), Unit::Flops, &|p| get(&p.report.flops));
        add(format!("{b} traffic"), Unit::Bytes, &|p| get(&p.report.bytes));
        add(format!("{b} calls"), Unit::Count, &|p| p.calls(b).len() as u64);
    }
    add("step work before the passes".into(), Unit::Flops, &|p| {
        p.report.flops_before.get(Binding::Step.name()).copied().unwrap_or(0)
    });
    add("memory".into(), Unit::Bytes, &|p| p.report.peak_bytes);
    add("memory: weights".into(), Unit::Bytes, &|p| p.report.weight_bytes);
    add("memory: kept".into(), Unit::Bytes, &|p| p.persistent_bytes);
    add("memory: working".into(), Unit::Bytes, &|p| p.scratch_bytes);
    add("memory: lower bound".into(), Unit::Bytes, &|p| p.report.live_lower_bound_bytes);
    add("weights".into(), Unit::Count, &|p| p.weights.len() as u64);
    add("kernels carried".into(), Unit::Count, &|p| p.kernels.as_ref().map_or(0, |k| k.kernels.len() as u64));
    list
}

fn by_kernel(plan: &Plan) -> BTreeMap<(Binding, String), Count> {
    let count = |k: super::Kernel| ((k.entry, k.name), Count { nodes: k.count, flops: k.flops, bytes: k.bytes });
    kernels(plan).into_iter().map(count).collect()
}

fn by_rule(plan: &Plan) -> BTreeMap<String, usize> {
    let name = |r: &super::rules::Rule| format!("{}: {}{}", r.pass, r.rule, if r.applied { "" } else { " refused" });
    rules(&plan.report.events).iter().map(|r| (name(r), r.events.len())).collect()
}

fn modules(this: &Plan, other: &Plan) -> Vec<Pair<Count>> {
    let by_module = |plan: &Plan| {
        let mut map: BTreeMap<(Binding, String), Count> = BTreeMap::new();
        for (&entry, calls) in &plan.entries {
            for call in calls {
                map.entry((entry, module(&call.at).to_string())).or_default().add(call.work());
            }
        }
        map
    };
    let (this, other) = (by_module(this), by_module(other));
    let keys: BTreeSet<&(Binding, String)> = this.keys().chain(other.keys()).collect();
    let differ = keys.into_iter().filter(|k| this.get(k) != other.get(k));
    let list = differ.map(|k| (k.1.as_str(), suffix(k.0), this.get(k).copied(), other.get(k).copied()));
    fold_pairs(list, |sum, one| {
        if let (Some(sum), Some(one)) = (sum, one) {
            sum.merge(one);
        }
    })
}

/// What a module's name says of its entry; the step goes without saying.
fn suffix(entry: Binding) -> &'static str {
    match entry {
        Binding::Load => " (load)",
        Binding::Prologue => " (prologue)",
        Binding::Step => "",
        Binding::Epilogue => " (epilogue)",
    }
}
