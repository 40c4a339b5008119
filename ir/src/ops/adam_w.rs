//! One step of the optimiser.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::op::{Operator, Sample};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101; PyTorch's `torch.optim.AdamW`).
///
/// Inputs: parameter `p`, moments `m` and `v` of its shape, the number of its earlier steps `count []`, gradient `g`, learning rates
/// `rates [groups]`, and a factor on the gradient `scale []` (clipping, accumulation). Outputs: the next `p, m, v, count`, each of
/// which may lie over its predecessor. With `t = count + 1`, `g' = scale g`:
///
/// `m' = b1 m + (1 - b1) g'`, `v' = b2 v + (1 - b2) g'^2`,
/// `p' = p (1 - rate decay) - rate / (1 - b1^t) * m' / (sqrt(v' / (1 - b2^t)) + eps)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, times the learning rate.
    pub decay: f64,
    /// Which of the rates is this parameter's.
    pub group: usize,
}

impl AdamW {
    /// `1 - beta^t`, in double precision.
    pub fn correction(beta: f64, t: f64) -> f64 {
        -(t * beta.ln()).exp_m1()
    }
}

impl Operator for AdamW {
    const NAME: &'static str = "adam_w";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 7)?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        let p = inputs[0];
        crate::ensure!(p.dtype == DType::F32, "parameters are optimised in f32, this one is {p}");
        for (name, i) in [("first moment", 1), ("second moment", 2)] {
            crate::ensure!(inputs[i] == p, "the {name} of {p} is {}", inputs[i]);
        }
        crate::ensure!(inputs[4].shape == p.shape, "the gradient of {p} is {}", inputs[4]);
        let scalar = TensorType::f32([]);
        crate::ensure!(*inputs[3] == scalar && *inputs[6] == scalar, "the count and the scale must be {scalar}");
        let rates = inputs[5];
        let known = rates.dtype == DType::F32 && rates.rank() == 1 && self.group < rates.shape[0];
        crate::ensure!(known, "there is no rate {} in {rates}", self.group);
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            crate::ensure!((0.0..1.0).contains(&beta) && beta > 0.0, "{name} must be between 0 and 1, is {beta}");
        }
        let fine = self.eps > 0.0 && self.eps.is_finite() && self.decay >= 0.0 && self.decay.is_finite();
        crate::ensure!(
            fine,
            "eps must be above zero and the decay at least zero, they are {} and {}",
            self.eps,
            self.decay
        );
        Ok(vec![p.clone(), p.clone(), p.clone(), scalar])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (mut p, mut m, mut v) = (inputs[0].clone(), inputs[1].clone(), inputs[2].clone());
        let (g, scale, rate) = (inputs[4], inputs[6].data[0], inputs[5].data[self.group]);
        let t = inputs[3].data[0].to_f64() + 1.0;
        let c = T::from_f64;
        let (b1, b2, keep1, keep2) = (c(self.beta1), c(self.beta2), c(1.0 - self.beta1), c(1.0 - self.beta2));
        let step = rate / c(Self::correction(self.beta1, t));
        let root = c(Self::correction(self.beta2, t).sqrt());
        for i in 0..p.data.len() {
            let g = g.data[i] * scale;
            m.data[i] = b1 * m.data[i] + keep1 * g;
            v.data[i] = b2 * v.data[i] + keep2 * g * g;
            let decayed = p.data[i] * (c(1.0) - rate * c(self.decay));
            p.data[i] = decayed - step * m.data[i] / (v.data[i].sqrt() / root + c(self.eps));
        }
        Ok(vec![p, m, v, Tensor::filled([], c(t))])
    }

    fn updates(&self, output: usize) -> Option<usize> {
        Some(output)
    }

    fn samples() -> Vec<Sample<Self>> {
        let op = Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.01, group: 1 };
        let scalar = || TensorType::f32([]);
        let of = |op: Self, shape: &[usize], groups: usize| {
            let p = || TensorType::f32(shape);
            Sample::new(op, [p(), p(), p(), scalar(), p(), TensorType::f32([groups]), scalar()]).positive(&[2, 3])
        };
        vec![of(op.clone(), &[3, 7], 2), of(Self { group: 0, decay: 0.0, ..op }, &[1031], 1)]
    }
}
