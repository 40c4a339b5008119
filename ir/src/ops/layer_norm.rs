//! LayerNorm.

use serde::{Deserialize, Serialize};

use super::{NormGrad, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `(x - mean) / sqrt(var + eps)` over the last dimension, then `* w + b` where `affine`.
/// Inputs: `x [..., d]`, and `w [d]`, `b [d]` where `affine`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Whether there are a weight and a bias.
    pub affine: bool,
}

/// Mean and `1 / sqrt(var + eps)` of a row, two passes.
pub(super) fn statistics<T: Real>(row: &[T], eps: f64) -> (T, T) {
    let n = T::from_f64(row.len() as f64);
    let mut sum = T::default();
    for &x in row {
        sum += x;
    }
    let mean = sum / n;
    let mut var = T::default();
    for &x in row {
        var += (x - mean) * (x - mean);
    }
    (mean, T::from_f64(1.0) / (var / n + T::from_f64(eps)).sqrt())
}

impl Operator for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        super::arity(inputs, if self.affine { 3 } else { 1 })?;
        float(inputs, 0)?;
        let d = inputs[0].last();
        for t in &inputs[1..] {
            crate::ensure!(
                t.shape == [d] && t.dtype.is_float(),
                "weight and bias of {} must be [{d}], one is {t}",
                inputs[0]
            );
        }
        crate::ensure!(d > 0, "there is nothing to normalise in {}", inputs[0]);
        crate::ensure!(self.eps >= 0.0 && self.eps.is_finite(), "eps must be a small positive number, is {}", self.eps);
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut out = inputs[0].clone();
        let d = out.last();
        for row in out.data.chunks_exact_mut(d) {
            let (mean, rstd) = statistics(row, self.eps);
            for (i, x) in row.iter_mut().enumerate() {
                *x = (*x - mean) * rstd;
                if self.affine {
                    *x = *x * inputs[1].data[i] + inputs[2].data[i];
                }
            }
        }
        Ok(vec![out])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        if index == 0 { Access::Rows } else { Access::Dense }
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let norm = NormGrad { eps: self.eps, centered: true, scaled: self.affine, one_plus: false };
        let factor = self.affine.then(|| cx.inputs[1]);
        let (dx, dw) = norm.apply(cx, factor, self.affine && cx.wants(1))?;
        let mut out = vec![Some(dx)];
        if self.affine {
            let (g, d) = (cx.cotangent()?, cx.shape(cx.inputs[2]));
            out.extend([dw, Some(cx.sum_to(g, &d)?)]);
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let d = TensorType::f32([33]);
        vec![
            Sample::new(Self { eps: 1e-6, affine: false }, [TensorType::f32([2, 3, 17])]),
            Sample::new(Self { eps: 1e-5, affine: true }, [TensorType::f32([4, 33]), d.clone(), d]),
        ]
    }
}
