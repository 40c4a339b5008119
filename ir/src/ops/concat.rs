//! Joining along one dimension.

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Joins its inputs (one or more) along dimension `axis`; all other sizes are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// The dimension.
    pub axis: usize,
}

impl Operator for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        crate::ensure!(!inputs.is_empty(), "takes at least one input");
        let mut shape = inputs[0].shape.clone();
        crate::ensure!(self.axis < shape.len(), "{} has no dimension {}", inputs[0], self.axis);
        for t in &inputs[1..] {
            let same = t.rank() == shape.len()
                && t.dtype == inputs[0].dtype
                && (0..shape.len()).all(|i| i == self.axis || t.shape[i] == shape[i]);
            crate::ensure!(same, "cannot join {} and {t} along dimension {}", inputs[0], self.axis);
            shape[self.axis] = shape[self.axis].saturating_add(t.shape[self.axis]);
        }
        Ok(vec![inputs[0].with_shape(shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut shape = inputs[0].shape.clone();
        shape[self.axis] = inputs.iter().map(|t| t.shape[self.axis]).sum();
        let mut source = Vec::new();
        Ok(vec![Tensor::from_fn(shape, |index| {
            source.clear();
            source.extend_from_slice(index);
            let mut part = 0;
            while source[self.axis] >= inputs[part].shape[self.axis] {
                source[self.axis] -= inputs[part].shape[self.axis];
                part += 1;
            }
            inputs[part].at(&source)
        })])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let g = cx.cotangent()?;
        let mut start = 0;
        let mut out = Vec::new();
        for i in 0..cx.inputs.len() {
            let len = cx.shape(cx.inputs[i])[self.axis];
            let part = super::Slice { axis: self.axis, start, len };
            out.push(if cx.wants(i) { Some(cx.add(part, &[g])?) } else { None });
            start += len;
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self { axis: 1 }, [TensorType::f32([2, 3, 2]), TensorType::f32([2, 1, 2])]),
            Sample::new(Self { axis: 0 }, [TensorType::f32([2]), TensorType::f32([3]), TensorType::f32([1])]),
        ]
    }
}
