//! One step of the optimiser, and of the average of what it optimises.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::op::{Operator, Sample};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101; PyTorch's `torch.optim.AdamW`).
///
/// Inputs: parameter `p`, moments `m` and `v` of its shape, the number of its steps with this one `t []`, gradient `g`, learning rates
/// `rates [groups]`, and a factor on the gradient `scale []` (clipping, accumulation); where an average of the parameter is kept, also that
/// average `a` and how far it moves `way []`. Outputs: the next `p, m, v`, and `a` where there is one; each may lie over its predecessor.
/// With `g' = scale g`:
///
/// `m' = b1 m + (1 - b1) g'`, `v' = b2 v + (1 - b2) g'^2`,
/// `p' = p (1 - rate decay) - rate / (1 - b1^t) * m' / (sqrt(v' / (1 - b2^t)) + eps)`,
/// `a' = a + (p' - a) way`.
///
/// The parameters of a model share a tensor of counts, each its own number in it, so that one call counts for all of them: a kernel that
/// also wrote the number could not tell whether all of its parts have read it.
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
    /// The average among the inputs, where there is one.
    pub const AVERAGE: usize = 7;

    /// Whether a call with so many inputs moves an average.
    pub fn averages(inputs: usize) -> bool {
        inputs > Self::AVERAGE
    }

    /// `1 - beta^t`, in double precision.
    pub fn correction(beta: f64, t: f64) -> f64 {
        -(t * beta.ln()).exp_m1()
    }
}

impl Operator for AdamW {
    const NAME: &'static str = "adam_w";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        let averages = Self::averages(inputs.len());
        arity(inputs, if averages { 9 } else { 7 })?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        let p = inputs[0];
        crate::ensure!(p.dtype == DType::F32, "parameters are optimised in f32, this one is {p}");
        let average = averages.then_some(("average", Self::AVERAGE));
        for (name, i) in [("first moment", 1), ("second moment", 2)].into_iter().chain(average) {
            crate::ensure!(inputs[i] == p, "the {name} of {p} is {}", inputs[i]);
        }
        crate::ensure!(inputs[4].shape == p.shape, "the gradient of {p} is {}", inputs[4]);
        let scalar = TensorType::f32([]);
        crate::ensure!(*inputs[3] == scalar && *inputs[6] == scalar, "the count and the scale must be {scalar}");
        let way = inputs.get(Self::AVERAGE + 1).is_none_or(|way| **way == scalar);
        crate::ensure!(way, "how far an average moves must be {scalar}");
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
        Ok(vec![p.clone(); if averages { 4 } else { 3 }])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (mut p, mut m, mut v) = (inputs[0].clone(), inputs[1].clone(), inputs[2].clone());
        let (g, scale, rate) = (inputs[4], inputs[6].data[0], inputs[5].data[self.group]);
        let t = inputs[3].data[0].to_f64();
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
        let mut outputs = vec![p, m, v];
        if let [average, way] = inputs[Self::AVERAGE..] {
            let moved = |(&a, &p): (&T, &T)| a + (p - a) * way.data[0];
            let data = average.data.iter().zip(&outputs[0].data).map(moved).collect();
            outputs.push(Tensor { data, shape: average.shape.clone() });
        }
        Ok(outputs)
    }

    fn updates(&self, output: usize) -> Option<usize> {
        Some(if output == 3 { Self::AVERAGE } else { output })
    }

    fn samples() -> Vec<Sample<Self>> {
        let op = Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.01, group: 1 };
        let scalar = || TensorType::f32([]);
        let of = |op: &Self, shape: &[usize], groups: usize, average: bool| {
            let p = || TensorType::f32(shape);
            let mut inputs = vec![p(), p(), p(), scalar(), p(), TensorType::f32([groups]), scalar()];
            if average {
                inputs.extend([p(), scalar()]);
            }
            Sample::new(op.clone(), inputs).positive([2, 3])
        };
        let plain = Self { group: 0, decay: 0.0, ..op.clone() };
        vec![
            of(&op, &[3, 7], 2, false),
            of(&plain, &[1031], 1, false),
            of(&op, &[1031], 2, true),
            of(&plain, &[3, 7], 1, true),
        ]
    }
}
