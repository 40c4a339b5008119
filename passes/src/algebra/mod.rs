//! Equality saturation: the algebra of one block at a time.
//!
//! A graph is cut into [regions](region), the blocks of the model. A region becomes an e-graph ([`language`]) that the [`rules`] grow
//! until they find nothing new, and from which the cheapest program is taken by the cost of the DAG ([`extract`]). Equal regions are
//! rewritten once. Every rule says its law and its class; every rewrite, and every one that would not pay, is an event.
//!
//! ```
//! use ccl_ir::{Binding, Graph, TensorType, ops};
//! use ccl_passes::algebra::{self, Settings};
//! use ccl_passes::{DeviceSpec, Record};
//!
//! // Two projections of one input: the input is read once.
//! let mut g = Graph::new("example");
//! let x = g.input("x", TensorType::f32([4096, 512]), Binding::Step)?;
//! for name in ["q", "k"] {
//!     let w = g.weight(name, TensorType::f32([512, 512]))?;
//!     let y = g.add(name, ops::Linear::plain(), &[x, w])?;
//!     g.output(name, y, None);
//! }
//! let settings = Settings { keep_share: 1.0, ..Settings::new(DeviceSpec::for_target("wgpu")) };
//! let mut record = Record::default();
//! let merged = algebra::run(&g, &settings, &mut record)?;
//! assert!(record.events.iter().any(|e| e.rule == "merge projections" && e.applied));
//! assert!(merged.total_work().bytes < g.total_work().bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod extract;
mod language;
mod outcome;
mod region;
pub mod rules;
mod saturate;
mod site;

use std::collections::BTreeMap;
use std::rc::Rc;

use ccl_ir::grad::Flow;
use ccl_ir::{Graph, IrError, NodeId, Op, Value};

pub use rules::{Class, Rule};
pub use site::Site;

use crate::cost::CostModel;
use crate::device::DeviceSpec;
use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;
use outcome::{Outcome, Recipe, outcome};
use region::{Cut, Ref};

/// What is taken of all that the rules find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choose {
    /// The program that the cost model finds cheapest, never one that is dearer than what was there.
    Cheapest,
    /// Every rewrite that can be applied, paying or not: to test rules on models that are too small for them.
    Always,
}

/// Settings of the pass.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The rules in use.
    pub rules: Vec<Rule>,
    /// Prices.
    pub cost: CostModel,
    /// What is taken.
    pub choose: Choose,
    /// Most rounds over the rules.
    pub iterations: usize,
    /// Most terms of a region's e-graph.
    pub terms: usize,
    /// Most bytes, as a share of a region's weights, that may be kept of what is computed from weights once per model.
    pub keep_share: f64,
}

impl Settings {
    /// All rules but the lossy ones, for a device.
    pub fn new(spec: DeviceSpec) -> Self {
        Self {
            rules: rules::all().into_iter().filter(|r| r.class < Class::Lossy).collect(),
            cost: CostModel::new(spec),
            choose: Choose::Cheapest,
            iterations: 6,
            terms: 20_000,
            keep_share: 0.125,
        }
    }

    /// The same without one rule.
    pub fn without(mut self, name: &str) -> Self {
        self.rules.retain(|r| r.name != name);
        self
    }
}

/// What happened to a region, and where it was met first.
struct Met {
    outcome: Rc<Outcome>,
    first: usize,
    times: usize,
}

/// Rewrites every region of a graph.
///
/// # Errors
/// When a new operator cannot take its inputs: a fault of a rule.
pub fn run(graph: &Graph, settings: &Settings, record: &mut Record) -> Result<Graph, PassError> {
    rewrite(graph, settings, None, record)
}

/// Rewrites every region of a graph that will be differentiated: what a program costs is its own work and that of its backward pass.
///
/// # Errors
/// As for [`run`].
pub fn run_differentiable(
    graph: &Graph,
    settings: &Settings,
    flow: &Flow,
    record: &mut Record,
) -> Result<Graph, PassError> {
    rewrite(graph, settings, Some(flow), record)
}

