//! How named tensors are made to fit a plan's inputs: counts, padding, references and noise levels.

use ccl_ir::plan::Port;
use ccl_ir::{Binding, DType, Plan, TensorType};

use crate::error::RuntimeError;
use crate::host::{HostData, HostTensor};
use crate::inputs::Inputs;

/// Input with the noise levels, one row per step.
pub(crate) const SCHEDULE: &str = "schedule";
/// Input with the row of the schedule that a step uses.
pub(crate) const STEP: &str = "step";
/// Input with the noise level of a step, in plans without a schedule.
pub(crate) const TIME: &str = "t";
/// What the name of a count adds to the name of what it counts.
const COUNT: &str = "_len";
/// What the name of a clean latent adds to the name of its stream.
const REFERENCE: &str = "reference.";

/// Whether the session itself writes this input.
pub(crate) fn is_clock(port: &Port) -> bool {
    matches!(port.name.as_str(), SCHEDULE | STEP | TIME)
}

/// Whether this input counts the tokens of another.
pub(crate) fn is_count(port: &Port) -> bool {
    port.name.ends_with(COUNT) && port.operand.ty == TensorType::new(DType::I32, [])
}

/// The name under which callers usually give what this input needs.
pub(crate) fn given_name(port: &Port) -> &str {
    let name = port.name.as_str();
    if is_count(port) { &name[..name.len() - COUNT.len()] } else { name.strip_prefix(REFERENCE).unwrap_or(name) }
}

/// The input that holds the schedule, with its index.
pub(crate) fn schedule_port(plan: &Plan) -> Option<(usize, &Port)> {
    plan.inputs.iter().enumerate().find(|(_, p)| p.name == SCHEDULE)
}

/// Checks that the inputs which the session writes have the types that it writes, and that none is read at load.
pub(crate) fn check_plan(plan: &Plan) -> Result<(), RuntimeError> {
    let refuse = |port: &Port, problem: String| Err(RuntimeError::input("plan", &port.name, problem));
    let batch = clock_batch(plan);
    for port in &plan.inputs {
        let ty = &port.operand.ty;
        let fits = match port.name.as_str() {
            SCHEDULE => ty.dtype == DType::F32 && ty.rank() == 2,
            TIME => ty.dtype == DType::F32 && ty.rank() == 1 && Some(ty.last()) == batch,
            STEP => ty.dtype == DType::I32 && ty.rank() == 0 && plan.input(SCHEDULE).is_some(),
            _ => true,
        };
        if !fits {
            return refuse(port, format!("is {ty}, which no schedule fits"));
        }
        if port.binding == Binding::Load {
            return refuse(port, "is read at load, which takes weights only".into());
        }
    }
    Ok(())
}

fn bad(name: &str, problem: impl Into<String>) -> RuntimeError {
    RuntimeError::input("inputs", name, problem)
}

/// The levels among the inputs as a table `[steps, batch]`; `None` where the plan asks for none.
pub(crate) fn schedule(plan: &Plan, inputs: &Inputs) -> Result<Option<HostTensor>, RuntimeError> {
    let Some(batch) = clock_batch(plan) else { return Ok(None) };
    let table = if let Some(&[steps, _]) = inputs.shape(SCHEDULE) {
        inputs.get(SCHEDULE, &TensorType::f32([steps, batch]))?.into_owned()
    } else {
        let t = inputs.get(TIME, &TensorType::f32([batch]))?.into_owned();
        HostTensor { shape: vec![1, batch], data: t.data }
    };
    check_schedule(plan, &table)?;
    Ok(Some(table))
}

/// Checks a table of levels against the plan's batch.
pub(crate) fn check_schedule(plan: &Plan, table: &HostTensor) -> Result<(), RuntimeError> {
    let Some(batch) = clock_batch(plan) else { return Ok(()) };
    let steps = table.shape.first().copied().unwrap_or(0);
    if table.shape.len() != 2 || steps == 0 || i32::try_from(steps).is_err() {
        return Err(bad(SCHEDULE, format!("is {}; give one row of levels per step, f32[steps,{batch}]", table.ty())));
    }
    table.check(SCHEDULE, &TensorType::f32([steps, batch]))?;
    finite(SCHEDULE, table)
}

