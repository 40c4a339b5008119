//! `rope(reshape(rms_norm(x)))` becomes `RmsNormRope`: queries and keys are read and written once.

use ccl_ir::ops;
use ccl_ir::{NodeId, Op};

use super::{From, Raised, Site};

/// Matches the rotation.
pub(super) fn matches(site: &Site<'_>, id: NodeId) -> Option<Result<Raised, String>> {
    let node = site.graph.node(id);
    if !matches!(node.op, Op::Rope(_)) {
        return None;
    }
    let heads = node.inputs[0];
    if !matches!(site.op(heads), Op::Reshape(_)) {
        return None;
    }
    let norm = site.input(heads, 0);
    let Op::RmsNorm(rms) = site.op(norm) else { return None };
    let x = site.input(norm, 0);
    let (whole, cut) = (site.graph.ty(x), site.graph.ty(heads));
    if whole.rank() != 3 || whole.shape[..2] != cut.shape[..2] {
        return Some(Err(format!("{whole} is not cut into heads as {cut}")));
    }
    if !site.read_once(heads) || !site.read_once(norm) {
        return Some(Err("the norm is read elsewhere too".into()));
    }
    let op = ops::RmsNormRope { eps: rms.eps, heads: cut.shape[2] };
    let inputs = vec![From::Old(x), From::Old(site.input(norm, 1)), From::Old(node.inputs[1])];
    Some(Ok(Raised { steps: vec![(op.into(), inputs)], reason: "norm and rotation in one pass over memory".into() }))
}
