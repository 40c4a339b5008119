//! Half precision activations, for targets that compute with them.
//!
//! Token streams are stored in half precision where the matrices are. In `f32` stay: the time embedding (a rounded angle is a wrong
//! angle), norm weights, modulation, RoPE tables, log-sum-exp, velocities and the guidance arithmetic. All arithmetic inside a
//! kernel is `f32`, whatever is stored.
//!
//! In training the parameters, moments and averages are `f32` (master weights): products read copies of the matrices in half precision, made anew in
//! every step, and all that becomes the gradient of a parameter, or the loss, is `f32`.

use std::collections::BTreeMap;

use ccl_ir::{DType, Graph, Op, TensorType, Value, ops};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Stores token streams in the type of the matrices that read them; with `mixed`, all products read that type, though the matrices are states in
/// `f32`. Runs after fusion.
///
/// # Errors
/// When an operator cannot take its inputs: a fault of the pass.
pub fn run(graph: &Graph, mixed: Option<DType>, record: &mut Record) -> Result<Graph, PassError> {
    let err = PassError::ir("precision");
    let ends = reaches_result(graph);
    let mut re = Rebuild::new(graph);
    // One copy in half precision of each value, however many products read it.
    let mut copies: BTreeMap<Value, Value> = BTreeMap::new();
    // Values of the time embedding.
    let mut timed = vec![false; graph.nodes().len()];
    for (id, node) in graph.iter() {
        let first_timed = node.inputs.first().is_some_and(|v| timed[v.node.index()]);
        timed[id.index()] = match &node.op {
            Op::TimeFeatures(_) => true,
            Op::Linear(_) | Op::Unary(_) | Op::Reshape(_) | Op::Index(_) | Op::Slice(_) => first_timed,
            Op::Fused(f) => first_timed && f.chain.inputs == 1,
            _ => false,
        };
        let mut inputs = re.inputs(node);
        let half = |re: &Rebuild, v: Value| Some(re.new.ty(v).dtype).filter(|d| matches!(d, DType::F16 | DType::Bf16));
        let op = match &node.op {
            Op::Linear(l) => {
                let mut l = l.clone();
                if let Some(to) = half(&re, inputs[1]).or(mixed).filter(|_| !first_timed) {
                    for v in &mut inputs[..2] {
                        *v = stored(&mut re, *v, to, &node.at, &mut copies, record)?;
                    }
                    l.out = Some(if ends[id.index()] { DType::F32 } else { to });
                }
                Op::Linear(l)
            }
            Op::MatMul(m) if let Some(to) = mixed => {
                let mut m = m.clone();
                for v in &mut inputs {
                    *v = stored(&mut re, *v, to, &node.at, &mut copies, record)?;
                }
                m.out = Some(if ends[id.index()] { DType::F32 } else { to });
                Op::MatMul(m)
            }
            Op::Fused(f) => {
                let mut f = f.clone();
                f.out = inputs.iter().find_map(|&v| half(&re, v)).filter(|_| !ends[id.index()]).or(Some(DType::F32));
                Op::Fused(f)
            }
            op => op.clone(),
        };
        // Where an operator wants one type or single precision, such as a log-sum-exp, it is given what it had.
        let types: Vec<&TensorType> = inputs.iter().map(|&v| re.new.ty(v)).collect();
        // What has no say about the type of its result, which must be that of a master weight, is computed from single precision.
        let chooses = matches!(op, Op::Linear(_) | Op::MatMul(_) | Op::Fused(_));
        if op.infer(&types).is_err() || (mixed.is_some() && ends[id.index()] && !chooses) {
            for (v, &old) in inputs.iter_mut().zip(&node.inputs) {
                let to = graph.ty(old).dtype;
                if re.new.ty(*v).dtype != to {
                    record.applied("precision", "cast", &node.at, format!("`{}` reads {to}", op.name()), 0, 0);
                    *v = re.new.add(node.at.clone(), ops::Cast { to }, &[*v]).map_err(&err)?;
                }
            }
        }
        re.put(id, op, &inputs).map_err(&err)?;
    }
    let mut out = re.finish();
    // Results are given out as they were asked for.
    for i in 0..out.outputs.len() {
        let (v, to) = (out.outputs[i].value, graph.ty(graph.outputs[i].value).dtype);
        if out.ty(v).dtype != to {
            out.outputs[i].value = out.add(out.outputs[i].name.clone(), ops::Cast { to }, &[v]).map_err(&err)?;
        }
    }
    Ok(out)
}

/// A value in half precision: itself where it is, else a copy.
fn stored(
    re: &mut Rebuild,
    v: Value,
    to: DType,
    at: &str,
    copies: &mut BTreeMap<Value, Value>,
    record: &mut Record,
) -> Result<Value, PassError> {
    if re.new.ty(v).dtype == to {
        return Ok(v);
    }
    if let Some(copy) = copies.get(&v) {
        return Ok(*copy);
    }
    let what = if matches!(re.new.node(v.node).op, Op::State(_)) { "a copy of the matrix is" } else { "tokens are" };
    record.applied("precision", "cast", at, format!("{what} stored as {to}"), 0, 0);
    let copy = re.new.add(at, ops::Cast { to }, &[v]).map_err(PassError::ir("precision"))?;
    copies.insert(v, copy);
    Ok(copy)
}

/// Whether a node's result reaches a result of the graph, or an update, through moves and elementwise arithmetic alone: a velocity, a loss, the
/// gradient of a parameter.
fn reaches_result(graph: &Graph) -> Vec<bool> {
    let mut ends = vec![false; graph.nodes().len()];
    for o in &graph.outputs {
        ends[o.value.node.index()] = true;
    }
    for (id, node) in graph.iter().rev() {
        // A sum to one number, perhaps by rows before (`Reduce::total`), is part of a loss or a norm; any other one becomes a gradient itself.
        let passes = matches!(
            node.op,
            Op::Unpatchify(_)
                | Op::Fused(_)
                | Op::Unary(_)
                | Op::Binary(_)
                | Op::Reshape(_)
                | Op::Transpose(_)
                | Op::Slice(_)
                | Op::Concat(_)
                | Op::AdamW(_)
        ) || matches!(&node.op, Op::Reduce(r) if r.shape.last().is_none_or(|n| *n == 1));
        if ends[id.index()] && passes {
            for v in &node.inputs {
                ends[v.node.index()] = true;
            }
        }
    }
    ends
}
