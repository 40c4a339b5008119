//! Dead code and dead weights: what no output needs is not computed, not loaded, not allocated.

use ccl_ir::{Graph, Op};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Removes every node that no output needs.
///
/// # Errors
/// Never on a verified graph.
pub fn run(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let live = graph.live();
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        if live[id.index()] {
            re.keep(id).map_err(PassError::ir("dead"))?;
            continue;
        }
        match &node.op {
            Op::Weight(w) => {
                let bytes = ccl_ir::Work { flops: 0, bytes: w.ty.bytes() };
                record.count("dead weight", &node.at, "nothing reads it: not loaded, not allocated", bytes, -1);
            }
            Op::State(_) => record.count("dead state", &node.at, "nothing reads it", Default::default(), -1),
            Op::Input(_) => record.count("dead input", &node.at, "nothing reads it", Default::default(), -1),
            _ => record.count("dead code", &node.at, "no output needs it", graph.work(id), -1),
        }
    }
    record.close("dead");
    Ok(re.finish())
}
