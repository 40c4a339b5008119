//! LayerNorm with a scale and a shift from the time embedding.

use serde::{Deserialize, Serialize};

use super::layer_norm::statistics;
use super::{NormGrad, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `LN(x) * (1 + scale) + shift` in one pass (SPEC 2.5). Inputs: `x [B, L, d]`,
/// `shift [B, 1, d]`, `scale [B, 1, d]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormModulate {
    /// Added to the variance.
    pub eps: f64,
}

impl Operator for NormModulate {
    const NAME: &'static str = "norm_modulate";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 3)?;
        let x = inputs[0];
        crate::ensure!(x.rank() == 3, "wants x [B, L, d], got {x}");
        for i in 0..3 {
            float(inputs, i)?;
        }
        for t in &inputs[1..] {
            let want = [x.shape[0], 1, x.shape[2]];
            crate::ensure!(t.shape == want, "shift and scale of {x} must be {want:?}, one is {t}");
        }
        crate::ensure!(x.last() > 0, "there is nothing to normalise in {x}");
        crate::ensure!(self.eps >= 0.0 && self.eps.is_finite(), "eps must be a small positive number, is {}", self.eps);
        Ok(vec![x.clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut out = inputs[0].clone();
        let (l, d) = (out.shape[1], out.shape[2]);
        for (r, row) in out.data.chunks_exact_mut(d).enumerate() {
            let (mean, rstd) = statistics(row, self.eps);
            let b = r / l * d;
            for (i, x) in row.iter_mut().enumerate() {
                let (shift, scale) = (inputs[1].data[b + i], inputs[2].data[b + i]);
                *x = (*x - mean) * rstd * (T::from_f64(1.0) + scale) + shift;
            }
        }
        Ok(vec![out])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Rows
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let norm = NormGrad { eps: self.eps, centered: true, scaled: true, one_plus: true };
        let (dx, dscale) = norm.apply(cx, Some(cx.inputs[2]), cx.wants(2))?;
        let (g, shape) = (cx.cotangent()?, cx.shape(cx.inputs[1]));
        let dshift = if cx.wants(1) { Some(cx.sum_to(g, &shape)?) } else { None };
        Ok(vec![Some(dx), dshift, dscale])
    }

    fn samples() -> Vec<Sample<Self>> {
        let (x, m) = (TensorType::f32([2, 5, 19]), TensorType::f32([2, 1, 19]));
        vec![Sample::new(Self { eps: 1e-6 }, [x, m.clone(), m])]
    }
}
