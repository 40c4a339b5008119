//! Rematerialisation: blocks whose values are computed again for the backward pass, and not kept for it.
//!
//! What the backward pass reads of a block's forward pass is kept from the one to the other, for all blocks at once: most of the memory of training. A block that is
//! rematerialised keeps only what enters it; just before its backward pass the rest is computed again, once. By the law `f(x) = f(x)` no result changes, not by a bit.
//!
//! Runs after common subexpressions have been merged, which would merge the copies too.

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::{Binding, Graph, Node, NodeId, Op, Value, Work};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// The block that a node of the forward pass is in, by its path.
fn block(node: &Node) -> Option<usize> {
    let (_, rest) = node.at.split_once(".blocks.").filter(|_| !backward(node))?;
    rest.split('.').next()?.parse().ok()
}

fn backward(node: &Node) -> bool {
    node.at.starts_with("grad/")
}

/// Number of blocks of a graph.
pub fn blocks(graph: &Graph) -> usize {
    graph.nodes().iter().filter_map(block).max().map_or(0, |n| n + 1)
}

/// Computes the first `count` blocks again for their backward pass.
///
/// # Errors
/// Never on a verified graph.
pub fn run(graph: &Graph, count: usize, record: &mut Record) -> Result<Graph, PassError> {
    let bindings = graph.bindings();
    // Which values of each block the backward pass reads, and what must be computed for them.
    let again = |id: NodeId| {
        let node = graph.node(id);
        let given = matches!(node.op, Op::Input(_) | Op::Weight(_) | Op::State(_));
        block(node).filter(|&n| n < count && !given && bindings[id.index()] == Binding::Step)
    };
    let mut needed: BTreeMap<usize, BTreeSet<NodeId>> = BTreeMap::new();
    for node in graph.nodes().iter().filter(|n| backward(n)) {
        for v in &node.inputs {
            if let Some(n) = again(v.node) {
                needed.entry(n).or_default().insert(v.node);
            }
        }
    }
    for (n, nodes) in &mut needed {
        let mut next: Vec<NodeId> = nodes.iter().copied().collect();
        while let Some(id) = next.pop() {
            for v in &graph.node(id).inputs {
                if again(v.node) == Some(*n) && nodes.insert(v.node) {
                    next.push(v.node);
                }
            }
        }
    }
    let mut re = Rebuild::new(graph);
    let mut copies: BTreeMap<Value, Value> = BTreeMap::new();
    for (id, node) in graph.iter() {
        if backward(node) {
            for n in node.inputs.iter().filter_map(|v| again(v.node)).collect::<BTreeSet<_>>() {
                if let Some(nodes) = needed.remove(&n) {
                    copy(&mut re, &nodes, &mut copies, n, record)?;
                }
            }
        }
        let of = |v: &Value| copies.get(v).copied().filter(|_| backward(node)).unwrap_or_else(|| re.get(*v));
        let inputs: Vec<Value> = node.inputs.iter().map(of).collect();
        re.put(id, node.op.clone(), &inputs).map_err(PassError::ir("rematerialise"))?;
    }
    Ok(re.finish())
}

/// Adds the nodes of a block once more.
fn copy(
    re: &mut Rebuild<'_>,
    nodes: &BTreeSet<NodeId>,
    copies: &mut BTreeMap<Value, Value>,
    block: usize,
    record: &mut Record,
) -> Result<(), PassError> {
    let (mut work, mut kept) = (Work::default(), 0);
    for &id in nodes {
        let node = re.old.node(id);
        let inputs: Vec<Value> =
            node.inputs.iter().map(|v| copies.get(v).copied().unwrap_or_else(|| re.get(*v))).collect();
        let at = format!("again/{}", node.at);
        let first = re.new.add(at, node.op.clone(), &inputs).map_err(PassError::ir("rematerialise"))?;
        for (p, ty) in node.types.iter().enumerate() {
            let port = p as u8;
            copies.insert(Value { node: id, port }, Value { node: first.node, port });
            kept += if crate::layout::is_view(&node.op) { 0 } else { ty.bytes() };
        }
        work = work + re.old.work(id);
    }
    let reason = format!("computed again for its backward pass: up to {kept} bytes less to keep");
    record.applied("rematerialise", "block", &format!("blocks.{block}"), reason, work.flops as i64, work.bytes as i64);
    Ok(())
}
