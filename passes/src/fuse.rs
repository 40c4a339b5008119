//! Fusion: elementwise operators become one chain, and a chain that starts at a matrix product becomes its epilogue.
//!
//! A value is computed inside its reader when nobody else reads it, both are computed at the same moment and have the same
//! shape. The result is bit for bit what the single operators give.

use ccl_ir::chain::{Arg, Instr};
use ccl_ir::types::broadcast;
use ccl_ir::{Binding, Chain, Graph, NodeId, Op, Operator, TensorType, Value, ops};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

struct Site<'a> {
    graph: &'a Graph,
    users: Vec<Vec<NodeId>>,
    bindings: Vec<Binding>,
}

impl Site<'_> {
    /// Why `reader` cannot compute `v` on the fly, or nothing.
    fn obstacle(&self, v: Value, reader: NodeId) -> Option<&'static str> {
        self.obstacle_to(v, reader, &self.graph.node(reader).types[0].shape)
    }

    /// The same for a reader that works through a shape of its own.
    fn obstacle_to(&self, v: Value, reader: NodeId, shape: &[usize]) -> Option<&'static str> {
        if self.graph.outputs.iter().any(|o| o.value == v) {
            return Some("the value is a result");
        }
        let mut readers = self.users[v.node.index()].iter();
        if readers.any(|&u| u != reader) {
            return Some("the value is read elsewhere too");
        }
        if self.bindings[v.node.index()] != self.bindings[reader.index()] {
            return Some("the value is computed at another moment");
        }
        if self.graph.ty(v).shape != shape {
            return Some("the value has another shape: it would be computed again for every repetition");
        }
        None
    }
}

/// Fuses elementwise chains, then chains into products.
///
/// # Errors
/// When a fused operator cannot take its inputs: a fault of the pass.
pub fn run(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let chained = chains(graph, record)?;
    let chained = crate::dead::run(&chained, &mut Record::default())?;
    let fused = epilogues(&chained, record)?;
    crate::dead::run(&fused, &mut Record::default())
}

fn single(op: &Op) -> Option<Chain> {
    match op {
        Op::Unary(u) => Some(Chain::unary(u.kind)),
        Op::Binary(b) => Some(Chain::binary(b.kind)),
        Op::Fused(f) => Some(f.chain.clone()),
        _ => None,
    }
}

/// Every elementwise node becomes a `Fused` node that computes as much of its inputs as it may.
fn chains(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let site = Site { graph, users: graph.users(), bindings: graph.bindings() };
    let mut re = Rebuild::new(graph);
    // The chain of each elementwise node and its inputs in terms of the old graph.
    let mut known: Vec<Option<(Chain, Vec<Value>)>> = vec![None; graph.nodes().len()];
    for (id, node) in graph.iter() {
        if let Op::Reduce(reduce) = &node.op {
            sum(&site, &mut re, id, reduce, &known, record)?;
            continue;
        }
        let Some(mut chain) = single(&node.op) else {
            re.keep(id).map_err(PassError::ir("fuse"))?;
            continue;
        };
        let mut inputs = node.inputs.clone();
        let mut slot = 0;
        let mut taken = 0;
        while slot < inputs.len() {
            let v = inputs[slot];
            if let Op::Constant(c) = graph.op(v)
                && keeps_shape(graph, &inputs, slot, &node.types[0].shape)
            {
                chain.bind_constant(slot as u16, c.value);
                inputs.remove(slot);
                continue;
            }
            let Some((inner, inner_inputs)) = known[v.node.index()].as_ref() else {
                slot += 1;
                continue;
            };
            match (site.obstacle(v, id), chain.inline(slot as u16, inner)) {
                (None, Some(longer)) if record.allow("fuse", "chain", &node.at) => {
                    chain = longer;
                    inputs.remove(slot);
                    inputs.extend(inner_inputs);
                    taken += 1;
                }
                (None, Some(_)) => slot += 1,
                (Some(reason), _) => {
                    record.refused("fuse", "chain", &graph.node(v.node).at, reason);
                    slot += 1;
                }
                (None, None) => {
                    record.refused("fuse", "chain", &graph.node(v.node).at, "the chain would be too long");
                    slot += 1;
                }
            }
        }
        merge_equal(&mut chain, &mut inputs);
        if taken > 0 {
            let saved = taken * 2 * node.types[0].bytes() as i64;
            let reason = format!("{} in one pass over memory", chain.formula());
            record.applied("fuse", "chain", &node.at, reason, 0, -saved);
        }
        let new_inputs: Vec<Value> = inputs.iter().map(|&v| re.get(v)).collect();
        let mut op = ops::Fused::new(chain.clone());
        // A number that went into the chain may have given the result its type.
        let types: Vec<&TensorType> = new_inputs.iter().map(|&v| re.new.ty(v)).collect();
        if op.infer(&types).is_ok_and(|types| types[0].dtype != node.types[0].dtype) {
            op.out = Some(node.types[0].dtype);
        }
        re.put(id, op.into(), &new_inputs).map_err(PassError::ir("fuse"))?;
        known[id.index()] = Some((chain, inputs));
    }
    Ok(re.finish())
}

