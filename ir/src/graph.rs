//! Graphs: nodes in evaluation order.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{IrError, Problem};
use crate::op::{Op, Work};
use crate::ops;
use crate::types::TensorType;

/// When a value is known. Ordered: a value is known when the last of its inputs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// When the weights are: once per model.
    Load,
    /// When prompt, conditions and schedule are: once per clip.
    Prologue,
    /// In every denoising step.
    Step,
    /// After the last step.
    Epilogue,
}

impl Binding {
    /// All binding times, earliest first.
    pub const ALL: [Binding; 4] = [Binding::Load, Binding::Prologue, Binding::Step, Binding::Epilogue];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Binding::Load => "load",
            Binding::Prologue => "prologue",
            Binding::Step => "step",
            Binding::Epilogue => "epilogue",
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The index as a number for vectors.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    /// The node that computes it.
    pub node: NodeId,
    /// Which of the node's outputs.
    pub port: u8,
}

impl fmt::Display for Value {
    /// `%3`, or `%3.1` for outputs after the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => write!(f, "%{}", self.node.0),
            p => write!(f, "%{}.{p}", self.node.0),
        }
    }
}

/// One operation of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From what.
    pub inputs: Vec<Value>,
    /// Types of the outputs.
    pub types: Vec<TensorType>,
    /// Where it comes from, e.g. `cond/video.blocks.3.cca.q`: guidance pass, then module path.
    pub at: String,
}

/// A named result of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name, e.g. `velocity.video`.
    pub name: String,
    /// What is returned.
    pub value: Value,
    /// Route flag that must be true for the output to be wanted; `None`: always.
    pub wanted_if: Option<String>,
    /// The state of which this is the next value; `None`: the caller reads it.
    pub updates: Option<String>,
}

