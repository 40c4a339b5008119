//! The order of an entry's calls: of the orders tried, the one that needs the least memory.

use ccl_ir::{Graph, NodeId};

/// Calls of one entry in the graph's own order, or depth first from its last results, whichever keeps fewer bytes alive.
///
/// `calls` are the nodes to order; `bytes(n)` are the scratch bytes that node `n` leaves behind; `reads(n)` the calls of the same entry
/// whose scratch results it reads; `kept(n)` says that the results live to the end. Returns the order, its peak, and the peaks of
/// both candidates.
pub fn choose(
    graph: &Graph,
    calls: &[NodeId],
    bytes: &dyn Fn(NodeId) -> u64,
    reads: &dyn Fn(NodeId) -> Vec<NodeId>,
    kept: &dyn Fn(NodeId) -> bool,
) -> (Vec<NodeId>, [u64; 2]) {
    let program = calls.to_vec();
    let depth = depth_first(graph, calls, reads);
    let peaks = [peak(&program, bytes, reads, kept), peak(&depth, bytes, reads, kept)];
    (if peaks[1] < peaks[0] { depth } else { program }, peaks)
}

/// Post-order from the nodes that no other call reads, in program order.
fn depth_first(graph: &Graph, calls: &[NodeId], reads: &dyn Fn(NodeId) -> Vec<NodeId>) -> Vec<NodeId> {
    let mut read = vec![false; graph.nodes().len()];
    for &c in calls {
        for r in reads(c) {
            read[r.index()] = true;
        }
    }
    let mut done = vec![false; graph.nodes().len()];
    let mut out = Vec::with_capacity(calls.len());
    let mut stack: Vec<(NodeId, Vec<NodeId>)> = Vec::new();
    for &root in calls.iter().filter(|c| !read[c.index()]) {
        stack.push((root, reads(root)));
        done[root.index()] = true;
        while let Some((node, pending)) = stack.last_mut() {
            let node = *node;
            if pending.is_empty() {
                out.push(node);
                stack.pop();
                continue;
            }
            let next = pending.remove(0);
            if !done[next.index()] {
                done[next.index()] = true;
                stack.push((next, reads(next)));
            }
        }
    }
    out
}

/// The largest sum of bytes alive at one call.
fn peak(
    order: &[NodeId],
    bytes: &dyn Fn(NodeId) -> u64,
    reads: &dyn Fn(NodeId) -> Vec<NodeId>,
    kept: &dyn Fn(NodeId) -> bool,
) -> u64 {
    let mut last = std::collections::HashMap::new();
    for (i, &n) in order.iter().enumerate() {
        for r in reads(n) {
            last.insert(r, i);
        }
        last.entry(n).or_insert(i);
    }
    let mut ends = vec![0u64; order.len()];
    for &n in order {
        if !kept(n) {
            ends[last[&n]] += bytes(n);
        }
    }
    let (mut live, mut top) = (0, 0);
    for (i, &n) in order.iter().enumerate() {
        live += bytes(n);
        top = top.max(live);
        live -= ends[i];
    }
    top
}
