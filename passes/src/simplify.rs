//! Neutral operations go. Every rule is exact: the same bits for finite values.

use ccl_ir::ops::{self, BinaryKind};
use ccl_ir::{Graph, NodeId, Op, TensorType, Value};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Applies the rules once, inputs before users, so that chains collapse in one walk.
///
/// # Errors
/// Never on a verified graph.
pub fn run(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        let inputs = re.inputs(node);
        let found = rule(&re.new, &node.op, &inputs, &node.types[0]);
        match found.filter(|(name, _)| record.allow("simplify", name, &node.at)) {
            Some((name, To::Value(v))) => {
                record.count(name, &node.at, "a neutral operation", graph.work(id), -1);
                re.replace(id, v);
            }
            Some((name, To::Op(op, inputs))) => {
                record.count(name, &node.at, "a shorter form", graph.work(id), -1);
                put(&mut re, id, op, &inputs)?;
            }
            None => put(&mut re, id, node.op.clone(), &inputs)?,
        }
    }
    record.close("simplify");
    Ok(re.finish())
}

fn put(re: &mut Rebuild, id: NodeId, op: Op, inputs: &[Value]) -> Result<(), PassError> {
    re.put(id, op, inputs).map(|_| ()).map_err(PassError::ir("simplify"))
}

enum To {
    Value(Value),
    Op(Op, Vec<Value>),
}

/// The rule that applies to an operator on these (already simplified) inputs.
fn rule(g: &Graph, op: &Op, inputs: &[Value], out: &TensorType) -> Option<(&'static str, To)> {
    let same_type = |v: Value| g.ty(v) == out;
    match op {
        // reshape(x) = x, expand(x) = x where the shape stays.
        Op::Reshape(_) | Op::Expand(_) if same_type(inputs[0]) => Some(("same shape", To::Value(inputs[0]))),
        // reshape(reshape(x)) = reshape(x)
        Op::Reshape(_) => match g.op(inputs[0]) {
            Op::Reshape(_) => {
                let source = g.node(inputs[0].node).inputs[0];
                if same_type(source) {
                    return Some(("reshape of reshape", To::Value(source)));
                }
                Some(("reshape of reshape", To::Op(op.clone(), vec![source])))
            }
            _ => None,
        },
        Op::Transpose(t) if t.perm.iter().copied().eq(0..t.perm.len()) => Some(("same order", To::Value(inputs[0]))),
        // transpose(transpose(x)) = transpose(x)
        Op::Transpose(outer) => match g.op(inputs[0]) {
            Op::Transpose(inner) => {
                let perm = outer.perm.iter().map(|&p| inner.perm[p]).collect();
                let source = g.node(inputs[0].node).inputs[0];
                Some(("transpose of transpose", To::Op(ops::Transpose { perm }.into(), vec![source])))
            }
            _ => None,
        },
        Op::Slice(_) if same_type(inputs[0]) => Some(("whole slice", To::Value(inputs[0]))),
        Op::Concat(_) if inputs.len() == 1 => Some(("concat of one", To::Value(inputs[0]))),
        Op::Cast(_) if same_type(inputs[0]) => Some(("same type", To::Value(inputs[0]))),
        Op::Unary(u) => {
            let c = constant(g, inputs[0])?;
            let value = u.kind.apply(c);
            let folded = ops::Constant { ty: out.clone(), value };
            value.is_finite().then(|| ("constant", To::Op(folded.into(), Vec::new())))
        }
        Op::Binary(b) => binary(g, b.kind, inputs, out),
        _ => None,
    }
}

/// `a - a = 0`, `x + 0 = x`, `x - 0 = x`, `x * 1 = x`, `x * 0 = 0`, and both constant.
fn binary(g: &Graph, kind: BinaryKind, inputs: &[Value], out: &TensorType) -> Option<(&'static str, To)> {
    let zero = || To::Op(ops::Constant { ty: out.clone(), value: 0.0 }.into(), Vec::new());
    let (a, b) = (inputs[0], inputs[1]);
    if kind == BinaryKind::Sub && a == b {
        return Some(("difference with itself", zero()));
    }
    let (ca, cb) = (constant(g, a), constant(g, b));
    if let (Some(x), Some(y)) = (ca, cb) {
        let value = kind.apply(x, y);
        let folded = ops::Constant { ty: out.clone(), value };
        return value.is_finite().then(|| ("constant", To::Op(folded.into(), Vec::new())));
    }
    let neutral = |c: Option<f64>, other: Value| {
        let is = match kind {
            BinaryKind::Mul => c == Some(1.0),
            _ => c == Some(0.0),
        };
        is && g.ty(other) == out
    };
    if neutral(cb, a) {
        return Some(("neutral operand", To::Value(a)));
    }
    if kind != BinaryKind::Sub && neutral(ca, b) {
        return Some(("neutral operand", To::Value(b)));
    }
    if kind == BinaryKind::Mul && (ca == Some(0.0) || cb == Some(0.0)) {
        return Some(("times zero", zero()));
    }
    None
}

fn constant(g: &Graph, v: Value) -> Option<f64> {
    match g.op(v) {
        Op::Constant(c) => Some(c.value),
        _ => None,
    }
}
