//! The reference interpreter: what a graph means, slow and obvious.
//!
//! Passes are tested by evaluating a graph before and after them, backends by comparing a plan's results with the
//! interpreter's. It evaluates live nodes only, in order, and drops every value after its last use.

mod random;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub(crate) use random::{Stream, random_value};
pub use random::{random_bindings, sample_inputs};

use crate::error::{IrError, Problem};
use crate::graph::{Graph, Node, NodeId, Value};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};
use crate::verify::verify;

/// Most elements of one value: a graph for a real clip belongs on a backend.
pub const MAX_ELEMENTS: u64 = 1 << 30;

/// Evaluates the outputs of a graph; inputs and weights are bound by name. Names that the graph does not read are
/// ignored, so that one set of values serves a graph before and after a pass.
///
/// All arithmetic is in `T`, whatever element type a value has in the graph; `i32` values are whole numbers of `T`.
///
/// # Errors
/// When the graph does not pass [`verify`], a live input or weight is missing or of another shape, an operator
/// finds a value out of range (the message names the node), or a value is too large for the interpreter.
pub fn evaluate<T: Real>(
    graph: &Graph,
    bindings: &BTreeMap<String, Tensor<T>>,
) -> Result<BTreeMap<String, Tensor<T>>, IrError> {
    observe(graph, bindings, |node, inputs| node.op.eval(inputs), |_, _| ())
}

