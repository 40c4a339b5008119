//! Binding times: every value is computed at the earliest moment that it can be.
//!
//! Values that depend on weights alone belong to `load`, those that also need the prompt or a clean latent to `prologue`.
//! That follows from the graph ([`Graph::bindings`]) and needs no rewriting. One thing does: the flow time changes in every
//! step, but the schedule is known beforehand. [`run`] reads the time from a table of all steps and lets the choice of the row
//! sink below the time embedding, by the law
//!
//! > `f(row_k(S)) = row_k(f(S))` for every `f` that treats rows alike,
//!
//! so that the embedding of the whole schedule lands in the prologue.

use std::collections::{BTreeMap, HashMap};

use ccl_ir::{Binding, DType, Graph, Op, TensorType, Value, Work, ops};

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
    Ok(re.finish())
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
