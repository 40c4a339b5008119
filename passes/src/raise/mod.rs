//! Raising: plain patterns become the operators that have kernels of their own.
//!
//! The plain pattern is what the model writes, and stays the independent oracle of the raised one.

mod context_attention;
mod norm_modulate;
mod rms_norm_rope;

use ccl_ir::{Graph, NodeId, Op, Value, Work};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// What a rule puts in a node's place.
struct Raised {
    /// Operators to add in order; each reads the values given, in terms of the old graph or of an earlier step.
    steps: Vec<(Op, Vec<From>)>,
    /// Why it is right, for people.
    reason: String,
}

/// An input of a raised operator.
#[derive(Clone, Copy)]
enum From {
    /// A value of the old graph.
    Old(Value),
    /// The first output of an earlier step.
    Step(usize),
}

/// One pattern: its name and its matcher. A matcher answers `None` where the node is nothing like the pattern, and an
/// error with the reason where it nearly is.
type Rule = (&'static str, fn(&Site<'_>, NodeId) -> Option<Result<Raised, String>>);

const RULES: &[Rule] = &[
    ("PartitionedContextAttention", context_attention::matches),
    ("NormModulate", norm_modulate::matches),
    ("RmsNormRope", rms_norm_rope::matches),
];

/// The old graph and who reads what in it.
struct Site<'a> {
    graph: &'a Graph,
    users: Vec<Vec<NodeId>>,
}

impl Site<'_> {
    fn op(&self, v: Value) -> &Op {
        self.graph.op(v)
    }

    fn input(&self, v: Value, index: usize) -> Value {
        self.graph.node(v.node).inputs[index]
    }

    /// Whether one node alone reads the value.
    fn read_once(&self, v: Value) -> bool {
        let named = self.graph.outputs.iter().any(|o| o.value.node == v.node);
        self.users[v.node.index()].len() == 1 && !named
    }
}

/// Applies every rule where it matches. What the raised operators replace is left to [`crate::dead`].
///
/// # Errors
/// When a raised operator cannot take its inputs: a fault of the rule.
pub fn run(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let site = Site { graph, users: graph.users() };
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        let mut raised = false;
        for (name, matches) in RULES {
            match matches(&site, id) {
                Some(Ok(found)) if record.allow("raise", name, &node.at) => {
                    let before = replaced_work(&site, id, &found);
                    let after = place(&mut re, id, found.steps)?;
                    let flops = after.flops as i64 - before.flops as i64;
                    let bytes = after.bytes as i64 - before.bytes as i64;
                    record.applied("raise", name, &node.at, found.reason, flops, bytes);
                    raised = true;
                    break;
                }
                Some(Ok(_)) => {}
                Some(Err(reason)) => record.refused("raise", name, &node.at, reason),
                None => {}
            }
        }
        if !raised {
            re.keep(id).map_err(PassError::ir("raise"))?;
        }
    }
    Ok(re.finish())
}

/// Adds the steps; the last one takes the node's place.
fn place(re: &mut Rebuild, id: NodeId, steps: Vec<(Op, Vec<From>)>) -> Result<Work, PassError> {
    let mut results: Vec<Value> = Vec::new();
    let mut work = Work::default();
    let last = steps.len() - 1;
    for (i, (op, inputs)) in steps.into_iter().enumerate() {
        let inputs: Vec<Value> = inputs
            .into_iter()
            .map(|f| match f {
                From::Old(v) => re.get(v),
                From::Step(n) => results[n],
            })
            .collect();
        let at = re.old.node(id).at.clone();
        let v = if i == last { re.put(id, op, &inputs) } else { re.new.add(at, op, &inputs) };
        let v = v.map_err(PassError::ir("raise"))?;
        work = work + re.new.work(v.node);
        results.push(v);
    }
    Ok(work)
}

/// Work of the nodes that a raised operator makes unnecessary: the node, and upwards what only it reads, down to the raised
/// operator's own inputs.
fn replaced_work(site: &Site, id: NodeId, found: &Raised) -> Work {
    let kept: Vec<NodeId> = found
        .steps
        .iter()
        .flat_map(|(_, inputs)| inputs)
        .filter_map(|f| match f {
            From::Old(v) => Some(v.node),
            From::Step(_) => None,
        })
        .collect();
    let mut work = Work::default();
    let mut gone = vec![id];
    let mut next = 0;
    while next < gone.len() {
        let n = gone[next];
        next += 1;
        work = work + site.graph.work(n);
        for v in &site.graph.node(n).inputs {
            let only_here = site.users[v.node.index()].iter().all(|u| gone.contains(u));
            if only_here && !kept.contains(&v.node) && !gone.contains(&v.node) {
                gone.push(v.node);
            }
        }
    }
    work
}
