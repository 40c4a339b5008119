//! A tensor of the checkpoint.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// A tensor of the checkpoint, by its canonical name (SPEC 7). No inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Canonical name.
    pub name: String,
    /// Its type in the plan; the loader converts from what the file holds.
    pub ty: TensorType,
}

impl Operator for Weight {
    const NAME: &'static str = "weight";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 0)?;
        Ok(vec![self.ty.clone()])
    }

    fn eval<T: Real>(&self, _: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Err(Problem(format!("weight `{}` was not given", self.name)))
    }

    fn work(&self, _: &[&TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn samples() -> Vec<Sample<Self>> {
        Vec::new()
    }
}
