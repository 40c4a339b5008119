//! Derivatives of functions of one and two numbers, and of chains of them.

use super::{Backward, Gradients};
use crate::chain::{Arg, Chain, Instr};
use crate::error::IrError;
use crate::graph::Value;
use crate::ops::{Binary, BinaryKind, Constant, Unary, UnaryKind};
use crate::types::TensorType;

fn apply(cx: &mut Backward<'_>, kind: BinaryKind, a: Value, b: Value) -> Result<Value, IrError> {
    cx.add(Binary { kind }, &[a, b])
}

/// Gradient of `x` for `y = kind(x)`.
pub fn unary(cx: &mut Backward<'_>, kind: UnaryKind, x: Value, y: Value, g: Value) -> Result<Value, IrError> {
    let slope = match kind {
        UnaryKind::Neg => return cx.add(Unary { kind: UnaryKind::Neg }, &[g]),
        UnaryKind::Exp => y,
        UnaryKind::Silu => cx.add(Unary { kind: UnaryKind::SiluGrad }, &[x])?,
        UnaryKind::GeluTanh => cx.add(Unary { kind: UnaryKind::GeluTanhGrad }, &[x])?,
        UnaryKind::GeluErf => cx.add(Unary { kind: UnaryKind::GeluErfGrad }, &[x])?,
        UnaryKind::SiluGrad | UnaryKind::GeluTanhGrad | UnaryKind::GeluErfGrad => {
            return Err(cx.error("is a derivative already: there are no second ones"));
        }
    };
    apply(cx, BinaryKind::Mul, g, slope)
}

/// Gradients of `a` and `b` for `kind(a, b)`, summed over what was broadcast.
pub fn binary(cx: &mut Backward<'_>, kind: BinaryKind, [a, b]: [Value; 2], g: Value, wanted: [bool; 2]) -> Gradients {
    let mut out = vec![None, None];
    for (i, (own, other)) in [(a, b), (b, a)].into_iter().enumerate() {
        if !wanted[i] {
            continue;
        }
        let full = match kind {
            BinaryKind::Add => g,
            BinaryKind::Sub if i == 0 => g,
            BinaryKind::Sub => cx.add(Unary { kind: UnaryKind::Neg }, &[g])?,
            BinaryKind::Mul => apply(cx, BinaryKind::Mul, g, other)?,
        };
        let shape = cx.shape(own);
        out[i] = Some(cx.sum_to(full, &shape)?);
    }
    Ok(out)
}

/// Gradients of a chain's inputs, given that of its result: the chain is computed again step by step.
pub fn chain(cx: &mut Backward<'_>, chain: &Chain, inputs: &[Value], g: Value, wanted: &[bool]) -> Gradients {
    let mut results: Vec<Value> = Vec::new();
    // Operands of each step, and whether a wanted input is below them.
    let mut operands: Vec<Vec<(Arg, Value)>> = Vec::new();
    let mut reached: Vec<bool> = Vec::new();
    let below = |a: Arg, reached: &[bool]| match a {
        Arg::In(n) => wanted[n as usize],
        Arg::Step(n) => reached[n as usize],
        Arg::Const(_) => false,
    };
    for step in &chain.steps {
        let mut own = Vec::new();
        for arg in step.args() {
            let value = match arg {
                Arg::In(n) => inputs[n as usize],
                Arg::Step(n) => results[n as usize],
                Arg::Const(value) => cx.add(Constant { ty: TensorType::f32([]), value }, &[])?,
            };
            own.push((arg, value));
        }
        let values: Vec<Value> = own.iter().map(|(_, v)| *v).collect();
        results.push(match *step {
            Instr::Unary(kind, _) => cx.add(Unary { kind }, &values)?,
            Instr::Binary(kind, ..) => cx.add(Binary { kind }, &values)?,
        });
        reached.push(own.iter().any(|(a, _)| below(*a, &reached)));
        operands.push(own);
    }
    let mut of_inputs: Vec<Option<Value>> = vec![None; inputs.len()];
    let mut of_steps: Vec<Option<Value>> = vec![None; results.len()];
    let last = results.len() - 1;
    let shape = cx.shape(results[last]);
    of_steps[last] = Some(cx.sum_to(g, &shape)?);
    for i in (0..results.len()).rev() {
        let Some(g) = of_steps[i].filter(|_| reached[i]) else { continue };
        let own = &operands[i];
        let found = match chain.steps[i] {
            Instr::Unary(kind, _) => vec![Some(unary(cx, kind, own[0].1, results[i], g)?)],
            Instr::Binary(kind, ..) => {
                let wanted = [below(own[0].0, &reached), below(own[1].0, &reached)];
                binary(cx, kind, [own[0].1, own[1].1], g, wanted)?
            }
        };
        for (&(arg, _), gradient) in own.iter().zip(found) {
            let slot = match arg {
                Arg::In(n) => &mut of_inputs[n as usize],
                Arg::Step(n) => &mut of_steps[n as usize],
                Arg::Const(_) => continue,
            };
            *slot = match (*slot, gradient) {
                (Some(before), Some(more)) => Some(apply(cx, BinaryKind::Add, before, more)?),
                (before, more) => more.or(before),
            };
        }
    }
    Ok(of_inputs)
}
