//! Zeros around a run along one dimension.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `before` zeros, the input, `after` zeros along dimension `axis`: the adjoint of [`super::Slice`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// The dimension.
    pub axis: usize,
    /// Zeros before the input.
    pub before: usize,
    /// Zeros behind it.
    pub after: usize,
}

impl Operator for Pad {
    const NAME: &'static str = "pad";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        super::float(inputs, 0)?;
        let mut shape = inputs[0].shape.clone();
        crate::ensure!(self.axis < shape.len(), "{} has no dimension {}", inputs[0], self.axis);
        let size = shape[self.axis].checked_add(self.before).and_then(|n| n.checked_add(self.after));
        shape[self.axis] = size.ok_or_else(|| Problem(format!("{} with so many zeros is too large", inputs[0])))?;
        Ok(vec![inputs[0].with_shape(shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let x = inputs[0];
        let mut shape = x.shape.clone();
        shape[self.axis] += self.before + self.after;
        let mut source = Vec::new();
        Ok(vec![Tensor::from_fn(shape, |index| {
            source.clear();
            source.extend_from_slice(index);
            let at = source[self.axis];
            if at < self.before || at - self.before >= x.shape[self.axis] {
                return T::default();
            }
            source[self.axis] = at - self.before;
            x.at(&source)
        })])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, len) = (cx.cotangent()?, cx.shape(cx.inputs[0])[self.axis]);
        Ok(vec![Some(cx.add(super::Slice { axis: self.axis, start: self.before, len }, &[g])?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { axis: 1, before: 2, after: 1 }, [TensorType::f32([2, 3, 5])]),
            Sample::new(Self { axis: 0, before: 0, after: 4 }, [TensorType::f32([3])]),
            Sample::new(Self { axis: 2, before: 1, after: 0 }, [TensorType::f32([2, 1, 7])]),
        ]
    }
}
