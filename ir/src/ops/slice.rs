//! A run along one dimension.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Elements `start .. start + len` along dimension `axis`. A view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The dimension.
    pub axis: usize,
    /// First index.
    pub start: usize,
    /// Number of indices.
    pub len: usize,
}

impl Operator for Slice {
    const NAME: &'static str = "slice";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        let mut shape = inputs[0].shape.clone();
        crate::ensure!(self.axis < shape.len(), "{} has no dimension {}", inputs[0], self.axis);
        let end = self.start.checked_add(self.len);
        crate::ensure!(
            self.len > 0 && end.is_some_and(|e| e <= shape[self.axis]),
            "cannot take {} elements from {} along dimension {} of {}",
            self.len,
            self.start,
            self.axis,
            inputs[0]
        );
        shape[self.axis] = self.len;
        Ok(vec![inputs[0].with_shape(shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let x = inputs[0];
        let mut shape = x.shape.clone();
        shape[self.axis] = self.len;
        let mut source = Vec::new();
        Ok(vec![Tensor::from_fn(shape, |index| {
            source.clear();
            source.extend_from_slice(index);
            source[self.axis] += self.start;
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
        let (g, size) = (cx.cotangent()?, cx.shape(cx.inputs[0])[self.axis]);
        let pad = super::Pad { axis: self.axis, before: self.start, after: size - self.start - self.len };
        Ok(vec![Some(cx.add(pad, &[g])?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { axis: 1, start: 1, len: 2 }, [TensorType::f32([2, 4, 3])]),
            Sample::new(Self { axis: 0, start: 0, len: 3 }, [TensorType::f32([3])]),
        ]
    }
}
