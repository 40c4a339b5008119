//! Cutting a graph into regions: the blocks of the model, each a run of nodes in evaluation order.

use std::collections::BTreeMap;

use ccl_ir::grad::Flow;
use ccl_ir::{Binding, Graph, NodeId, Op, TensorType, Value};

/// Most nodes of a region: longer runs are cut.
const MOST: usize = 400;

/// A value in a region: from outside, or an output of one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ref {
    /// A value from outside, by position.
    Leaf(u32),
    /// An output of a node, by position.
    Node(u32, u8),
}

/// A region without names: equal regions look the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain {
    /// Operators with their operands, and the node of the graph that they are.
    pub nodes: Vec<(Op, Vec<Ref>, NodeId)>,
    /// Type and moment of each value from outside.
    pub leaves: Vec<(TensorType, Binding)>,
    /// Which of them are weights.
    pub weights: Vec<bool>,
    /// Values that are read outside.
    pub outputs: Vec<Ref>,
    /// Whether parameters change with every step, so that nothing is computed from them once per model.
    pub learns: bool,
    /// Which values from outside want a gradient: none where nothing is differentiated.
    pub wanted: Vec<bool>,
    /// Which outputs get one.
    pub reached: Vec<bool>,
}

impl Plain {
    /// Bytes of the weights that the region reads.
    pub fn weight_bytes(&self) -> u64 {
        self.leaves.iter().zip(&self.weights).filter(|(_, w)| **w).map(|((ty, _), _)| ty.bytes()).sum()
    }

    /// Which of the values from outside get a gradient from the region.
    pub fn learnt(&self) -> Vec<bool> {
        let at = |wanted: &[bool], r: &Ref| match r {
            Ref::Leaf(n) => self.wanted[*n as usize],
            Ref::Node(n, _) => wanted[*n as usize],
        };
        let mut wanted: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for (op, inputs, _) in &self.nodes {
            let through = inputs.iter().enumerate().any(|(i, r)| at(&wanted, r) && op.differentiable(i));
            wanted.push(through);
        }
        let (mut leaves, mut nodes) = (vec![false; self.leaves.len()], vec![false; self.nodes.len()]);
        let mut reach = |nodes: &mut [bool], r: &Ref| match r {
            Ref::Leaf(n) => leaves[*n as usize] = self.wanted[*n as usize],
            Ref::Node(n, _) => nodes[*n as usize] = wanted[*n as usize],
        };
        self.outputs.iter().zip(&self.reached).filter(|(_, r)| **r).for_each(|(o, _)| reach(&mut nodes, o));
        for (n, (op, inputs, _)) in self.nodes.iter().enumerate().rev() {
            if nodes[n] {
                let through = inputs.iter().enumerate().filter(|(i, _)| op.differentiable(*i));
                through.for_each(|(_, r)| reach(&mut nodes, r));
            }
        }
        leaves
    }

    /// What is priced, for people.
    pub fn step(&self) -> &'static str {
        if self.reached.contains(&true) { "a step, with its backward pass," } else { "a step" }
    }

    /// A text that is the same for equal regions.
    pub fn key(&self) -> String {
        let mut key = String::new();
        for (op, inputs, _) in &self.nodes {
            key.push_str(&serde_json::to_string(op).unwrap_or_default());
            key.push_str(&format!("{inputs:?}\n"));
        }
        key.push_str(&format!("{:?}{:?}{:?}", self.leaves, self.weights, self.outputs));
        key.push_str(&format!("{}{:?}{:?}", self.learns, self.wanted, self.reached));
        key
    }
}

/// A region of a graph.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// First node, and the one after the last.
    pub nodes: std::ops::Range<usize>,
    /// The region without names.
    pub plain: Plain,
    /// The values that its leaves stand for.
    pub leaves: Vec<Value>,
    /// The values that are read outside.
    pub outputs: Vec<Value>,
}

/// Cuts a graph into regions. Every node is in one; together they are in evaluation order. `flow` says where gradients will flow.
pub(super) fn cut(graph: &Graph, flow: Option<&Flow>) -> Vec<Cut> {
    let bindings = bindings(graph);
    let mut read_until = vec![0usize; graph.nodes().len()];
    for (id, node) in graph.iter() {
        for v in &node.inputs {
            read_until[v.node.index()] = id.index();
        }
    }
    for o in &graph.outputs {
        read_until[o.value.node.index()] = usize::MAX;
    }
    let learns = graph.nodes().iter().any(|n| matches!(n.op, Op::State(_)));
    let mut cuts: Vec<Cut> = ranges(graph).into_iter().map(|nodes| one(graph, nodes, &bindings, &read_until)).collect();
    for cut in &mut cuts {
        cut.plain.learns = learns;
        cut.plain.wanted = cut.leaves.iter().map(|v| flow.is_some_and(|f| f.needed[v.node.index()])).collect();
        cut.plain.reached = cut.outputs.iter().map(|v| flow.is_some_and(|f| f.reached.contains(v))).collect();
    }
    cuts
}

