//! Smaller graphs that still fail.

use super::grow::{added, in_single};
use crate::graph::{Binding, Graph, NodeId, Value};
use crate::op::Op;
use crate::ops::{Input, Weight};
use crate::types::DType;

/// Checks that one shrinking makes at most.
const CHECKS: usize = 2000;

/// The smallest graph that can be reached from one that fails, by leaving out outputs, by ending at an earlier node (a prefix), by letting
/// a node's users read what it reads, and by putting inputs in the place of nodes. Nodes that no output needs go.
pub fn shrink(graph: Graph, fails: impl Fn(&Graph) -> bool) -> Graph {
    let mut best = rebuilt(&graph, |_| None);
    if !fails(&best) {
        // What was left out matters.
        best = graph;
    }
    let mut checks = 0;
    let mut better = |best: &mut Graph, smaller: Option<Graph>| {
        let smaller = smaller.filter(|g| size(g) < size(best) && checks < CHECKS);
        checks += usize::from(smaller.is_some());
        match smaller.filter(&fails) {
            Some(g) => {
                *best = g;
                true
            }
            None => false,
        }
    };
    loop {
        let before = size(&best);
        // One output, best the one that is computed first.
        let mut outputs: Vec<usize> = (0..best.outputs.len()).collect();
        outputs.sort_by_key(|&i| best.outputs[i].value);
        for i in outputs {
            let mut one = best.clone();
            one.outputs = vec![one.outputs[i].clone()];
            one.outputs[0].wanted_if = None;
            if better(&mut best, Some(rebuilt(&one, |_| None))) {
                break;
            }
        }
        // The shortest prefix.
        for (id, node) in best.clone().iter() {
            let ports = (0..node.types.len()).map(|port| Value { node: id, port: port as u8 });
            if ports.into_iter().any(|value| {
                let mut prefix = best.clone();
                prefix.outputs.clear();
                let value = in_single(&mut prefix, value);
                prefix.output("y", value, None);
                better(&mut best, Some(rebuilt(&prefix, |_| None)))
            }) {
                break;
            }
        }
        // From the end, so that what a node reads goes with it.
        for id in (0..best.nodes().len() as u32).rev().map(NodeId) {
            if id.index() >= best.nodes().len() || best.node(id).op.given_name().is_some() {
                continue;
            }
            let node = best.node(id).clone();
            let same = node.inputs.iter().copied().find(|&v| node.types == [best.ty(v).clone()]);
            let passed = same.map(|v| rebuilt(&best, |n| (n == id).then_some(Instead::Value(v))));
            if !better(&mut best, passed) {
                let cut = rebuilt(&best, |n| (n == id).then_some(Instead::Input));
                better(&mut best, Some(cut));
            }
        }
        if size(&best) == before {
            return best;
        }
    }
}

/// What shrinking makes smaller: operators first, then everything else.
fn size(graph: &Graph) -> (usize, usize, usize) {
    let given = graph.nodes().iter().filter(|n| n.op.given_name().is_some()).count();
    (graph.nodes().len() - given, given, graph.outputs.len())
}

/// What stands in a node's place.
enum Instead {
    /// An earlier value of the old graph.
    Value(Value),
    /// Inputs of the types of its results; weights where they are in half precision.
    Input,
}

/// The nodes that the outputs need, some of them replaced.
fn rebuilt(graph: &Graph, instead: impl Fn(NodeId) -> Option<Instead>) -> Graph {
    // Which nodes are needed once some are replaced.
    let mut needed = vec![false; graph.nodes().len()];
    graph.outputs.iter().for_each(|o| needed[o.value.node.index()] = true);
    for (id, node) in graph.iter().rev() {
        if !needed[id.index()] {
            continue;
        }
        match instead(id) {
            None => node.inputs.iter().for_each(|v| needed[v.node.index()] = true),
            Some(Instead::Value(v)) => needed[v.node.index()] = true,
            Some(Instead::Input) => {}
        }
    }
    let mut new = Graph::new(graph.name.clone());
    let mut map: Vec<Vec<Value>> = vec![Vec::new(); graph.nodes().len()];
    for (id, node) in graph.iter().filter(|(id, _)| needed[id.index()]) {
        let get = |v: &Value| map[v.node.index()][usize::from(v.port)];
        let values = match instead(id) {
            Some(Instead::Value(v)) => vec![get(&v); node.types.len()],
            Some(Instead::Input) => {
                let input = |(port, ty): (usize, &crate::TensorType)| {
                    let mut name = format!("cut{}.{port}", id.0);
                    while graph.find(&name).is_some() {
                        name.push('\'');
                    }
                    let (given, ty) = (name.clone(), ty.clone());
                    let op: Op = match ty.dtype {
                        DType::F32 | DType::I32 => Input { name, ty, binding: Binding::Step }.into(),
                        DType::F16 | DType::Bf16 => Weight { name, ty }.into(),
                    };
                    added(&mut new, &given, op, &[])
                };
                node.types.iter().enumerate().map(input).collect()
            }
            None => {
                let inputs: Vec<Value> = node.inputs.iter().map(get).collect();
                let first = added(&mut new, &node.at, node.op.clone(), &inputs);
                (0..node.types.len()).map(|p| Value { node: first.node, port: p as u8 }).collect()
            }
        };
        map[id.index()] = values;
    }
    for o in &graph.outputs {
        let value = map[o.value.node.index()][usize::from(o.value.port)];
        new.output(o.name.clone(), value, o.wanted_if.as_deref());
    }
    new
}
