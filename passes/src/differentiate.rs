//! Gradients as graph: the backward pass is written behind the forward pass.
//!
//! Runs after raising, so that attention gets its recomputing backward pass, and before fusion, which then fuses gradients too. Where nothing is to
//! be differentiated it only removes what marks the places at which gradients stop.

use std::collections::BTreeSet;

use ccl_ir::grad::{self, Flow, gradients};
use ccl_ir::{Binding, Graph, Node, NodeId, Op, TensorType, Value, Work};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Name of the output that is differentiated.
pub const LOSS: &str = "loss";

/// Name of the input, a number, that every gradient is multiplied by: 1, or more where small gradients would be lost in half precision.
pub const LOSS_SCALE: &str = "loss_scale";

/// First part of the names of the outputs with gradients: `grad.<state>`.
pub const GRADIENT: &str = "grad.";

/// Adds the gradient of `loss`, times the input `loss_scale`, to every state (or to those of `only`) as an output `grad.<state>`. States that the loss does
/// not depend on have none.
///
/// # Errors
/// When an operator on the way has no gradient: the message names it.
pub fn run(graph: &Graph, only: Option<&BTreeSet<String>>, record: &mut Record) -> Result<Graph, PassError> {
    let err = PassError::ir("differentiate");
    let mut g = graph.clone();
    let (loss, states) = (loss(graph)?, states(graph, only));
    let forward = g.total_work();
    let seed = g.input(LOSS_SCALE, TensorType::f32([]), Binding::Step).map_err(&err)?;
    let wrt: Vec<Value> = states.iter().map(|(_, v)| *v).collect();
    let found = gradients(&mut g, loss, seed, &wrt).map_err(&err)?;
    let mut without = 0;
    for ((name, _), gradient) in states.iter().zip(found) {
        match gradient {
            Some(v) => g.output(format!("{GRADIENT}{name}"), v, None),
            None => without += 1,
        }
    }
    let total = g.total_work();
    let added = Work { flops: total.flops - forward.flops, bytes: total.bytes - forward.bytes };
    let reason = format!("the backward pass to {} states; {without} get no gradient", states.len() - without);
    record.applied("differentiate", "gradient", LOSS, reason, added.flops as i64, added.bytes as i64);
    attach(&g)
}

fn loss(graph: &Graph) -> Result<Value, PassError> {
    let loss = graph.outputs.iter().find(|o| o.name == LOSS).map(|o| o.value);
    loss.ok_or_else(|| PassError::NoOutputs(graph.name.clone()))
}

/// The states that gradients are wanted for, by name.
fn states(graph: &Graph, only: Option<&BTreeSet<String>>) -> Vec<(String, Value)> {
    let wanted = |name: &str| only.is_none_or(|set| set.contains(name));
    let state = |(id, n): (NodeId, &Node)| match &n.op {
        Op::State(s) if wanted(&s.name) => Some((s.name.clone(), Value { node: id, port: 0 })),
        _ => None,
    };
    graph.iter().filter_map(state).collect()
}

/// Where the gradients that [`run`] adds will flow.
///
/// # Errors
/// When there is no loss.
pub fn flow(graph: &Graph, only: Option<&BTreeSet<String>>) -> Result<Flow, PassError> {
    let wrt: Vec<Value> = states(graph, only).into_iter().map(|(_, v)| v).collect();
    Ok(grad::flow(graph, loss(graph)?, &wrt))
}

/// Removes the marks at which gradients stop.
///
/// # Errors
/// Never on a verified graph.
pub fn attach(graph: &Graph) -> Result<Graph, PassError> {
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Detach(_))) {
        return Ok(graph.clone());
    }
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        match &node.op {
            Op::Detach(_) => {
                let input = re.get(node.inputs[0]);
                re.replace(id, input);
            }
            _ => {
                re.keep(id).map_err(PassError::ir("differentiate"))?;
            }
        }
    }
    Ok(re.finish())
}