/// When each value is known, a parameter that is learnt as a weight is: with the model. What that is worth is a matter of price.
fn bindings(graph: &Graph) -> Vec<Binding> {
    let mut out: Vec<Binding> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let own = match &node.op {
            Op::Input(i) => i.binding,
            _ => Binding::Load,
        };
        out.push(node.inputs.iter().map(|v| out[v.node.index()]).fold(own, Binding::max));
    }
    out
}

/// Runs of nodes of one block. Nodes without operands belong to any.
fn ranges(graph: &Graph) -> Vec<std::ops::Range<usize>> {
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    let mut last: Option<(&str, &str)> = None;
    for (id, node) in graph.iter() {
        let key = if node.inputs.is_empty() { None } else { Some(block(&node.at)) };
        let fits = key.is_none() || last.is_none() || key == last;
        match out.last_mut() {
            Some(range) if fits && range.len() < MOST => range.end = id.index() + 1,
            _ => out.push(id.index()..id.index() + 1),
        }
        if out.last().is_some_and(|r| r.len() == 1) {
            last = key;
        }
        last = key.or(last);
    }
    out
}

/// The guidance pass and the block that a path is in, whichever stream: `cond/video.blocks.3.cca.q` is in `cond` and `3`.
fn block(at: &str) -> (&str, &str) {
    let (pass, path) = at.split_once('/').unwrap_or(("", at));
    let number = path.split_once(".blocks.").map_or("", |(_, rest)| rest.split('.').next().unwrap_or(""));
    (pass, number)
}

fn one(graph: &Graph, nodes: std::ops::Range<usize>, bindings: &[Binding], read_until: &[usize]) -> Cut {
    let mut plain = Plain::default();
    let mut places: BTreeMap<Value, Ref> = BTreeMap::new();
    let (mut leaves, mut outputs) = (Vec::new(), Vec::new());
    // A constant from outside is a node of the region too: rules look at its value.
    let mut constants: BTreeMap<NodeId, u32> = BTreeMap::new();
    for n in nodes.clone() {
        let (id, node) = (NodeId(n as u32), &graph.nodes()[n]);
        if node.inputs.is_empty() {
            continue;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &v in &node.inputs {
            if let Some(&known) = places.get(&v) {
                inputs.push(known);
                continue;
            }
            let place = if let Op::Constant(_) = graph.op(v) {
                let at = *constants.entry(v.node).or_insert_with(|| {
                    plain.nodes.push((graph.op(v).clone(), Vec::new(), v.node));
                    plain.nodes.len() as u32 - 1
                });
                Ref::Node(at, 0)
            } else {
                plain.leaves.push((graph.ty(v).clone(), bindings[v.node.index()]));
                plain.weights.push(matches!(graph.op(v), Op::Weight(_) | Op::State(_)));
                leaves.push(v);
                Ref::Leaf(leaves.len() as u32 - 1)
            };
            places.insert(v, place);
            inputs.push(place);
        }
        let at = plain.nodes.len() as u32;
        plain.nodes.push((node.op.clone(), inputs, id));
        for port in 0..node.types.len() as u8 {
            places.insert(Value { node: id, port }, Ref::Node(at, port));
        }
    }
    // What is read behind the region, port by port.
    let mut seen = std::collections::BTreeSet::new();
    let inside = |v: &Value| nodes.contains(&v.node.index()) && !graph.nodes()[v.node.index()].inputs.is_empty();
    let escaping = |v: &Value| inside(v) && read_until[v.node.index()] >= nodes.end;
    if nodes.clone().any(|n| read_until[n] >= nodes.end && !graph.nodes()[n].inputs.is_empty()) {
        let last = nodes.clone().map(|n| read_until[n]).max().unwrap_or(0).min(graph.nodes().len() - 1);
        for reader in nodes.end..=last {
            seen.extend(graph.nodes()[reader].inputs.iter().filter(|v| escaping(v)).copied());
        }
        seen.extend(graph.outputs.iter().map(|o| o.value).filter(|v| inside(v)));
    }
    for v in seen {
        plain.outputs.push(places[&v]);
        outputs.push(v);
    }
    Cut { nodes, plain, leaves, outputs }
}
