//! Sinusoids of the flow time.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `[cos(1000 t f_i), sin(1000 t f_i)]`, `f_i = 10000^(-i / (dim/2))` (SPEC 2.2). Input `t [...]`,
/// output `[..., dim]`. Angles are taken in f64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeFeatures {
    /// Number of features, even.
    pub dim: usize,
}

impl TimeFeatures {
    /// The features of one time.
    pub fn features(&self, t: f64) -> impl Iterator<Item = f64> {
        let half = self.dim / 2;
        let angle = move |i: usize| 1000.0 * t * (-(10000f64.ln()) * i as f64 / half as f64).exp();
        (0..half).map(move |i| angle(i).cos()).chain((0..half).map(move |i| angle(i).sin()))
    }
}

impl Operator for TimeFeatures {
    const NAME: &'static str = "time_features";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        float(inputs, 0)?;
        crate::ensure!(
            self.dim > 0 && self.dim.is_multiple_of(2),
            "the number of features must be even, is {}",
            self.dim
        );
        let mut shape = inputs[0].shape.clone();
        shape.push(self.dim);
        Ok(vec![inputs[0].with_shape(shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut shape = inputs[0].shape.clone();
        shape.push(self.dim);
        let data = inputs[0].data.iter().flat_map(|t| self.features(t.to_f64())).map(T::from_f64).collect();
        Ok(vec![Tensor::new(shape, data)?])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Elementwise
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { dim: 8 }, [TensorType::f32([3])]),
            Sample::new(Self { dim: 6 }, [TensorType::f32([2, 2])]),
        ]
    }
}
