//! Gradients by rewriting: the backward pass is more graph.
//!
//! Every operator has a rule ([`crate::Operator::gradient`]) that writes, into the graph, the gradients of its inputs from those of its outputs.
//! [`gradients`] applies the rules from a scalar backwards, and only where a tensor that is asked for can be reached: a stream without
//! parameters has no backward pass. Derivatives of single numbers, shared by elementwise operators, chains and sums, are in `elementwise`.

mod elementwise;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use elementwise::{binary, chain, unary};

use crate::error::{IrError, Problem};
use crate::graph::{Graph, Node, Value};
use crate::op::Op;
use crate::ops;
use crate::types::TensorType;

/// What a rule answers: a gradient for each input; `None` where it is zero or not wanted.
pub type Gradients = Result<Vec<Option<Value>>, IrError>;

/// What a rule sees: the node, the gradients of its outputs, and the graph to write to.
pub struct Backward<'a> {
    graph: &'a mut Graph,
    op: &'static str,
    at: String,
    /// The node's inputs.
    pub inputs: Vec<Value>,
    /// The node's outputs.
    pub outputs: Vec<Value>,
    cotangents: Vec<Option<Value>>,
    wanted: Vec<bool>,
}

impl Backward<'_> {
    /// Gradient of the first output, for operators whose other outputs pass none.
    ///
    /// # Errors
    /// When something depends on one of the others.
    pub fn cotangent(&self) -> Result<Value, IrError> {
        if self.cotangents[1..].iter().any(Option::is_some) {
            return Err(self.error("a result other than the first is used where no gradient passes"));
        }
        self.cotangents[0].ok_or_else(|| self.error("no gradient reaches its result"))
    }

    /// Whether the gradient of an input is asked for.
    pub fn wants(&self, input: usize) -> bool {
        self.wanted[input]
    }

    /// Type of a value.
    pub fn ty(&self, v: Value) -> &TensorType {
        self.graph.ty(v)
    }

    /// Shape of a value.
    pub fn shape(&self, v: Value) -> Vec<usize> {
        self.graph.ty(v).shape.clone()
    }

    /// Adds an operation; its first result.
    ///
    /// # Errors
    /// When the operator cannot take these inputs: a fault of the rule.
    pub fn add(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Result<Value, IrError> {
        self.graph.add(self.at.clone(), op, inputs)
    }

    /// Adds an operation; all of its results.
    ///
    /// # Errors
    /// As for [`Backward::add`].
    pub fn add_all(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Result<Vec<Value>, IrError> {
        let first = self.add(op, inputs)?;
        Ok(outputs_of(self.graph, first))
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// As for [`Backward::add`].
    pub fn reshape(&mut self, v: Value, shape: impl Into<Vec<usize>>) -> Result<Value, IrError> {
        let shape = shape.into();
        if self.graph.ty(v).shape == shape { Ok(v) } else { self.add(ops::Reshape { shape }, &[v]) }
    }

    /// Sums a value to a shape that broadcasts to its own.
    ///
    /// # Errors
    /// As for [`Backward::add`].
    pub fn sum_to(&mut self, v: Value, shape: &[usize]) -> Result<Value, IrError> {
        if self.graph.ty(v).shape == shape { Ok(v) } else { self.add(ops::Reduce::to(shape), &[v]) }
    }

    /// A matrix of a value's rows.
    ///
    /// # Errors
    /// As for [`Backward::add`].
    pub fn rows(&mut self, v: Value) -> Result<Value, IrError> {
        let (rows, last) = (self.ty(v).rows(), self.ty(v).last());
        self.reshape(v, [rows, last])
    }

    /// The error of a rule that does not apply.
    pub fn error(&self, problem: &str) -> IrError {
        IrError::Node { op: self.op.into(), at: self.at.clone(), problem: Problem::new(problem) }
    }
}

fn outputs_of(graph: &Graph, first: Value) -> Vec<Value> {
    let ports = graph.node(first.node).types.len();
    (0..ports).map(|p| Value { node: first.node, port: p as u8 }).collect()
}

/// Appends the gradient of `of`, scaled by `seed` (of the same type), to every value of `wrt`, and returns them in that order; `None` where
/// `of` does not depend on the value.
///
/// The nodes of the backward pass have the path `grad/` and that of the node they come from.
///
/// # Errors
/// When an operator on the way has no rule, or a result is used of which no gradient passes.
pub fn gradients(graph: &mut Graph, of: Value, seed: Value, wrt: &[Value]) -> Result<Vec<Option<Value>>, IrError> {
    let needed = needed(graph, wrt);
    let mut known: BTreeMap<Value, Value> = BTreeMap::new();
    if needed[of.node.index()] {
        known.insert(of, seed);
    }
    for index in (0..=of.node.index()).rev() {
        if !needed[index] || wrt.iter().any(|v| v.node.index() == index) {
            continue;
        }
        let first = Value { node: crate::graph::NodeId(index as u32), port: 0 };
        let outputs = outputs_of(graph, first);
        let cotangents: Vec<Option<Value>> = outputs.iter().map(|v| known.get(v).copied()).collect();
        if cotangents.iter().all(Option::is_none) {
            continue;
        }
        let Node { op, inputs, at, .. } = graph.node(first.node).clone();
        let wanted: Vec<bool> =
            inputs.iter().enumerate().map(|(i, v)| needed[v.node.index()] && op.differentiable(i)).collect();
        let at = format!("grad/{at}");
        let mut cx =
            Backward { graph, op: op.name(), at: at.clone(), inputs: inputs.clone(), outputs, cotangents, wanted };
        let found = op.gradient(&mut cx)?;
        let wanted = cx.wanted;
        for ((v, gradient), wanted) in inputs.into_iter().zip(found).zip(wanted) {
            let Some(gradient) = gradient.filter(|_| wanted) else { continue };
            let sum = match known.get(&v) {
                Some(&before) => {
                    graph.add(at.clone(), ops::Binary { kind: ops::BinaryKind::Add }, &[before, gradient])?
                }
                None => gradient,
            };
            known.insert(v, sum);
        }
    }
    Ok(wrt.iter().map(|v| known.get(v).copied()).collect())
}

/// Where gradients flow when a number is differentiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Whether a gradient goes through each node, to get to what it is asked for.
    pub needed: Vec<bool>,
    /// The values of which there is a gradient.
    pub reached: BTreeSet<Value>,
}

/// Where gradients flow from `of` to `wrt`: what [`gradients`] would visit, without writing anything.
pub fn flow(graph: &Graph, of: Value, wrt: &[Value]) -> Flow {
    let needed = needed(graph, wrt);
    let mut reached = BTreeSet::new();
    if needed[of.node.index()] {
        reached.insert(of);
    }
    let asked: BTreeSet<usize> = wrt.iter().map(|v| v.node.index()).collect();
    for (id, node) in graph.iter().collect::<Vec<_>>().into_iter().rev() {
        let here = (0..node.types.len()).any(|p| reached.contains(&Value { node: id, port: p as u8 }));
        if !here || asked.contains(&id.index()) {
            continue;
        }
        let through =
            node.inputs.iter().enumerate().filter(|(i, v)| needed[v.node.index()] && node.op.differentiable(*i));
        reached.extend(through.map(|(_, v)| *v));
    }
    Flow { needed, reached }
}

/// Which nodes a gradient must reach to get to one of `wrt`.
fn needed(graph: &Graph, wrt: &[Value]) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    for v in wrt {
        needed[v.node.index()] = true;
    }
    for (id, node) in graph.iter() {
        let through = node.inputs.iter().enumerate().any(|(i, v)| needed[v.node.index()] && node.op.differentiable(i));
        needed[id.index()] |= through;
    }
    needed
}