/// [`evaluate`] with another evaluation of single nodes, to see what a graph makes of it.
pub(crate) fn revised<T: Real>(
    graph: &Graph,
    bindings: &BTreeMap<String, Tensor<T>>,
    eval: impl FnMut(&Node, &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem>,
) -> Result<BTreeMap<String, Tensor<T>>, IrError> {
    observe(graph, bindings, eval, |_, _| ())
}

/// The results of a node that were computed here, or a tensor that the caller holds.
type Results<'a, T> = Vec<Cow<'a, Tensor<T>>>;

/// [`evaluate`] by this evaluation of a node, with a look at all values that are held after each node.
fn observe<'a, T: Real>(
    graph: &Graph,
    bindings: &'a BTreeMap<String, Tensor<T>>,
    mut eval: impl FnMut(&Node, &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem>,
    mut look: impl FnMut(NodeId, &[Option<Results<'a, T>>]),
) -> Result<BTreeMap<String, Tensor<T>>, IrError> {
    verify(graph)?;
    let live = graph.live();
    let mut uses = uses(graph, &live);
    let mut held: Vec<Option<Results<'a, T>>> = graph.nodes().iter().map(|_| None).collect();
    for (id, node) in graph.iter().filter(|(id, _)| live[id.index()]) {
        let failed = |problem| IrError::Node { op: node.op.name().into(), at: node.at.clone(), problem };
        if let Some(large) = node.types.iter().find(|t| t.elements() > MAX_ELEMENTS) {
            return Err(failed(Problem(format!("{large} is too large for the reference interpreter"))));
        }
        let results = match node.op.given_name() {
            Some(name) => vec![Cow::Borrowed(bound(bindings, name, &node.types[0])?)],
            None => compute(node, &held, &mut eval).map_err(failed)?,
        };
        held[id.index()] = Some(results);
        for value in &node.inputs {
            uses[value.node.index()] -= 1;
            if uses[value.node.index()] == 0 {
                held[value.node.index()] = None;
            }
        }
        look(id, &held);
    }
    let output = |value: Value| read(&held, value).cloned();
    let outputs = graph.outputs.iter().map(|o| Some((o.name.clone(), output(o.value)?)));
    outputs.collect::<Option<_>>().ok_or_else(|| IrError::Graph {
        graph: graph.name.clone(),
        problem: Problem::new("an output was dropped before the end"),
    })
}

/// How often each node's results are read by live nodes and outputs.
fn uses(graph: &Graph, live: &[bool]) -> Vec<usize> {
    let mut uses = vec![0; live.len()];
    let inputs = graph.iter().filter(|(id, _)| live[id.index()]).flat_map(|(_, node)| node.inputs.iter().copied());
    for value in inputs.chain(graph.outputs.iter().map(|o| o.value)) {
        uses[value.node.index()] += 1;
    }
    uses
}

fn read<'v, T: Real>(held: &'v [Option<Results<'_, T>>], value: Value) -> Option<&'v Tensor<T>> {
    held[value.node.index()].as_ref()?.get(usize::from(value.port)).map(|t| &**t)
}

fn compute<'a, T: Real>(
    node: &Node,
    held: &[Option<Results<'a, T>>],
    eval: &mut impl FnMut(&Node, &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem>,
) -> Result<Results<'a, T>, Problem> {
    let inputs: Option<Vec<&Tensor<T>>> = node.inputs.iter().map(|&v| read(held, v)).collect();
    let inputs = inputs.ok_or_else(|| Problem::new("an input was dropped before its last use"))?;
    let results = eval(node, &inputs)?;
    let as_inferred = results.len() == node.types.len() && results.iter().zip(&node.types).all(|(r, t)| r.matches(t));
    crate::ensure!(as_inferred, "evaluation and inference disagree about the shape of the result");
    Ok(results.into_iter().map(Cow::Owned).collect())
}

/// The tensor that the caller gave for an input or a weight.
fn bound<'a, T: Real>(
    bindings: &'a BTreeMap<String, Tensor<T>>,
    name: &str,
    ty: &TensorType,
) -> Result<&'a Tensor<T>, IrError> {
    let failed = |problem: String| IrError::Binding { name: name.into(), problem: Problem(problem) };
    let tensor = bindings.get(name).ok_or_else(|| failed(format!("the graph reads it as {ty}, give it a value")))?;
    if !tensor.matches(ty) {
        return Err(failed(format!("the graph reads it as {ty}, the value has the shape {:?}", tensor.shape)));
    }
    if ty.dtype == DType::I32 {
        let whole = |x: &T| x.to_f64().fract() == 0.0 && x.to_f64().abs() <= f64::from(i32::MAX);
        if let Some(x) = tensor.data.iter().find(|x| !whole(x)) {
            return Err(failed(format!("the graph reads it as {ty}, one number is {x:?}")));
        }
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Binding;
    use crate::ops::{Binary, BinaryKind, Index, Route, Unary, UnaryKind};

    fn tensor(shape: &[usize], data: &[f64]) -> Tensor<f64> {
        Tensor::new(shape, data.to_vec()).unwrap()
    }

    fn bindings(values: &[(&str, Tensor<f64>)]) -> BTreeMap<String, Tensor<f64>> {
        values.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
    }

    /// `-x` applied `n` times, and a sum with the first.
    fn chain(n: usize) -> Result<Graph, IrError> {
        let mut g = Graph::new("chain");
        let x = g.input("x", TensorType::f32([2]), Binding::Step)?;
        let first = g.add("0", Unary { kind: UnaryKind::Neg }, &[x])?;
        let mut last = first;
        for i in 1..n {
            last = g.add(i.to_string(), Unary { kind: UnaryKind::Neg }, &[last])?;
        }
        let sum = g.add("sum", Binary { kind: BinaryKind::Sub }, &[last, first])?;
        g.output("sum", sum, None);
        g.output("last", last, None);
        Ok(g)
    }

    #[test]
    fn outputs_have_their_names() -> Result<(), IrError> {
        let got = evaluate(&chain(4)?, &bindings(&[("x", tensor(&[2], &[1.0, -3.0]))]))?;
        let want = bindings(&[("last", tensor(&[2], &[1.0, -3.0])), ("sum", tensor(&[2], &[2.0, -6.0]))]);
        assert_eq!(got, want);
        Ok(())
    }

    #[test]
    fn values_are_dropped_after_their_last_use() -> Result<(), IrError> {
        let g = chain(50)?;
        let x = bindings(&[("x", tensor(&[2], &[1.0, 2.0]))]);
        let mut most = 0;
        observe(&g, &x, |node, inputs| node.op.eval(inputs), |_, held| most = most.max(held.iter().flatten().count()))?;
        // The first, which the sum reads, and one of the chain; at the end the two outputs.
        assert_eq!(most, 2);
        Ok(())
    }

    #[test]
    fn dead_nodes_are_not_evaluated() -> Result<(), IrError> {
        let mut g = chain(2)?;
        let dead = g.input("dead", TensorType::f32([2]), Binding::Step)?;
        g.add("", Route { flag: "f".into(), answer: None }, &[dead, dead])?;
        let mut seen = Vec::new();
        let x = bindings(&[("x", tensor(&[2], &[1.0, 2.0]))]);
        observe(&g, &x, |node, inputs| node.op.eval(inputs), |id, _| seen.push(id.0))?;
        assert_eq!(seen, [0, 1, 2, 3]);
        Ok(())
    }

    /// Checks the message of a graph that cannot be evaluated.
    fn check(g: &Graph, values: &[(&str, Tensor<f64>)], want: &str) {
        assert_eq!(evaluate(g, &bindings(values)).unwrap_err().to_string(), want);
    }

    #[test]
    fn errors_name_the_value_or_the_node() -> Result<(), IrError> {
        let mut g = chain(2)?;
        check(&g, &[], "value `x`: the graph reads it as f32[2], give it a value");
        let wrong = tensor(&[1, 2], &[0.0, 0.0]);
        check(&g, &[("x", wrong)], "value `x`: the graph reads it as f32[2], the value has the shape [1, 2]");
        let x = ("x", tensor(&[2], &[0.0, 0.0]));

        let i = g.input("i", TensorType::new(DType::I32, []), Binding::Step)?;
        let row = g.add("cond/row", Index {}, &[g.outputs[0].value, i])?;
        g.output("row", row, None);
        let at = |i| [x.clone(), ("i", tensor(&[], &[i]))];
        check(&g, &at(2.0), "index at `cond/row`: row 2 of a table of 2 rows");
        check(&g, &at(0.5), "value `i`: the graph reads it as i32[], one number is 0.5");
        assert!(evaluate(&g, &bindings(&at(1.0))).is_ok());

        let large = g.add("", crate::ops::Expand { shape: vec![1 << 31] }, &[row])?;
        g.output("large", large, None);
        check(&g, &at(1.0), "expand at ``: f32[2147483648] is too large for the reference interpreter");
        g.output("large", large, None);
        check(&g, &at(1.0), "graph `chain`: output `large`: there are two outputs of this name");
        Ok(())
    }
}
