//! RMSNorm.

use serde::{Deserialize, Serialize};

use super::{NormGrad, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `x / sqrt(mean(x²) + eps) * w` over the last dimension. Inputs: `x [..., d]`, `w [d]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

impl Operator for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        float(inputs, 1)?;
        let d = inputs[0].last();
        crate::ensure!(inputs[1].shape == [d], "the weight of {} must be [{d}], is {}", inputs[0], inputs[1]);
        crate::ensure!(d > 0, "there is nothing to normalise in {}", inputs[0]);
        crate::ensure!(self.eps >= 0.0 && self.eps.is_finite(), "eps must be a small positive number, is {}", self.eps);
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut out = inputs[0].clone();
        let d = out.last();
        for row in out.data.chunks_exact_mut(d) {
            let mut sum = T::default();
            for &x in row.iter() {
                sum += x * x;
            }
            let scale = T::from_f64(1.0) / (sum / T::from_f64(d as f64) + T::from_f64(self.eps)).sqrt();
            for (x, &w) in row.iter_mut().zip(&inputs[1].data) {
                *x = *x * scale * w;
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
        let norm = NormGrad { eps: self.eps, centered: false, scaled: true, one_plus: false };
        let (dx, dw) = norm.apply(cx, Some(cx.inputs[1]), cx.wants(1))?;
        Ok(vec![Some(dx), dw])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { eps: 1e-6 }, [TensorType::f32([2, 3, 16]), TensorType::f32([16])]),
            Sample::new(Self { eps: 1e-6 }, [TensorType::f32([5, 37]), TensorType::f32([37])]),
        ]
    }
}
