//! One number everywhere.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// A tensor with one number everywhere. No inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Type of the result.
    pub ty: TensorType,
    /// The number.
    pub value: f64,
}

impl Operator for Constant {
    const NAME: &'static str = "constant";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 0)?;
        crate::ensure!(self.value.is_finite(), "a constant must be finite, is {}", self.value);
        Ok(vec![self.ty.clone()])
    }

    fn eval<T: Real>(&self, _: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![Tensor::filled(self.ty.shape.clone(), T::from_f64(self.value))])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Elementwise
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { ty: TensorType::f32([2, 3]), value: 0.1 }, []),
            Sample::new(Self { ty: TensorType::f32([]), value: -2.0 }, []),
        ]
    }
}
