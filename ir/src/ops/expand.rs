//! Broadcasting to a shape.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::{TensorType, broadcast};

/// Repeats dimensions of size 1 (and adds leading ones) to reach a shape. A view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expand {
    /// The new shape.
    pub shape: Vec<usize>,
}

impl Operator for Expand {
    const NAME: &'static str = "expand";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        crate::ensure!(
            broadcast(&inputs[0].shape, &self.shape).as_ref() == Some(&self.shape),
            "cannot expand {} to {:?}",
            inputs[0],
            self.shape
        );
        Ok(vec![inputs[0].with_shape(self.shape.clone())])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![Tensor::from_fn(self.shape.clone(), |index| inputs[0].at_broadcast(index))])
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
        Ok(vec![Some(cx.sum_to(g, &shape)?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { shape: vec![2, 3, 4] }, [TensorType::f32([3, 1])]),
            Sample::new(Self { shape: vec![5] }, [TensorType::f32([])]),
        ]
    }
}
