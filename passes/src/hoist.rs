//! Binding times: every value is computed at the earliest moment that it can be.
//!
//! Values that depend on weights alone belong to `load`, those that also need the prompt or a clean latent to `prologue`.
//! That follows from the graph ([`Graph::bindings`]) and needs no rewriting. One thing does: the flow time changes in every
//! step, but the schedule is known beforehand. [`run`] reads the time from a table of all steps and lets the choice of the row
//! sink below the time embedding, by the law
//!
//! > `f(row_k(S)) = row_k(f(S))` for every `f` that treats rows alike,
//!
//! so that the embedding of the whole schedule lands in the prologue. What every block then makes of the row and a weight of its own is one
//! call for all of them.

use std::collections::{BTreeMap, HashMap};

use ccl_ir::ops::{self, BinaryKind};
use ccl_ir::{Binding, DType, Graph, IrError, Node, NodeId, Op, TensorType, Value, Work};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::{Record, module};

/// Name of the flow time's input.
const TIME: &str = "t";

/// Replaces the step's `t [B]` by row `step` of `schedule [rows, B]`, and sinks the choice of the row.
///
/// # Errors
/// Never on a verified graph.
pub fn run(graph: &Graph, rows: usize, record: &mut Record) -> Result<Graph, PassError> {
    let err = PassError::ir("hoist");
    let is_time = |op: &Op| matches!(op, Op::Input(i) if i.name == TIME && i.binding == Binding::Step);
    if !graph.nodes().iter().any(|n| is_time(&n.op)) {
        return Ok(graph.clone());
    }
    let bindings = graph.bindings();
    let mut re = Rebuild::new(graph);
    // New value -> the table of which it is a row.
    let mut tables: HashMap<Value, Value> = HashMap::new();
    let step = re.new.input("step", TensorType::new(DType::I32, []), Binding::Step).map_err(&err)?;
    for (id, node) in graph.iter() {
        if is_time(&node.op) {
            let mut shape = vec![rows];
            shape.extend(&node.types[0].shape);
            let table = re.new.input("schedule", TensorType::f32(shape), Binding::Prologue).map_err(&err)?;
            let row = re.put(id, ops::Index {}.into(), &[table, step]).map_err(&err)?;
            tables.insert(row, table);
            let reason = format!("the schedule is known before the first step ({rows} rows)");
            record.applied("hoist", "time from the schedule", TIME, reason, 0, 0);
            continue;
        }
        let inputs = re.inputs(node);
        let Some(&table) = inputs.first().and_then(|v| tables.get(v)) else {
            if let Some(i) = inputs.iter().position(|v| tables.contains_key(v)) {
                refuse(record, node.op.name(), &node.at, &node.types[0], rows, i);
            }
            re.keep(id).map_err(&err)?;
            continue;
        };
        let early = node.inputs[1..].iter().all(|v| bindings[v.node.index()] == Binding::Load);
        let row_wise = row_wise(&node.op, rows).filter(|_| early);
        let Some(op) = row_wise.filter(|_| record.allow("hoist", "row choice sinks", &node.at)) else {
            refuse(record, node.op.name(), &node.at, &node.types[0], rows, 0);
            re.keep(id).map_err(&err)?;
            continue;
        };
        let mut wide = vec![table];
        wide.extend(&inputs[1..]);
        let result = re.new.add(node.at.clone(), op, &wide).map_err(&err)?;
        let row = re.put(id, ops::Index {}.into(), &[result, step]).map_err(&err)?;
        tables.insert(row, result);
        let moved = graph.work(id);
        let reason = "f(row k of S) = row k of f(S): computed for the whole schedule at once";
        record.applied("hoist", "row choice sinks", &node.at, reason, -(moved.flops as i64), -(moved.bytes as i64));
    }
    together(&re.finish(), record)
}