/// A sum computes the chain that it sums, where nobody else reads it: what is summed is never stored.
fn sum(
    site: &Site<'_>,
    re: &mut Rebuild,
    id: NodeId,
    reduce: &ops::Reduce,
    known: &[Option<(Chain, Vec<Value>)>],
    record: &mut Record,
) -> Result<(), PassError> {
    let node = site.graph.node(id);
    let whole = node.inputs[0];
    let inner = known[whole.node.index()].as_ref().filter(|_| reduce.chain.is_none());
    let obstacle = inner.and_then(|_| site.obstacle_to(whole, id, &site.graph.ty(whole).shape));
    let (op, inputs) = match (inner, obstacle) {
        (Some((chain, inputs)), None) => {
            let saved = 2 * site.graph.ty(whole).bytes() as i64;
            let reason = format!("the sum of {} in one pass over memory", chain.formula());
            record.applied("fuse", "sum", &node.at, reason, 0, -saved);
            (ops::Reduce { chain: Some(chain.clone()), shape: reduce.shape.clone() }, inputs)
        }
        (_, obstacle) => {
            if let Some(reason) = obstacle {
                record.refused("fuse", "sum", &node.at, reason);
            }
            (reduce.clone(), &node.inputs)
        }
    };
    let inputs: Vec<Value> = inputs.iter().map(|&v| re.get(v)).collect();
    re.put(id, op.into(), &inputs).map(|_| ()).map_err(PassError::ir("fuse"))
}

/// Whether inputs but for number `slot` are some, and still broadcast to a shape.
fn keeps_shape(graph: &Graph, inputs: &[Value], slot: usize, shape: &[usize]) -> bool {
    let mut others = inputs.iter().enumerate().filter(|(i, _)| *i != slot).map(|(_, &v)| &graph.ty(v).shape);
    let whole = others.try_fold(Vec::new(), |whole, other| broadcast(&whole, other));
    inputs.len() > 1 && whole.as_deref() == Some(shape)
}

/// Inputs that are one value are read once.
fn merge_equal(chain: &mut Chain, inputs: &mut Vec<Value>) {
    let mut b = 1;
    while b < inputs.len() {
        match inputs[..b].iter().position(|v| *v == inputs[b]) {
            Some(a) => {
                chain.merge_inputs(a as u16, b as u16);
                inputs.remove(b);
            }
            None => b += 1,
        }
    }
}

/// A chain that reads a product which nobody else reads becomes the product's epilogue.
fn epilogues(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let site = Site { graph, users: graph.users(), bindings: graph.bindings() };
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        let Op::Fused(fused) = &node.op else {
            re.keep(id).map_err(PassError::ir("fuse"))?;
            continue;
        };
        let product = |v: &Value| matches!(graph.op(*v), Op::Linear(l) if l.epilogue.is_none());
        let candidates: Vec<usize> = (0..node.inputs.len()).filter(|&i| product(&node.inputs[i])).collect();
        let Some(&slot) = candidates.iter().rev().find(|&&i| site.obstacle(node.inputs[i], id).is_none()) else {
            if let Some(&i) = candidates.first() {
                let reason = site.obstacle(node.inputs[i], id).unwrap_or_default();
                record.refused("fuse", "epilogue", &node.at, reason);
            }
            re.keep(id).map_err(PassError::ir("fuse"))?;
            continue;
        };
        let linear = graph.node(node.inputs[slot].node);
        if !record.allow("fuse", "epilogue", &linear.at) {
            re.keep(id).map_err(PassError::ir("fuse"))?;
            continue;
        }
        let Op::Linear(op) = &linear.op else { unreachable!("candidates are products") };
        // The result has the chain's type, which need not be that of the tokens.
        let out = Some(node.types[0].dtype).filter(|&own| own != graph.ty(linear.inputs[0]).dtype);
        let op = ops::Linear { bias: op.bias, epilogue: Some(product_first(&fused.chain, slot as u16)), out };
        let mut inputs: Vec<Value> = linear.inputs.iter().map(|&v| re.get(v)).collect();
        inputs.extend(node.inputs.iter().enumerate().filter(|(i, _)| *i != slot).map(|(_, &v)| re.get(v)));
        let saved = 2 * node.types[0].bytes() as i64;
        let reason = format!("{} while the product is in cache", fused.chain.formula());
        record.applied("fuse", "epilogue", &linear.at, reason, 0, -saved);
        re.put(id, op.into(), &inputs).map_err(PassError::ir("fuse"))?;
    }
    Ok(re.finish())
}

/// The chain with input `slot` moved to the front.
fn product_first(chain: &Chain, slot: u16) -> Chain {
    let order = |a: Arg| match a {
        Arg::In(n) if n == slot => Arg::In(0),
        Arg::In(n) if n < slot => Arg::In(n + 1),
        other => other,
    };
    let step = |s: &Instr| match *s {
        Instr::Unary(k, a) => Instr::Unary(k, order(a)),
        Instr::Binary(k, a, b) => Instr::Binary(k, order(a), order(b)),
    };
    Chain { inputs: chain.inputs, steps: chain.steps.iter().map(step).collect() }
}
