//! Common subexpressions: equal operators on equal inputs are computed once.
//!
//! Between guidance passes this shares everything up to where the prompt or the route enters: the patch embedding, the
//! time embedding and the first block's self-attention, for a reference stream far more.

use std::collections::HashMap;

use ccl_ir::{Graph, Op, Value};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// One pass computed it twice.
const SAME: &str = "same value";
/// Two guidance passes computed it.
const SHARED: &str = "equal work of guidance passes";

/// The guidance pass of a path.
fn pass(at: &str) -> &str {
    at.split_once('/').map_or("", |(pass, _)| pass)
}

/// Merges equal nodes; the first one stays.
///
/// # Errors
/// Never on a verified graph.
pub fn run(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let mut re = Rebuild::new(graph);
    let mut seen: HashMap<(String, Vec<Value>), ccl_ir::NodeId> = HashMap::new();
    for (id, node) in graph.iter() {
        if matches!(node.op, Op::Input(_) | Op::Weight(_) | Op::State(_)) {
            re.keep(id).map_err(PassError::ir("cse"))?;
            continue;
        }
        let key = (serde_json::to_string(&node.op).unwrap_or_default(), re.inputs(node));
        let same = seen.get(&key).filter(|_| !key.0.is_empty());
        if let Some(&first) = same.filter(|_| record.allow("cse", SAME, &node.at)) {
            let at = &graph.node(first).at;
            let reason = format!("the same as `{}`", crate::record::module(at));
            let rule = if pass(at) == pass(&node.at) { SAME } else { SHARED };
            record.count(rule, &node.at, &reason, graph.work(id), -1);
            re.merge(id, first);
        } else {
            re.keep(id).map_err(PassError::ir("cse"))?;
            seen.insert(key, id);
        }
    }
    record.close("cse");
    Ok(re.finish())
}