fn rewrite(graph: &Graph, settings: &Settings, flow: Option<&Flow>, record: &mut Record) -> Result<Graph, PassError> {
    if settings.rules.is_empty() {
        return Ok(graph.clone());
    }
    let cuts = region::cut(graph, flow);
    let mut known: BTreeMap<String, Met> = BTreeMap::new();
    let mut outcomes: Vec<Rc<Outcome>> = Vec::with_capacity(cuts.len());
    for (i, cut) in cuts.iter().enumerate() {
        if cut.plain.nodes.is_empty() || cut.outputs.is_empty() {
            outcomes.push(Rc::default());
            continue;
        }
        let met = known.entry(cut.plain.key()).or_insert_with(|| {
            let outcome = Rc::new(outcome(&cut.plain, settings));
            Met { outcome, first: i, times: 0 }
        });
        met.times += 1;
        outcomes.push(met.outcome.clone());
    }
    let mut re = Rebuild::new(graph);
    for (cut, outcome) in cuts.iter().zip(&outcomes) {
        let outcome = affordable(graph, cut, outcome, settings, record);
        match &outcome.recipe {
            Some(recipe) => place(&mut re, cut, recipe).map_err(PassError::ir("algebra"))?,
            None => {
                for n in cut.nodes.clone() {
                    re.keep(NodeId(n as u32)).map_err(PassError::ir("algebra"))?;
                }
            }
        }
        for note in outcome.notes.iter().filter(|n| n.applied && outcome.recipe.is_some()) {
            let (_, at) = spot(graph, cut, note.origin);
            record.applied("algebra", note.rule, at, note.reason.clone(), note.flops, note.bytes);
        }
    }
    refusals(graph, &cuts, &known, record);
    let terms: usize = known.values().map(|m| m.outcome.terms).sum();
    let reason = format!("{} regions, {} of them different, {terms} terms", cuts.len(), known.len());
    record.applied("algebra", "saturate", &graph.name, reason, 0, 0);
    Ok(re.finish())
}

/// What takes a region's place with the rules that may still be used: each rule in each region is a rewrite that can be counted.
fn affordable(graph: &Graph, cut: &Cut, full: &Rc<Outcome>, settings: &Settings, record: &mut Record) -> Rc<Outcome> {
    if full.recipe.is_none() {
        return full.clone();
    }
    let mut rules: Vec<(&str, u32)> = full.notes.iter().filter(|n| n.applied).map(|n| (n.rule, n.origin)).collect();
    if rules.is_empty() {
        rules.push(("saturate", 0));
    }
    let all = rules.len();
    rules.retain(|(rule, origin)| record.allow("algebra", rule, spot(graph, cut, *origin).1));
    if rules.len() == all {
        return full.clone();
    }
    let used = settings.rules.iter().filter(|r| rules.iter().any(|(name, _)| *name == r.name));
    let some = Settings { rules: used.copied().collect(), ..settings.clone() };
    if some.rules.is_empty() { Rc::default() } else { Rc::new(outcome(&cut.plain, &some)) }
}

/// One event for each kind of region and rule.
fn refusals(graph: &Graph, cuts: &[Cut], known: &BTreeMap<String, Met>, record: &mut Record) {
    let mut met: Vec<&Met> = known.values().collect();
    met.sort_by_key(|m| m.first);
    for m in met {
        let times = if m.times > 1 { format!(" (in {} equal blocks)", m.times) } else { String::new() };
        for note in m.outcome.notes.iter().filter(|n| !n.applied) {
            let (_, at) = spot(graph, &cuts[m.first], note.origin);
            record.refused("algebra", note.rule, at, format!("{}{times}", note.reason));
        }
    }
}

/// The node of the graph that a region's node is, and its place in the model.
fn spot<'a>(graph: &'a Graph, cut: &Cut, origin: u32) -> (NodeId, &'a str) {
    let id = cut.plain.nodes[(origin as usize).min(cut.plain.nodes.len() - 1)].2;
    (id, &graph.node(id).at)
}

/// Puts a recipe in a region's place.
fn place(re: &mut Rebuild<'_>, cut: &Cut, recipe: &Recipe) -> Result<(), IrError> {
    let graph = re.old;
    // What has no operands is not the region's: weights, inputs, tables.
    for n in cut.nodes.clone().filter(|&n| graph.nodes()[n].inputs.is_empty()) {
        re.keep(NodeId(n as u32))?;
    }
    let mut results: Vec<Value> = Vec::with_capacity(recipe.nodes.len());
    let leaves: Vec<Value> = cut.leaves.iter().map(|&v| re.get(v)).collect();
    let get = |results: &[Value], r: Ref| match r {
        Ref::Leaf(n) => leaves[n as usize],
        Ref::Node(n, port) => Value { node: results[n as usize].node, port },
    };
    for (op, inputs, origin) in &recipe.nodes {
        let inputs: Vec<Value> = inputs.iter().map(|&r| get(&results, r)).collect();
        let (id, at) = spot(graph, cut, *origin);
        let v = match op {
            // A constant that is there already is not added again.
            Op::Constant(_) if graph.node(id).op == *op && re.has(Value { node: id, port: 0 }) => {
                re.get(Value { node: id, port: 0 })
            }
            _ => re.new.add(at, op.clone(), &inputs)?,
        };
        results.push(v);
    }
    for (&v, &r) in cut.outputs.iter().zip(&recipe.outputs) {
        re.set(v, get(&results, r));
    }
    Ok(())
}
