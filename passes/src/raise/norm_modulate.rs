//! `LN(x) * (1 + scale) + shift` becomes `NormModulate` (SPEC 2.5).

use ccl_ir::ops::{self, BinaryKind};
use ccl_ir::{NodeId, Op, Value};

use super::{From, Raised, Site};

/// Matches the final addition of the pattern.
pub(super) fn matches(site: &Site<'_>, id: NodeId) -> Option<Result<Raised, String>> {
    let node = site.graph.node(id);
    let [a, b] = binary(&node.op, BinaryKind::Add, &node.inputs)?;
    let (product, shift) = [(a, b), (b, a)].into_iter().find(|(p, _)| normalised(site, *p).is_some())?;
    let (norm, factor) = normalised(site, product)?;
    let scale = one_plus(site, factor)?;
    let Op::LayerNorm(ln) = site.op(norm) else { return None };
    let x = site.input(norm, 0);
    let ty = site.graph.ty(x);
    if ty.rank() != 3 {
        return Some(Err(format!("the normalised tensor is {ty}, not [B, L, d]")));
    }
    let want = [ty.shape[0], 1, ty.shape[2]];
    for v in [shift, scale] {
        if site.graph.ty(v).shape != want {
            return Some(Err(format!("shift or scale is {}, not {want:?}", site.graph.ty(v))));
        }
    }
    if !site.read_once(product) || !site.read_once(norm) {
        return Some(Err("the norm or its product is read elsewhere too".into()));
    }
    let op = ops::NormModulate { eps: ln.eps };
    let steps = vec![(op.into(), vec![From::Old(x), From::Old(shift), From::Old(scale)])];
    Some(Ok(Raised { steps, reason: "norm, scale and shift in one pass over memory".into() }))
}

fn binary(op: &Op, kind: BinaryKind, inputs: &[Value]) -> Option<[Value; 2]> {
    match op {
        Op::Binary(b) if b.kind == kind => Some([inputs[0], inputs[1]]),
        _ => None,
    }
}

/// The plain norm and the factor of a product, where one operand is a plain norm.
fn normalised(site: &Site<'_>, v: Value) -> Option<(Value, Value)> {
    let node = site.graph.node(v.node);
    let [a, b] = binary(&node.op, BinaryKind::Mul, &node.inputs)?;
    let plain = |v: Value| matches!(site.op(v), Op::LayerNorm(ln) if !ln.affine);
    [(a, b), (b, a)].into_iter().find(|(n, f)| plain(*n) && one_plus(site, *f).is_some())
}

/// `scale` of `1 + scale`.
fn one_plus(site: &Site<'_>, v: Value) -> Option<Value> {
    let node = site.graph.node(v.node);
    let [a, b] = binary(&node.op, BinaryKind::Add, &node.inputs)?;
    let one = |v: Value| matches!(site.op(v), Op::Constant(c) if c.value == 1.0);
    [(a, b), (b, a)].into_iter().find(|(_, c)| one(*c)).map(|(s, _)| s)
}
