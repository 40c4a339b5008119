//! A dense copy.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// The same tensor, densely packed. Lowering inserts it where a kernel cannot read a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {}

impl Operator for Copy {
    const NAME: &'static str = "copy";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![inputs[0].clone()])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        Ok(vec![Some(cx.cotangent()?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![Sample::new(Self {}, [TensorType::f32([3, 5])])]
    }
}
