//! The optimiser as graph: from gradients to the next parameters, in place.
//!
//! What is known at the step (gradients, their norm) is computed there; the update belongs to the epilogue, so that the host may look at the loss and the
//! norm between the two, and leave an update out. Everything that lives on is a state: `adam.m.<p>` and `adam.v.<p>` of every
//! parameter `<p>` that is trained, `adam.count` with the number of steps of each, `ema.<p>` where an average is kept, `sum.<p>` where gradients
//! of several steps are added up.
//!
//! A parameter, its moments and its average go through one call. The steps of all parameters are counted by one call before: they are
//! different numbers, for a task steps those parameters alone that it has a gradient of.

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::ops::{AdamW, Binary, BinaryKind, Concat, Constant, Reduce, Reshape, Slice};
use ccl_ir::{Binding, Graph, IrError, TensorType, Value};

use crate::differentiate::GRADIENT;
use crate::error::PassError;
use crate::record::Record;

/// Epilogue input `rates [groups]`: the learning rate of each group.
pub const RATES: &str = "rates";
/// Epilogue input, a number: gradients are multiplied by it before they are used (clipping, loss scale, number of batches).
pub const SCALE: &str = "scale";
/// Epilogue input, a number: how far averages move towards the new parameters.
pub const AVERAGE: &str = "average";
/// Epilogue input, a number: by how much an update raises the number of steps, which is 1. States alone are known at the step; this makes
/// counting a part of the update.
pub const COUNTED: &str = "adam.counted";
/// State `[parameters]`: the number of steps of each parameter that is trained, in the order of their names.
pub const COUNT: &str = "adam.count";
/// Step input, a number: what stays of the sums of gradients so far: 0 in the first batch of an update, 1 in the others.
pub const KEEP: &str = "keep";
/// Step output: the sum of the squares of all gradients.
pub const NORM: &str = "grad_norm_squared";

/// How parameters are updated.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimiser {
    /// Decay of AdamW's first moment.
    pub beta1: f64,
    /// Decay of its second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of each group of parameters.
    pub decays: Vec<f64>,
    /// Every parameter that is trained: its type, and its group.
    pub parameters: BTreeMap<String, (TensorType, usize)>,
    /// Whether averages of the parameters are kept.
    pub average: bool,
    /// Whether gradients of several steps are added up before an update.
    pub accumulate: bool,
}

impl Optimiser {
    /// The names of the parameters that are trained.
    pub fn trained(&self) -> BTreeSet<String> {
        self.parameters.keys().cloned().collect()
    }

    /// Every state that training keeps beside the parameters.
    pub fn states(&self) -> Vec<(String, TensorType)> {
        let mut out = vec![(COUNT.to_owned(), TensorType::f32([self.parameters.len()]))];
        for (name, (ty, _)) in &self.parameters {
            out.push((format!("adam.m.{name}"), ty.clone()));
            out.push((format!("adam.v.{name}"), ty.clone()));
            if self.accumulate {
                out.push((format!("sum.{name}"), ty.clone()));
            }
            if self.average {
                out.push((format!("ema.{name}"), ty.clone()));
            }
        }
        out
    }
}

/// Turns the outputs `grad.<p>` into updates of the states `<p>`, and adds the output `grad_norm_squared`. Parameters without a gradient stay as they are, and
/// so do their moments; their averages move on.
///
/// # Errors
/// When a gradient is of a parameter that has no group: a fault of the caller.
pub fn run(graph: &Graph, optimiser: &Optimiser, record: &mut Record) -> Result<Graph, PassError> {
    let mut g = graph.clone();
    let gradients: Vec<(String, Value)> =
        g.outputs.iter().filter_map(|o| Some((o.name.strip_prefix(GRADIENT)?.to_owned(), o.value))).collect();
    g.outputs.retain(|o| !o.name.starts_with(GRADIENT));
    add(&mut g, optimiser, &gradients).map_err(PassError::ir("optimise"))?;
    let averages = if optimiser.average { " and their averages" } else { "" };
    let reason = format!("AdamW on {} parameters{averages}, in place", gradients.len());
    record.applied("optimise", "update", "adam", reason, 0, 0);
    Ok(g)
}

