//! Key splitting: attention with few queries fills a wide device.
//!
//! Video to audio has a hundred or so queries against tens of thousands of keys. A device with thousands of lanes idles unless the keys
//! are dealt out too: each part gives a partial result and its log-sum-exp, and `MergeAttention` puts the parts together, by the law
//!
//! > `softmax over K1 ∪ K2 = (e^{l1} o1 + e^{l2} o2) / (e^{l1} + e^{l2})`.

use ccl_ir::{Graph, Op, TensorType, Value, ops};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Keys that a part has at least: fewer would spend more on merging than they gain.
const MIN_KEYS: usize = 64;

/// Queries that one part of work takes at most, about what a cube holds.
const QUERIES: usize = 32;

/// Parts that the keys of an attention are dealt out to on a device of so much parallelism; with them independent parts of work without that, and keys of a
/// query.
fn parts(op: &ops::PartitionedContextAttention, q: &TensorType, context: usize, parallelism: usize) -> [usize; 3] {
    let groups = op.partition.groups();
    let blocks: usize = groups.iter().map(|g| g.queries.len().div_ceil(QUERIES)).sum();
    let tasks = (blocks * q.shape[0] * q.shape[2]).max(1);
    let keys = groups.iter().map(|g| g.keys.len()).max().unwrap_or(0) + context;
    [parallelism.div_ceil(tasks).min(keys / MIN_KEYS).max(1), tasks, keys]
}

/// Parts that the pass deals the keys out to, for queries `[B, L, H, D]` and so many context tokens.
pub fn splits(op: &ops::PartitionedContextAttention, q: &TensorType, context: usize, parallelism: usize) -> usize {
    parts(op, q, context, parallelism)[0]
}

/// Splits the keys of context attention until there are about `parallelism` independent parts of work.
///
/// # Errors
/// When an operator cannot take its inputs: a fault of the pass.
pub fn run(graph: &Graph, parallelism: usize, record: &mut Record) -> Result<Graph, PassError> {
    let err = PassError::ir("split");
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        let Op::PartitionedContextAttention(pca) = &node.op else {
            re.keep(id).map_err(&err)?;
            continue;
        };
        let q = graph.ty(node.inputs[0]);
        let [splits, tasks, keys] = parts(pca, q, graph.ty(node.inputs[3]).shape[0], parallelism);
        if splits == 1 {
            let reason = if tasks >= parallelism {
                format!("{tasks} independent parts of work are enough for a parallelism of {parallelism}")
            } else {
                format!("{keys} keys a query are too few to deal out, a split has at least {MIN_KEYS}")
            };
            record.refused("split", "keys", &node.at, reason);
            re.keep(id).map_err(&err)?;
            continue;
        }
        if !record.allow("split", "keys", &node.at) {
            re.keep(id).map_err(&err)?;
            continue;
        }
        let inputs = re.inputs(node);
        let op = ops::PartitionedContextAttention { splits, ..pca.clone() };
        let parts = re.new.add(node.at.clone(), op, &inputs).map_err(&err)?;
        let lse = Value { node: parts.node, port: 1 };
        let out = Some(q.dtype);
        re.put(id, ops::MergeAttention { out }.into(), &[parts, lse]).map_err(&err)?;
        let reason =
            format!("{tasks} parts of {keys} keys would leave a parallelism of {parallelism} idle: {splits} splits");
        let bytes = 2 * (re.new.ty(parts).bytes() + re.new.ty(lse).bytes()) as i64;
        record.applied("split", "keys", &node.at, reason, 0, bytes);
    }
    Ok(re.finish())
}
