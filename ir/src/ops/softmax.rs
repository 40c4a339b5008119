//! Softmax over the last dimension.

use serde::{Deserialize, Serialize};

use super::{Binary, BinaryKind, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `exp(x_i) / Σ exp(x_j)` over the last dimension; `-inf` gives 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {}

/// Turns scores into weights in place and returns `ln Σ exp`.
pub(super) fn softmax_row<T: Real>(row: &mut [T]) -> T {
    let mut max = row[0];
    for &x in row.iter() {
        if x > max {
            max = x;
        }
    }
    let mut sum = T::default();
    for x in row.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    for x in row.iter_mut() {
        *x = *x / sum;
    }
    max + sum.ln()
}

impl Operator for Softmax {
    const NAME: &'static str = "softmax";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        float(inputs, 0)?;
        crate::ensure!(inputs[0].rank() > 0 && inputs[0].last() > 0, "softmax of nothing: {}", inputs[0]);
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut out = inputs[0].clone();
        let n = out.last();
        for row in out.data.chunks_exact_mut(n) {
            softmax_row(row);
        }
        Ok(vec![out])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (y, g) = (cx.outputs[0], cx.cotangent()?);
        let mut shape = cx.shape(y);
        if let Some(last) = shape.last_mut() {
            *last = 1;
        }
        let weighted = cx.add(Binary { kind: BinaryKind::Mul }, &[g, y])?;
        let sum = cx.sum_to(weighted, &shape)?;
        let apart = cx.add(Binary { kind: BinaryKind::Sub }, &[g, sum])?;
        Ok(vec![Some(cx.add(Binary { kind: BinaryKind::Mul }, &[apart, y])?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![Sample::new(Self {}, [TensorType::f32([3, 17])]), Sample::new(Self {}, [TensorType::f32([2, 2, 1])])]
    }
}
