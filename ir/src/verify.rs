//! The verifier: what every graph must satisfy, whoever made it.
//!
//! A graph that passes can be given to every other function of this crate without a panic. It trusts nothing that
//! the graph says about itself: types are inferred again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::error::{IrError, Problem};
use crate::graph::{Graph, Node, NodeId, Value};
use crate::types::TensorType;

/// Checks that
/// - the inputs of every node are computed before it and have the result that is asked for;
/// - every operator takes its inputs, and the recorded types are what inference says;
/// - no name is used by two inputs or weights;
/// - outputs exist and have different names.
///
/// # Errors
/// The first thing that is wrong, with the node or output, e.g.
/// ``graph `joint`: %12 linear at `cond/video.head.head`: input %13 is not computed before it``.
pub fn verify(graph: &Graph) -> Result<(), IrError> {
    let failed = |problem: String| IrError::Graph { graph: graph.name.clone(), problem: Problem(problem) };
    let mut given: BTreeMap<&str, NodeId> = BTreeMap::new();
    for (id, node) in graph.iter() {
        check_node(graph, id, node).map_err(|problem| failed(format!("{}: {problem}", graph.describe(id))))?;
        let Some(name) = node.op.given_name() else { continue };
        match given.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(id);
            }
            Entry::Occupied(entry) => {
                let first = graph.describe(*entry.get());
                return Err(failed(format!("{}: the name `{name}` is taken by {first}", graph.describe(id))));
            }
        }
    }
    for (i, output) in graph.outputs.iter().enumerate() {
        let name = &output.name;
        if type_before(graph, graph.nodes().len(), output.value).is_none() {
            return Err(failed(format!("output `{name}`: there is no value {}", output.value)));
        }
        if graph.outputs[..i].iter().any(|o| o.name == *name) {
            return Err(failed(format!("output `{name}`: there are two outputs of this name")));
        }
    }
    Ok(())
}

/// Type of a value, if one of the first `before` nodes computes it.
fn type_before(graph: &Graph, before: usize, value: Value) -> Option<&TensorType> {
    graph.nodes()[..before].get(value.node.index())?.types.get(usize::from(value.port))
}

fn check_node(graph: &Graph, id: NodeId, node: &Node) -> Result<(), Problem> {
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for &value in &node.inputs {
        let ty = type_before(graph, id.index(), value);
        inputs.push(ty.ok_or_else(|| Problem(format!("input {value} is not computed before it")))?);
    }
    let types = node.op.infer(&inputs)?;
    for ty in &types {
        crate::ensure!(ty.checked_elements().is_some(), "a result {ty} has too many elements");
    }
    let list = |types: &[TensorType]| types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ");
    crate::ensure!(types == node.types, "is recorded as {}, inference says {}", list(&node.types), list(&types));
    Ok(())
}
