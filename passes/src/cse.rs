//! Common subexpressions: equal operators on equal inputs are computed once.
//!
//! Between guidance passes this shares everything up to where the prompt or the route enters: the patch embedding, the
//! time embedding and the first block's self-attention, for a reference stream far more.

use std::collections::HashMap;

use ccl_ir::{Graph, Op, Value};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

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
        if let Some(&first) = seen.get(&key).filter(|_| !key.0.is_empty()) {
            let reason = format!("the same as `{}`", crate::record::module(&graph.node(first).at));
            record.count("same value", &node.at, &reason, graph.work(id), -1);
            re.merge(id, first);
        } else {
            re.keep(id).map_err(PassError::ir("cse"))?;
            seen.insert(key, id);
        }
    }
    record.close("cse");
    Ok(re.finish())
}
