//! How passes rewrite: walk the old graph in order, build a new one.

use ccl_ir::graph::Output;
use ccl_ir::{Graph, IrError, Node, NodeId, Op, Value};

/// A new graph in the making, and where the old graph's values went.
pub struct Rebuild<'a> {
    /// The graph that is read.
    pub old: &'a Graph,
    /// The graph that is written.
    pub new: Graph,
    map: Vec<Vec<Value>>,
}

impl<'a> Rebuild<'a> {
    /// Starts with an empty new graph.
    pub fn new(old: &'a Graph) -> Self {
        Self { old, new: Graph::new(old.name.clone()), map: vec![Vec::new(); old.nodes().len()] }
    }

    /// Where an old value went. Its node must have been kept or replaced before.
    pub fn get(&self, v: Value) -> Value {
        self.map[v.node.index()][v.port as usize]
    }

    /// Whether an old value has a place in the new graph.
    pub fn has(&self, v: Value) -> bool {
        (v.port as usize) < self.map[v.node.index()].len()
    }

    /// New values of an old node's inputs.
    pub fn inputs(&self, node: &Node) -> Vec<Value> {
        node.inputs.iter().map(|&v| self.get(v)).collect()
    }

    /// Copies a node as it is.
    ///
    /// # Errors
    /// When the operator no longer takes its inputs.
    pub fn keep(&mut self, id: NodeId) -> Result<Value, IrError> {
        let node = self.old.node(id);
        let inputs = self.inputs(node);
        self.put(id, node.op.clone(), &inputs)
    }

    /// Puts another operator in a node's place; it has at least the old one's outputs.
    ///
    /// # Errors
    /// When the operator cannot take these inputs.
    pub fn put(&mut self, id: NodeId, op: Op, inputs: &[Value]) -> Result<Value, IrError> {
        let at = &self.old.node(id).at;
        let first = match op {
            Op::Input(i) => self.new.input(&i.name, i.ty, i.binding)?,
            Op::Weight(w) => self.new.weight(&w.name, w.ty)?,
            Op::State(s) => self.new.state(&s.name, s.ty)?,
            op => self.new.add(at.clone(), op, inputs)?,
        };
        let ports = self.new.node(first.node).types.len();
        self.map[id.index()] = (0..ports).map(|p| Value { node: first.node, port: p as u8 }).collect();
        Ok(first)
    }

    /// Lets a single-output node's users read another value.
    pub fn replace(&mut self, id: NodeId, with: Value) {
        self.map[id.index()] = vec![with];
    }

    /// Lets the users of one old value read a new one.
    pub fn set(&mut self, old: Value, new: Value) {
        let ports = &mut self.map[old.node.index()];
        if ports.len() <= old.port as usize {
            ports.resize(old.port as usize + 1, new);
        }
        ports[old.port as usize] = new;
    }

    /// Lets a node's users read the outputs of an earlier node of the old graph.
    pub fn merge(&mut self, id: NodeId, earlier: NodeId) {
        self.map[id.index()] = self.map[earlier.index()].clone();
    }

    /// The new graph, with the old one's outputs.
    pub fn finish(mut self) -> Graph {
        for o in &self.old.outputs {
            self.new.outputs.push(Output { value: self.get(o.value), ..o.clone() });
        }
        self.new
    }
}