fn add(g: &mut Graph, optimiser: &Optimiser, gradients: &[(String, Value)]) -> Result<(), IrError> {
    let scalar = || TensorType::f32([]);
    let rates = g.input(RATES, TensorType::f32([optimiser.decays.len()]), Binding::Epilogue)?;
    let scale = g.input(SCALE, scalar(), Binding::Epilogue)?;
    let way = if optimiser.average { Some(g.input(AVERAGE, scalar(), Binding::Epilogue)?) } else { None };
    let places: BTreeMap<&str, usize> = optimiser.parameters.keys().map(String::as_str).zip(0..).collect();
    let stepped: BTreeSet<&str> = gradients.iter().map(|(name, _)| name.as_str()).collect();
    let count = counts(g, optimiser, &stepped)?;
    let mut squares = Vec::new();
    for (name, gradient) in gradients {
        let at = format!("adam/{name}");
        let binary = |g: &mut Graph, kind, a, b| g.add(at.clone(), Binary { kind }, &[a, b]);
        let parameter = g.state(name, g.ty(*gradient).clone())?;
        let ty = g.ty(parameter).clone();
        let mut gradient = *gradient;
        if optimiser.accumulate {
            let state = format!("sum.{name}");
            let (sum, keep) = (g.state(&state, ty.clone())?, g.input(KEEP, scalar(), Binding::Step)?);
            let kept = binary(g, BinaryKind::Mul, sum, keep)?;
            gradient = binary(g, BinaryKind::Add, kept, gradient)?;
            g.update(&state, gradient);
        }
        let square = binary(g, BinaryKind::Mul, gradient, gradient)?;
        let square = Reduce::total(g, &at, square)?;
        squares.push(g.add(at.clone(), Reshape { shape: vec![1] }, &[square])?);
        let [m, v, average] = ["adam.m", "adam.v", "ema"].map(|part| format!("{part}.{name}"));
        // A place or a group that does not exist is refused as such.
        let start = places.get(name.as_str()).copied().unwrap_or(places.len());
        let t = g.add(at.clone(), Slice { axis: 0, start, len: 1 }, &[count])?;
        let t = g.add(at.clone(), Reshape { shape: Vec::new() }, &[t])?;
        let (first, second) = (g.state(&m, ty.clone())?, g.state(&v, ty.clone())?);
        let mut inputs = vec![parameter, first, second, t, gradient, rates, scale];
        let mut states = vec![name, &m, &v];
        if let Some(way) = way {
            inputs.extend([g.state(&average, ty)?, way]);
            states.push(&average);
        }
        let group = optimiser.parameters.get(name).map_or(usize::MAX, |(_, group)| *group);
        let decay = optimiser.decays.get(group).copied().unwrap_or(f64::NAN);
        let (beta1, beta2, eps) = (optimiser.beta1, optimiser.beta2, optimiser.eps);
        let first = g.add(at, AdamW { beta1, beta2, eps, decay, group }, &inputs)?;
        for (port, state) in states.into_iter().enumerate() {
            g.update(state, Value { node: first.node, port: port as u8 });
        }
    }
    if !squares.is_empty() {
        let all = g.add("adam/norm", Concat { axis: 0 }, &squares)?;
        let norm = g.add("adam/norm", Reduce::to([]), &[all])?;
        g.output(NORM, norm, None);
    }
    match way {
        Some(way) => averages(g, optimiser, &stepped, way),
        None => Ok(()),
    }
}

/// The number of steps of every parameter with this one: one more where there is a gradient.
fn counts(g: &mut Graph, optimiser: &Optimiser, stepped: &BTreeSet<&str>) -> Result<Value, IrError> {
    let at = "adam/count";
    let ty = TensorType::f32([optimiser.parameters.len()]);
    let (before, one) = (g.state(COUNT, ty)?, g.input(COUNTED, TensorType::f32([]), Binding::Epilogue)?);
    let steps: Vec<bool> = optimiser.parameters.keys().map(|name| stepped.contains(name.as_str())).collect();
    let mut more = one;
    if steps.contains(&false) {
        // Which of them step, as runs of ones and zeros.
        let mut runs = Vec::new();
        for run in steps.chunk_by(|a, b| a == b) {
            let (ty, value) = (TensorType::f32([run.len()]), f64::from(u8::from(run[0])));
            runs.push(g.add(at, Constant { ty, value }, &[])?);
        }
        let which = g.add(at, Concat { axis: 0 }, &runs)?;
        more = g.add(at, Binary { kind: BinaryKind::Mul }, &[which, one])?;
    }
    let next = g.add(at, Binary { kind: BinaryKind::Add }, &[before, more])?;
    g.update(COUNT, next);
    Ok(next)
}

/// `ema + way (p - ema)` for the parameters that have no step, and stay as they are.
fn averages(g: &mut Graph, optimiser: &Optimiser, stepped: &BTreeSet<&str>, way: Value) -> Result<(), IrError> {
    for (name, (ty, _)) in optimiser.parameters.iter().filter(|(name, _)| !stepped.contains(name.as_str())) {
        let (at, state) = (format!("ema/{name}"), format!("ema.{name}"));
        let (average, parameter) = (g.state(&state, ty.clone())?, g.state(name, ty.clone())?);
        let binary = |g: &mut Graph, kind, a, b| g.add(at.clone(), Binary { kind }, &[a, b]);
        let apart = binary(g, BinaryKind::Sub, parameter, average)?;
        let step = binary(g, BinaryKind::Mul, apart, way)?;
        let moved = binary(g, BinaryKind::Add, average, step)?;
        g.update(&state, moved);
    }
    Ok(())
}
