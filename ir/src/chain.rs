//! Short elementwise programs: what a fused kernel computes per element.

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::ops::{BinaryKind, UnaryKind};
use crate::tensor::Real;

/// The most steps in one chain: longer ones cost compile time on GPUs and win nothing.
pub const MAX_STEPS: usize = 24;

/// Where an operand of a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arg {
    /// An input of the chain.
    In(u16),
    /// The result of an earlier step.
    Step(u16),
    /// A number.
    Const(f64),
}

/// One elementwise operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instr {
    /// A function of one operand.
    Unary(UnaryKind, Arg),
    /// A function of two operands.
    Binary(BinaryKind, Arg, Arg),
}

impl Instr {
    /// The operands.
    pub fn args(&self) -> impl Iterator<Item = Arg> {
        let (a, b) = match *self {
            Instr::Unary(_, a) => (a, None),
            Instr::Binary(_, a, b) => (a, Some(b)),
        };
        std::iter::once(a).chain(b)
    }

    fn args_mut(&mut self) -> impl Iterator<Item = &mut Arg> {
        let (a, b) = match self {
            Instr::Unary(_, a) => (a, None),
            Instr::Binary(_, a, b) => (a, Some(b)),
        };
        std::iter::once(a).chain(b)
    }
}

/// A chain of elementwise steps; the last step is the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// Number of inputs.
    pub inputs: u16,
    /// Steps in order.
    pub steps: Vec<Instr>,
}

impl Chain {
    /// The chain with one step that reads the inputs in order.
    pub fn unary(kind: UnaryKind) -> Self {
        Self { inputs: 1, steps: vec![Instr::Unary(kind, Arg::In(0))] }
    }

    /// The chain with one step on two inputs.
    pub fn binary(kind: BinaryKind) -> Self {
        Self { inputs: 2, steps: vec![Instr::Binary(kind, Arg::In(0), Arg::In(1))] }
    }

    /// Checks that every operand exists before it is used and every input is used.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn check(&self) -> Result<(), Problem> {
        crate::ensure!(!self.steps.is_empty(), "an elementwise chain has no steps");
        crate::ensure!(
            self.steps.len() <= MAX_STEPS,
            "an elementwise chain has {} steps, at most {MAX_STEPS} are allowed",
            self.steps.len()
        );
        let mut used = vec![false; self.inputs as usize];
        for (i, step) in self.steps.iter().enumerate() {
            for arg in step.args() {
                match arg {
                    Arg::In(n) => {
                        let slot = used.get_mut(n as usize);
                        let Some(slot) = slot else {
                            return Err(Problem::new(format!("chain step {i} reads input {n} of {}", self.inputs)));
                        };
                        *slot = true;
                    }
                    Arg::Step(n) => crate::ensure!((n as usize) < i, "chain step {i} reads step {n}"),
                    Arg::Const(c) => crate::ensure!(c.is_finite(), "chain step {i} has the constant {c}"),
                }
            }
        }
        match used.iter().position(|u| !u) {
            Some(n) => Err(Problem::new(format!("the chain never reads its input {n}"))),
            None => Ok(()),
        }
    }

    /// Value of the chain for one element.
    pub fn eval<T: Real>(&self, inputs: &[T]) -> T {
        let mut results: Vec<T> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let get = |a: Arg| match a {
                Arg::In(n) => inputs[n as usize],
                Arg::Step(n) => results[n as usize],
                Arg::Const(c) => T::from_f64(c),
            };
            let value = match *step {
                Instr::Unary(kind, a) => kind.apply(get(a)),
                Instr::Binary(kind, a, b) => kind.apply(get(a), get(b)),
            };
            results.push(value);
        }
        results.pop().unwrap_or_default()
    }

    /// `self` with its input `slot` replaced by the result of `inner`.
    ///
    /// The inputs of the result are the inputs of `self` in order, `slot` left out, then
    /// those of `inner`. Returns `None` when the result would be longer than [`MAX_STEPS`].
    pub fn inline(&self, slot: u16, inner: &Chain) -> Option<Chain> {
        if self.steps.len() + inner.steps.len() > MAX_STEPS {
            return None;
        }
        let kept = self.inputs - 1;
        let shift = inner.steps.len() as u16;
        let mut steps = inner.steps.clone();
        for arg in steps.iter_mut().flat_map(Instr::args_mut) {
            if let Arg::In(n) = arg {
                *n += kept;
            }
        }
        for step in &self.steps {
            let mut step = *step;
            for arg in step.args_mut() {
                *arg = match *arg {
                    Arg::In(n) if n == slot => Arg::Step(shift - 1),
                    Arg::In(n) => Arg::In(if n > slot { n - 1 } else { n }),
                    Arg::Step(n) => Arg::Step(n + shift),
                    c => c,
                };
            }
            steps.push(step);
        }
        Some(Chain { inputs: kept + inner.inputs, steps })
    }

    /// Makes inputs `a` and `b` the same one (`a` stays); used when both read one value.
    pub fn merge_inputs(&mut self, a: u16, b: u16) {
        for arg in self.steps.iter_mut().flat_map(Instr::args_mut) {
            if let Arg::In(n) = arg {
                *n = match *n {
                    n if n == b => a,
                    n if n > b => n - 1,
                    n => n,
                };
            }
        }
        self.inputs -= 1;
    }

    /// Replaces input `slot` by a number.
    pub fn bind_constant(&mut self, slot: u16, value: f64) {
        for arg in self.steps.iter_mut().flat_map(Instr::args_mut) {
            *arg = match *arg {
                Arg::In(n) if n == slot => Arg::Const(value),
                Arg::In(n) if n > slot => Arg::In(n - 1),
                other => other,
            };
        }
        self.inputs -= 1;
    }

    /// A short formula for people: `silu(a) * b + c`.
    pub fn formula(&self) -> String {
        let name = |n: u16| char::from(b'a' + (n % 26) as u8).to_string();
        let mut texts: Vec<String> = Vec::new();
        for step in &self.steps {
            let get = |a: Arg| match a {
                Arg::In(n) => name(n),
                Arg::Step(n) => texts[n as usize].clone(),
                Arg::Const(c) => c.to_string(),
            };
            let text = match *step {
                Instr::Unary(k, a) => format!("{}({})", k.name(), get(a)),
                Instr::Binary(k, a, b) => format!("({} {} {})", get(a), k.symbol(), get(b)),
            };
            texts.push(text);
        }
        texts.pop().unwrap_or_default()
    }
}
