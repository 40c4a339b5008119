//! Gradient of a normalisation to its input.

use serde::{Deserialize, Serialize};

use super::layer_norm::statistics;
use super::{BinaryKind, Reduce, Slice, float};
use crate::chain::{Arg, Chain, Instr};
use crate::error::{IrError, Problem};
use crate::grad::Backward;
use crate::graph::Value;
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::{TensorType, broadcast};

/// For `y = x^ * w`, `x^ = (x - mean) * r` (LayerNorm) or `x^ = x * r` (RMSNorm) over the last dimension, and a gradient `g` of
/// `y`: `dx = r (gw - mean(gw) - x^ mean(gw x^))`, the second term only where `centered`, `gw = g * w`.
///
/// Inputs: `x [.., d]`, `g [.., d]`, and where `scaled` the factor `w`, which broadcasts to `x`'s shape (`w + 1` counts where
/// `one_plus`). Outputs: `dx`, and the rows' `(mean, r)` as `f32 [.., 2]` (mean 0 where not `centered`), from which the gradient of
/// the factor is one [`super::Reduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormGrad {
    /// Added to the variance or the mean square.
    pub eps: f64,
    /// LayerNorm; otherwise RMSNorm.
    pub centered: bool,
    /// Whether there is a factor.
    pub scaled: bool,
    /// Whether the factor is `1 + w`.
    pub one_plus: bool,
}

impl NormGrad {
    /// The gradients of a norm's input (its node's input 0) and, where `learnt`, of the factor `w`.
    pub(super) fn apply(
        &self,
        cx: &mut Backward<'_>,
        w: Option<Value>,
        learnt: bool,
    ) -> Result<(Value, Option<Value>), IrError> {
        let g = cx.cotangent()?;
        self.apply_to(cx, g, w, learnt)
    }

    /// The same for a gradient `g` of the norm's result that is not the node's own.
    pub(super) fn apply_to(
        &self,
        cx: &mut Backward<'_>,
        g: Value,
        w: Option<Value>,
        learnt: bool,
    ) -> Result<(Value, Option<Value>), IrError> {
        let x = cx.inputs[0];
        let inputs: Vec<Value> = [x, g].into_iter().chain(w).collect();
        let (dx, stats) = match cx.add_all(self.clone(), &inputs)?[..] {
            [dx, stats] => (dx, stats),
            _ => return Err(cx.error("a norm's gradient has two results")),
        };
        let Some(w) = w.filter(|_| learnt) else { return Ok((dx, None)) };
        let axis = cx.ty(x).rank() - 1;
        let mean = cx.add(Slice { axis, start: 0, len: 1 }, &[stats])?;
        let r = cx.add(Slice { axis, start: 1, len: 1 }, &[stats])?;
        let (chain, operands) =
            if self.centered { (centered(), vec![g, x, r, mean]) } else { (plain(), vec![g, x, r]) };
        let shape = cx.shape(w);
        let dw = cx.add(Reduce { chain: Some(chain), shape }, &operands)?;
        Ok((dx, Some(dw)))
    }
}

/// `g * (x * r)`.
fn plain() -> Chain {
    let steps = vec![
        Instr::Binary(BinaryKind::Mul, Arg::In(1), Arg::In(2)),
        Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::Step(0)),
    ];
    Chain { inputs: 3, steps }
}

/// `g * ((x - mean) * r)`.
fn centered() -> Chain {
    let steps = vec![
        Instr::Binary(BinaryKind::Sub, Arg::In(1), Arg::In(3)),
        Instr::Binary(BinaryKind::Mul, Arg::Step(0), Arg::In(2)),
        Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::Step(1)),
    ];
    Chain { inputs: 4, steps }
}

impl Operator for NormGrad {
    const NAME: &'static str = "norm_grad";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        super::arity(inputs, 2 + usize::from(self.scaled))?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        let (x, g) = (inputs[0], inputs[1]);
        crate::ensure!(x.rank() >= 1 && x.shape == g.shape, "input {x} and gradient {g} differ in shape");
        crate::ensure!(x.last() > 0, "there is nothing to normalise in {x}");
        if self.scaled {
            let w = inputs[2];
            let fits = w.last() == x.last() && broadcast(&w.shape, &x.shape).as_ref() == Some(&x.shape);
            crate::ensure!(fits, "the factor {w} does not fit {x}");
        }
        crate::ensure!(self.eps >= 0.0 && self.eps.is_finite(), "eps must be a small positive number, is {}", self.eps);
        let mut stats = x.shape.clone();
        stats[x.rank() - 1] = 2;
        Ok(vec![x.clone(), TensorType::f32(stats)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (x, g) = (inputs[0], inputs[1]);
        let d = x.last();
        let n = T::from_f64(d as f64);
        let gw = Tensor::from_fn(x.shape.clone(), |i| {
            let one = T::from_f64(if self.one_plus { 1.0 } else { 0.0 });
            let w = if self.scaled { inputs[2].at_broadcast(i) + one } else { T::from_f64(1.0) };
            g.at(i) * w
        });
        let mut dx = x.clone();
        let mut stats = Vec::with_capacity(2 * x.data.len() / d);
        for (row, gw) in dx.data.chunks_exact_mut(d).zip(gw.data.chunks_exact(d)) {
            let (mean, r) = if self.centered { statistics(row, self.eps) } else { root_mean_square(row, self.eps) };
            let (mut sum, mut dot) = (T::default(), T::default());
            for (x, g) in row.iter_mut().zip(gw) {
                *x = (*x - mean) * r;
                sum += *g;
                dot += *g * *x;
            }
            let sum = if self.centered { sum / n } else { T::default() };
            for (x, g) in row.iter_mut().zip(gw) {
                *x = r * (*g - sum - *x * (dot / n));
            }
            stats.extend([mean, r]);
        }
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = 2;
        }
        Ok(vec![dx, Tensor::new(shape, stats)?])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Rows
    }

    fn samples() -> Vec<Sample<Self>> {
        let of = |shape: &[usize], factor: Option<&[usize]>, centered: bool, one_plus: bool| {
            let x = TensorType::f32(shape);
            let mut inputs = vec![x.clone(), x];
            inputs.extend(factor.map(TensorType::f32));
            Sample::new(Self { eps: 1e-6, centered, scaled: factor.is_some(), one_plus }, inputs)
        };
        vec![
            of(&[2, 5, 19], Some(&[2, 1, 19]), true, true),
            of(&[4, 33], Some(&[33]), true, false),
            of(&[2, 3, 17], None, true, false),
            of(&[2, 35, 48], Some(&[48]), false, false),
        ]
    }
}

/// Mean 0 and `1 / sqrt(mean square + eps)`.
fn root_mean_square<T: Real>(row: &[T], eps: f64) -> (T, T) {
    let mut sum = T::default();
    for &x in row {
        sum += x * x;
    }
    let mean = sum / T::from_f64(row.len() as f64);
    (T::default(), T::from_f64(1.0) / (mean + T::from_f64(eps)).sqrt())
}
