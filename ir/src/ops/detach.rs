//! Where gradients stop.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Access, Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Its input; no gradient passes. A reference stream's keys are read through it (SPEC 9). Differentiation removes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detach {}

impl Operator for Detach {
    const NAME: &'static str = "detach";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![inputs[0].clone()])
    }

    fn work(&self, _: &[&TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn differentiable(&self, _: usize) -> bool {
        false
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![Sample::new(Self {}, [TensorType::f32([2, 3])])]
    }
}