/// Sums of one row with the weights of many blocks as one sum with all of them, by the law
///
/// > `(a + r, b + r, ..) = (a, b, ..) + r`:
///
/// what the schedule leaves to the step are then a few calls, however many blocks there are.
fn together(graph: &Graph, record: &mut Record) -> Result<Graph, PassError> {
    let err = PassError::ir("hoist");
    // A sum's row, and its weight, which broadcasts to the row.
    let operands = |node: &Node| -> Option<(Value, Value)> {
        if !matches!(&node.op, Op::Binary(b) if b.kind == BinaryKind::Add) {
            return None;
        }
        let pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])];
        let fits = |&(row, weight): &(Value, Value)| {
            let ops = (graph.op(row), graph.op(weight));
            matches!(ops, (Op::Index(_), Op::Weight(_))) && *graph.ty(row) == node.types[0]
        };
        pairs.into_iter().find(fits)
    };
    // Sums of one row with weights of one type, in the graph's order.
    let mut groups: Vec<(Value, Vec<(NodeId, Value)>)> = Vec::new();
    for (id, node) in graph.iter() {
        let Some((row, weight)) = operands(node) else { continue };
        let alike = |(r, of): &&mut (Value, Vec<(NodeId, Value)>)| *r == row && graph.ty(of[0].1) == graph.ty(weight);
        match groups.iter_mut().find(alike) {
            Some((_, members)) => members.push((id, weight)),
            None => groups.push((row, vec![(id, weight)])),
        }
    }
    groups.retain(|(_, members)| members.len() > 1);
    groups.retain(|(_, members)| record.allow("hoist", "sums of a row together", &graph.node(members[0].0).at));
    let mut places: HashMap<NodeId, (usize, usize)> = HashMap::new();
    for (g, (_, members)) in groups.iter().enumerate() {
        places.extend(members.iter().enumerate().map(|(n, (id, _))| (*id, (g, n))));
    }
    let mut re = Rebuild::new(graph);
    let mut sums: Vec<Option<Value>> = vec![None; groups.len()];
    for (id, node) in graph.iter() {
        let Some(&(g, n)) = places.get(&id) else {
            re.keep(id).map_err(&err)?;
            continue;
        };
        let sum = match sums[g] {
            Some(sum) => sum,
            None => all_of(&mut re, &groups[g], &outside(&node.at), record).map_err(&err)?,
        };
        sums[g] = Some(sum);
        let mut view = |op: Op, v: Value| re.new.add(node.at.clone(), op, &[v]).map_err(&err);
        let own = view(ops::Slice { axis: 0, start: n, len: 1 }.into(), sum)?;
        let own = view(ops::Reshape { shape: node.types[0].shape.clone() }.into(), own)?;
        re.replace(id, own);
    }
    Ok(re.finish())
}

/// A row with the weights of a group of sums, one behind the other.
fn all_of(
    re: &mut Rebuild<'_>,
    (row, members): &(Value, Vec<(NodeId, Value)>),
    at: &str,
    record: &mut Record,
) -> Result<Value, IrError> {
    let (graph, row) = (re.old, re.get(*row));
    let rank = re.new.ty(row).rank();
    let mut parts = Vec::with_capacity(members.len());
    for (_, weight) in members {
        let ty = graph.ty(*weight);
        let weight = re.new.weight(graph.op(*weight).given_name().unwrap_or_default(), ty.clone())?;
        let shape = [&vec![1; 1 + rank - ty.rank()], &ty.shape[..]].concat();
        parts.push(re.new.add(at, ops::Reshape { shape }, &[weight])?);
    }
    let all = re.new.add(at, ops::Concat { axis: 0 }, &parts)?;
    let reason = format!("{} sums with weights as one call: only the row changes with the step", members.len());
    record.applied("hoist", "sums of a row together", at, reason, 0, 0);
    re.new.add(at, ops::Binary { kind: BinaryKind::Add }, &[all, row])
}

/// The path without its block: `cond/video.blocks.3.modulation` as `cond/video.modulation`.
fn outside(at: &str) -> String {
    match at.split_once(".blocks.") {
        Some((stream, rest)) => format!("{stream}.{}", rest.split_once('.').map_or(rest, |(_, part)| part)),
        None => at.to_owned(),
    }
}

fn refuse(record: &mut Record, op: &str, at: &str, ty: &TensorType, rows: usize, operand: usize) {
    let reason = format!(
        "`{op}` mixes the step's row (operand {operand}) with other values: keeping {rows} rows of {ty} would cost {} bytes \
         and save no matrix product",
        rows as u64 * ty.bytes()
    );
    record.refused("hoist", "row choice sinks", at, reason);
}

/// The operator that does to every row of a table what `op` does to one row.
fn row_wise(op: &Op, rows: usize) -> Option<Op> {
    match op {
        Op::TimeFeatures(_) | Op::Unary(_) => Some(op.clone()),
        Op::Linear(l) if l.epilogue.is_none() => Some(op.clone()),
        Op::Slice(s) => Some(ops::Slice { axis: s.axis + 1, ..s.clone() }.into()),
        Op::Reshape(r) => {
            let mut shape = vec![rows];
            shape.extend(&r.shape);
            Some(ops::Reshape { shape }.into())
        }
        _ => None,
    }
}

/// Records what each entry other than `step` computes, module by module.
pub fn report(graph: &Graph, record: &mut Record) {
    let bindings = graph.bindings();
    let mut moved: BTreeMap<(Binding, &str), (usize, Work)> = BTreeMap::new();
    for (id, node) in graph.iter() {
        let early = bindings[id.index()];
        let work = graph.work(id);
        if early != Binding::Step && (work.flops > 0 || matches!(node.op, Op::RopeTable(_) | Op::WindowMask(_))) {
            let entry = moved.entry((early, module(&node.at))).or_default();
            entry.0 += 1;
            entry.1 = entry.1 + work;
        }
    }
    for ((binding, at), (count, work)) in moved {
        let why = match binding {
            Binding::Load => "depends on weights alone: once per model",
            Binding::Prologue => "does not change from step to step: once per clip and prompt",
            _ => "depends on the last step's result: once, after the loop",
        };
        let reason = format!("{why} ({count} operations)");
        let rule = format!("to {binding}");
        record.applied("bind", &rule, at, reason, -(work.flops as i64), -(work.bytes as i64));
    }
}
