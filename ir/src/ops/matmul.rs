//! Batched matrix product of two activations.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// `a b` per batch element, or `a bᵀ`. Inputs: `a [..., m, k]`, `b [..., k, n]` (`[..., n, k]` when
/// `transpose_b`), equal leading sizes. Either may be stored in
/// half precision; the result has the type of `a` unless `out` says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// Whether `b`'s last two dimensions are swapped.
    pub transpose_b: bool,
    /// Element type of the result; `None`: that of `a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<DType>,
}

impl Operator for MatMul {
    const NAME: &'static str = "mat_mul";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        float(inputs, 1)?;
        let (a, b) = (inputs[0], inputs[1]);
        let r = a.rank();
        crate::ensure!(r >= 2 && b.rank() == r && a.shape[..r - 2] == b.shape[..r - 2], "batches differ: {a} and {b}");
        let (k, n) = if self.transpose_b { (b.shape[r - 1], b.shape[r - 2]) } else { (b.shape[r - 2], b.shape[r - 1]) };
        crate::ensure!(a.shape[r - 1] == k, "inner sizes differ: {a} and {b}");
        crate::ensure!(a.shape[r - 2] > 0 && k > 0 && n > 0, "matrices without elements: {a} and {b}");
        let mut shape = a.shape.clone();
        shape[r - 1] = n;
        crate::ensure!(self.out.is_none_or(DType::is_float), "the result must be real numbers");
        Ok(vec![TensorType::new(self.out.unwrap_or(a.dtype), shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (a, b) = (inputs[0], inputs[1]);
        let r = a.shape.len();
        let (m, k) = (a.shape[r - 2], a.shape[r - 1]);
        let n = if self.transpose_b { b.shape[r - 2] } else { b.shape[r - 1] };
        let mut shape = a.shape.clone();
        shape[r - 1] = n;
        let mut data = Vec::with_capacity(shape.iter().product());
        for (x, y) in a.data.chunks_exact(m * k).zip(b.data.chunks_exact(k * n)) {
            for i in 0..m {
                for j in 0..n {
                    let mut sum = T::default();
                    for p in 0..k {
                        sum += x[i * k + p] * if self.transpose_b { y[j * k + p] } else { y[p * n + j] };
                    }
                    data.push(sum);
                }
            }
        }
        Ok(vec![Tensor::new(shape, data)?])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let products = outputs[0].elements().saturating_mul(inputs[0].last() as u64);
        Work { flops: products.saturating_mul(2), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (a, b, g) = (cx.inputs[0], cx.inputs[1], cx.cotangent()?);
        let r = cx.ty(a).rank();
        let mut swap: Vec<usize> = (0..r).collect();
        swap.swap(r - 1, r - 2);
        let turned = |cx: &mut Backward<'_>, v| cx.add(super::Transpose { perm: swap.clone() }, &[v]);
        let plain = Self { transpose_b: false, out: None };
        let mut out = vec![None, None];
        if cx.wants(0) {
            out[0] = Some(cx.add(Self { transpose_b: !self.transpose_b, out: None }, &[g, b])?);
        }
        if cx.wants(1) {
            let (left, right) = if self.transpose_b { (turned(cx, g)?, a) } else { (turned(cx, a)?, g) };
            out[1] = Some(cx.add(plain, &[left, right])?);
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let half = |dtype, shape: &[usize]| TensorType::new(dtype, shape);
        vec![
            Sample::new(
                Self { transpose_b: false, out: None },
                [TensorType::f32([2, 3, 4]), TensorType::f32([2, 4, 5])],
            ),
            Sample::new(
                Self { transpose_b: true, out: None },
                [TensorType::f32([2, 3, 4]), TensorType::f32([2, 5, 4])],
            ),
            Sample::new(Self { transpose_b: false, out: None }, [TensorType::f32([6, 9]), TensorType::f32([9, 1])]),
            Sample::new(
                Self { transpose_b: true, out: None },
                [TensorType::f32([2, 3, 4]), half(DType::Bf16, &[2, 5, 4])],
            ),
            Sample::new(
                Self { transpose_b: false, out: None },
                [TensorType::f32([3, 1100]), half(DType::F16, &[1100, 6])],
            ),
            Sample::new(
                Self { transpose_b: false, out: Some(DType::F32) },
                [half(DType::F16, &[3, 70]), half(DType::F16, &[70, 5])],
            ),
        ]
    }
}