/// Number of levels per step that the plan asks for, if it asks for any.
pub(crate) fn clock_batch(plan: &Plan) -> Option<usize> {
    plan.input(SCHEDULE).or_else(|| plan.input(TIME)).map(|p| p.operand.ty.last())
}

/// Rows of a table of levels from `first` on, as `ty` wants them; behind the last row it repeats.
pub(crate) fn rows(table: &HostTensor, first: usize, ty: &TensorType) -> HostTensor {
    let (count, width) = (table.shape[0], table.shape[1]);
    let wanted = ty.elements() as usize / width;
    let levels = table.as_f32().unwrap_or_default();
    let data = (first..first + wanted).flat_map(|k| &levels[k.min(count - 1) * width..][..width]).copied().collect();
    HostTensor { shape: ty.shape.clone(), data: HostData::F32(data) }
}

/// The value that an input gets for a clip; `None` where the caller has none for it.
pub(crate) fn fit(plan: &Plan, port: &Port, inputs: &Inputs) -> Result<Option<HostTensor>, RuntimeError> {
    let want = &port.operand.ty;
    if is_count(port) {
        // A count is what its tensor has; its bounds are checked with the tensor.
        let count = inputs.shape(given_name(port)).and_then(|s| s.get(1)).and_then(|&n| i32::try_from(n).ok());
        return Ok(count.map(|n| HostTensor::i32([], vec![n])));
    }
    let own = port.name.as_str();
    let Some(name) = [own, given_name(port)].into_iter().find(|n| inputs.contains(n)) else { return Ok(None) };
    let value = if plan.input(&format!("{own}{COUNT}")).is_some() && want.rank() == 3 {
        let tokens = inputs.shape(name).and_then(|s| s.get(1)).copied().unwrap_or(1);
        check_tokens(name, tokens, want.shape[1]).map_err(|problem| inputs.problem(name, problem))?;
        let given = inputs.get_up_to(name, want, 1)?;
        given.check(name, &want.with_shape([want.shape[0], tokens, want.shape[2]]))?;
        pad(&given, want)
    } else {
        let given = inputs.get(name, want)?;
        given.check(name, want)?;
        given.into_owned()
    };
    finite(name, &value)?;
    Ok(Some(value))
}

/// Whether every number can be given to a plan.
pub(crate) fn finite(name: &str, tensor: &HostTensor) -> Result<(), RuntimeError> {
    if tensor.is_finite() { Ok(()) } else { Err(bad(name, "holds a value that is no finite number")) }
}

/// Whether a plan with room for `capacity` tokens takes as many as there are.
fn check_tokens(name: &str, tokens: usize, capacity: usize) -> Result<(), String> {
    if tokens == 0 {
        return Err("has no tokens; give at least one".into());
    }
    if tokens > capacity {
        let option = if name == "image" { "--image-tokens" } else { "--text-tokens" };
        return Err(format!(
            "has {tokens} tokens, the plan has room for {capacity}; compile it with {option} {tokens}"
        ));
    }
    Ok(())
}

/// Fills `[batch, tokens, width]` with zero tokens up to the plan's capacity.
fn pad(tensor: &HostTensor, want: &TensorType) -> HostTensor {
    let source = tensor.as_f32().unwrap_or_default();
    let (batch, clip) = (want.shape[0], want.shape[1] * want.shape[2]);
    let there = source.len() / batch;
    let mut data = vec![0.0; batch * clip];
    for (to, from) in data.chunks_exact_mut(clip).zip(source.chunks_exact(there)) {
        to[..there].copy_from_slice(from);
    }
    HostTensor { shape: want.shape.clone(), data: HostData::F32(data) }
}
