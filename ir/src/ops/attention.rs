//! Scaled dot product attention.

use serde::{Deserialize, Serialize};

use super::softmax::softmax_row;
use super::{AttentionGrad, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::graph::Value;
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// `softmax(q kᵀ / sqrt(D) + mask) v` per head.
///
/// Inputs: `q [..., Lq, H, D]`, `k, v [..., Lk, H, D]` with equal leading sizes; where `masked`, an
/// additive `mask [suffix of the leading sizes, Lk]` (0 or -inf); where `counted`, an `i32` scalar `n`:
/// only the first `n` keys are there. Outputs: the result `[..., Lq, H, D]` and the row
/// log-sum-exp `[..., H, Lq]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Whether there is a mask.
    pub masked: bool,
    /// Whether the number of keys is given at run time.
    pub counted: bool,
}

impl Attention {
    /// All keys, no mask.
    pub fn full() -> Self {
        Self { masked: false, counted: false }
    }
}

/// Attention of one query over a list of (key, value) rows: writes the result, returns the log-sum-exp.
pub(super) fn attend_row<'a, T: Real>(
    q: &[T],
    keys: impl Iterator<Item = (&'a [T], T)>,
    values: &[&[T]],
    out: &mut [T],
) -> T {
    let scale = T::from_f64(1.0 / (q.len() as f64).sqrt());
    let mut scores: Vec<T> = keys
        .map(|(k, bias)| {
            let mut dot = T::default();
            for (a, b) in q.iter().zip(k) {
                dot += *a * *b;
            }
            dot * scale + bias
        })
        .collect();
    let lse = softmax_row(&mut scores);
    out.fill(T::default());
    for (p, v) in scores.iter().zip(values) {
        for (o, x) in out.iter_mut().zip(*v) {
            *o += *p * *x;
        }
    }
    lse
}

impl Operator for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        super::arity(inputs, 3 + usize::from(self.masked) + usize::from(self.counted))?;
        for i in 0..3 {
            float(inputs, i)?;
        }
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let r = q.rank();
        crate::ensure!(r >= 4, "wants q [..., Lq, H, D], got {q}");
        crate::ensure!(k.shape == v.shape, "keys {k} and values {v} differ in shape");
        let same = k.rank() == r && k.shape[..r - 3] == q.shape[..r - 3] && k.shape[r - 2..] == q.shape[r - 2..];
        crate::ensure!(same, "queries {q} and keys {k} do not fit");
        crate::ensure!(k.shape[r - 3] > 0 && q.last() > 0, "attention over no keys: {k}");
        let (batch, keys) = (&q.shape[..r - 3], k.shape[r - 3]);
        if self.masked {
            let m = inputs[3];
            float(inputs, 3)?;
            let fits = m.rank() >= 1 && m.last() == keys && batch.ends_with(&m.shape[..m.rank() - 1]);
            crate::ensure!(fits, "the mask for {batch:?} and {keys} keys is {m}");
        }
        if self.counted {
            let n = inputs[inputs.len() - 1];
            crate::ensure!(*n == TensorType::new(DType::I32, []), "the number of keys must be i32[], is {n}");
        }
        let mut lse = batch.to_vec();
        lse.extend([q.shape[r - 2], q.shape[r - 3]]);
        Ok(vec![q.clone(), TensorType::f32(lse)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let r = q.shape.len();
        let (lq, h, d, lk) = (q.shape[r - 3], q.shape[r - 2], q.shape[r - 1], k.shape[r - 3]);
        let batches: usize = q.shape[..r - 3].iter().product();
        let mut count = lk;
        if self.counted {
            let n = inputs[inputs.len() - 1].data[0].to_f64();
            crate::ensure!(n >= 1.0 && n <= lk as f64, "{n} keys of {lk}");
            count = n as usize;
        }
        let mut out = Tensor::filled(q.shape.clone(), T::default());
        let mut lse = vec![T::default(); batches * h * lq];
        for b in 0..batches {
            let mask = self.masked.then(|| {
                let start = b * lk % inputs[3].data.len();
                &inputs[3].data[start..start + lk]
            });
            for head in 0..h {
                let row = |j: usize| ((b * lk + j) * h + head) * d;
                let values: Vec<&[T]> = (0..count).map(|j| &v.data[row(j)..row(j) + d]).collect();
                for i in 0..lq {
                    let at = ((b * lq + i) * h + head) * d;
                    let keys = (0..count).map(|j| (&k.data[row(j)..row(j) + d], mask.map_or(T::default(), |m| m[j])));
                    lse[(b * h + head) * lq + i] =
                        attend_row(&q.data[at..at + d], keys, &values, &mut out.data[at..at + d]);
                }
            }
        }
        let mut shape = q.shape[..r - 3].to_vec();
        shape.extend([h, lq]);
        Ok(vec![out, Tensor::new(shape, lse)?])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let keys = inputs[1].shape[inputs[1].rank() - 3] as u64;
        Work { flops: inputs[0].elements().saturating_mul(keys).saturating_mul(4), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        if index < 3 { Access::Rows } else { Access::Dense }
    }

    fn differentiable(&self, input: usize) -> bool {
        input < 3
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, [o, lse]) = (cx.cotangent()?, [cx.outputs[0], cx.outputs[1]]);
        let mut inputs = cx.inputs[..3].to_vec();
        inputs.extend([o, g, lse]);
        inputs.extend(&cx.inputs[3..]);
        let op = AttentionGrad { masked: self.masked, counted: self.counted };
        let mut out: Vec<Option<Value>> = cx.add_all(op, &inputs)?.into_iter().map(Some).collect();
        out.resize(cx.inputs.len(), None);
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let f32 = |shape: &[usize]| TensorType::f32(shape);
        let (q, k) = (f32(&[2, 5, 2, 8]), f32(&[2, 7, 2, 8]));
        let count = TensorType::new(DType::I32, []);
        let long = (f32(&[1, 150, 2, 16]), f32(&[1, 300, 2, 16]));
        vec![
            Sample::new(Self::full(), [q.clone(), k.clone(), k.clone()]),
            Sample::new(Self::full(), [long.0, long.1.clone(), long.1]),
            Sample::new(Self { masked: true, counted: false }, [q.clone(), k.clone(), k.clone(), f32(&[2, 7])]),
            Sample::new(
                Self { masked: true, counted: false },
                [f32(&[2, 3, 4, 1, 6]), f32(&[2, 3, 5, 1, 6]), f32(&[2, 3, 5, 1, 6]), f32(&[3, 5])],
            ),
            Sample::new(Self { masked: false, counted: true }, [q, k.clone(), k, count]).with_integers([4]),
        ]
    }
}
