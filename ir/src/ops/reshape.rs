//! The same elements under another shape.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// The same elements, in order, under another shape. A view: costs nothing on dense tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    /// The new shape.
    pub shape: Vec<usize>,
}

impl Operator for Reshape {
    const NAME: &'static str = "reshape";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        let out = inputs[0].with_shape(self.shape.clone());
        crate::ensure!(
            out.checked_elements() == Some(inputs[0].elements()),
            "cannot reshape {} to {:?}: the number of elements differs",
            inputs[0],
            self.shape
        );
        Ok(vec![out])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![Tensor::new(self.shape.clone(), inputs[0].data.clone())?])
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

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, shape) = (cx.cotangent()?, cx.shape(cx.inputs[0]));
        Ok(vec![Some(cx.reshape(g, shape)?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { shape: vec![3, 2, 2] }, [TensorType::f32([2, 6])]),
            Sample::new(Self { shape: vec![] }, [TensorType::f32([1, 1])]),
        ]
    }
}
