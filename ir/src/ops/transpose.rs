//! Dimensions in another order.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Dimension `i` of the result is dimension `perm[i]` of the input. A view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// Where each dimension comes from.
    pub perm: Vec<usize>,
}

impl Operator for Transpose {
    const NAME: &'static str = "transpose";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        crate::ensure!(
            sorted.iter().copied().eq(0..inputs[0].rank()),
            "{:?} is no order of the {} dimensions of {}",
            self.perm,
            inputs[0].rank(),
            inputs[0]
        );
        let shape: Vec<usize> = self.perm.iter().map(|&p| inputs[0].shape[p]).collect();
        Ok(vec![inputs[0].with_shape(shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let x = inputs[0];
        let shape: Vec<usize> = self.perm.iter().map(|&p| x.shape[p]).collect();
        let mut source = vec![0; shape.len()];
        Ok(vec![Tensor::from_fn(shape, |index| {
            for (i, &p) in self.perm.iter().enumerate() {
                source[p] = index[i];
            }
            x.at(&source)
        })])
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
        let g = cx.cotangent()?;
        let mut perm = vec![0; self.perm.len()];
        self.perm.iter().enumerate().for_each(|(to, &from)| perm[from] = to);
        Ok(vec![Some(cx.add(Self { perm }, &[g])?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { perm: vec![2, 0, 1] }, [TensorType::f32([2, 3, 4])]),
            Sample::new(Self { perm: vec![1, 0] }, [TensorType::f32([3, 5])]),
        ]
    }
}