/// A tensor program. Nodes are in evaluation order: inputs come before their users.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Name for messages.
    pub name: String,
    nodes: Vec<Node>,
    /// Results.
    pub outputs: Vec<Output>,
    named: HashMap<String, Value>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), nodes: Vec::new(), outputs: Vec::new(), named: HashMap::new() }
    }

    /// A graph of these parts, none of which is looked at: for tests of what must notice a broken graph, and for
    /// code that calls [`crate::verify::verify`] on the result. Every other method may panic on a broken graph.
    pub fn from_parts_unchecked(name: impl Into<String>, nodes: Vec<Node>, outputs: Vec<Output>) -> Self {
        let mut named = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            if let Some(name) = node.op.given_name() {
                named.entry(name.to_owned()).or_insert(Value { node: NodeId(i as u32), port: 0 });
            }
        }
        Self { name: name.into(), nodes, outputs, named }
    }

    /// All nodes in evaluation order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Nodes with their ids, in evaluation order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Type of a value.
    pub fn ty(&self, v: Value) -> &TensorType {
        &self.nodes[v.node.index()].types[v.port as usize]
    }

    /// The operator that computes a value.
    pub fn op(&self, v: Value) -> &Op {
        &self.nodes[v.node.index()].op
    }

    /// Adds a node and returns its first output. An input or a weight that the graph has already is not added
    /// again: the same name gives the same value.
    ///
    /// # Errors
    /// When the operator cannot take these inputs, or an input's or weight's name is taken by another one; with the
    /// node's path in the message.
    pub fn add(&mut self, at: impl Into<String>, op: impl Into<Op>, inputs: &[Value]) -> Result<Value, IrError> {
        let (op, at) = (op.into(), at.into());
        let known = op.given_name().and_then(|name| Some((name, self.find(name)?)));
        if let Some((name, v)) = known {
            if *self.op(v) == op && inputs.is_empty() {
                return Ok(v);
            }
            let say = |op: &Op| match op {
                Op::Input(input) => format!("{} input {}", input.binding, input.ty),
                Op::Weight(weight) => format!("weight {}", weight.ty),
                Op::State(state) => format!("state {}", state.ty),
                other => other.name().to_owned(),
            };
            let problem = format!("the name `{name}` is taken by a {}, this is a {}", say(self.op(v)), say(&op));
            return Err(IrError::Node { op: op.name().into(), at, problem: Problem(problem) });
        }
        for v in inputs {
            let known = self.nodes.get(v.node.index()).is_some_and(|n| (v.port as usize) < n.types.len());
            if !known {
                let problem = Problem::new(format!("input {v} is not computed before it"));
                return Err(IrError::Node { op: op.name().into(), at, problem });
            }
        }
        let types = {
            let input_types: Vec<&TensorType> = inputs.iter().map(|&v| self.ty(v)).collect();
            op.infer(&input_types)
        };
        let types = types
            .and_then(|types| {
                for t in &types {
                    crate::ensure!(t.checked_elements().is_some(), "a result {t} has too many elements");
                }
                Ok(types)
            })
            .map_err(|problem| IrError::Node { op: op.name().into(), at: at.clone(), problem })?;
        let value = Value { node: NodeId(self.nodes.len() as u32), port: 0 };
        if let Some(name) = op.given_name() {
            self.named.insert(name.to_owned(), value);
        }
        self.nodes.push(Node { op, inputs: inputs.to_vec(), types, at });
        Ok(value)
    }

    /// A tensor given by the caller. The same name twice gives the same value.
    ///
    /// # Errors
    /// When the name is taken by another type.
    pub fn input(&mut self, name: &str, ty: TensorType, binding: Binding) -> Result<Value, IrError> {
        self.add(name, ops::Input { name: name.into(), ty, binding }, &[])
    }

    /// A tensor of the checkpoint. The same name twice gives the same value.
    ///
    /// # Errors
    /// When the name is taken by another type.
    pub fn weight(&mut self, name: &str, ty: TensorType) -> Result<Value, IrError> {
        self.add(name, ops::Weight { name: name.into(), ty }, &[])
    }

    /// The input or weight with this name, where the graph has one.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.named.get(name).copied()
    }

    /// A node for messages: ``%12 linear at `cond/video.head.head` ``.
    pub fn describe(&self, id: NodeId) -> String {
        let node = self.node(id);
        format!("%{} {} at `{}`", id.0, node.op.name(), node.at)
    }

    /// Names a result.
    pub fn output(&mut self, name: impl Into<String>, value: Value, wanted_if: Option<&str>) {
        let wanted_if = wanted_if.map(Into::into);
        self.outputs.push(Output { name: name.into(), value, wanted_if, updates: None });
    }

    /// Makes a value the next value of a state. It is an output that the caller cannot read: the state is.
    pub fn update(&mut self, state: &str, value: Value) {
        let (name, updates) = (format!("next.{state}"), Some(state.into()));
        self.outputs.push(Output { name, value, wanted_if: None, updates });
    }

    /// A tensor that the runtime keeps from run to run. The same name twice gives the same value.
    ///
    /// # Errors
    /// When the name is taken by another type.
    pub fn state(&mut self, name: &str, ty: TensorType) -> Result<Value, IrError> {
        self.add(name, ops::State { name: name.into(), ty }, &[])
    }

    /// Work of one node.
    pub fn work(&self, id: NodeId) -> Work {
        let node = self.node(id);
        let inputs: Vec<&TensorType> = node.inputs.iter().map(|&v| self.ty(v)).collect();
        node.op.work(&inputs, &node.types)
    }

    /// Sum of the work of all nodes.
    pub fn total_work(&self) -> Work {
        (0..self.nodes.len()).map(|i| self.work(NodeId(i as u32))).sum()
    }

    /// Users of every node: `users[n]` lists the nodes that read one of `n`'s outputs, in order.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.iter() {
            for v in &node.inputs {
                let list: &mut Vec<NodeId> = &mut users[v.node.index()];
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        users
    }

    /// Which nodes an output needs.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for o in &self.outputs {
            live[o.value.node.index()] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                for v in &self.nodes[i].inputs {
                    live[v.node.index()] = true;
                }
            }
        }
        live
    }

    /// When each node is known: the latest of its inputs.
    pub fn bindings(&self) -> Vec<Binding> {
        let mut out: Vec<Binding> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let own = match &node.op {
                Op::Input(i) => i.binding,
                // It changes with every update.
                Op::State(_) => Binding::Step,
                _ => Binding::Load,
            };
            out.push(node.inputs.iter().map(|v| out[v.node.index()]).fold(own, Binding::max));
        }
        out
    }
}
