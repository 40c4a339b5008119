//! Gradient of scaled dot product attention.

use serde::{Deserialize, Serialize};

use super::{Attention, float};
use crate::error::Problem;
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Gradient of [`Attention`] to its queries, keys and values. The probabilities are computed again from the log-sum-exp that the
/// forward pass left: nothing of size queries x keys is stored.
///
/// Inputs: `q [.., Lq, H, D]`, `k, v [.., Lk, H, D]`, the result `o` and its gradient `g` (as `q`), the row log-sum-exp
/// `l [.., H, Lq]`; then the mask where `masked` and the number of keys where `counted`, as [`Attention`] takes them. Outputs:
/// `dq, dk, dv`. Keys that are not there have gradient 0. Per head, with `s = q kᵀ / sqrt(D) + mask`:
///
/// `p = e^(s - l)`, `dv = pᵀ g`, `ds = p (g vᵀ - rowsum(g o))`, `dq = ds k / sqrt(D)`, `dk = dsᵀ q / sqrt(D)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionGrad {
    /// Whether there is a mask.
    pub masked: bool,
    /// Whether the number of keys is given at run time.
    pub counted: bool,
}

/// One query's share of the gradients of its keys and values.
pub(super) struct Row<'a, T> {
    pub q: &'a [T],
    pub o: &'a [T],
    pub g: &'a [T],
    pub lse: T,
}

impl<T: Real> Row<'_, T> {
    /// Adds what one key contributes to `dq`, and the query to the key's `dk` and `dv`; `bias` is added to the score.
    pub(super) fn add(&self, k: &[T], v: &[T], bias: T, dq: &mut [T], dk: &mut [T], dv: &mut [T]) {
        let scale = T::from_f64(1.0 / (self.q.len() as f64).sqrt());
        let dot = |a: &[T], b: &[T]| {
            let mut sum = T::default();
            for (x, y) in a.iter().zip(b) {
                sum += *x * *y;
            }
            sum
        };
        let p = (dot(self.q, k) * scale + bias - self.lse).exp();
        let ds = p * (dot(self.g, v) - dot(self.g, self.o)) * scale;
        for i in 0..self.q.len() {
            dv[i] += p * self.g[i];
            dq[i] += ds * k[i];
            dk[i] += ds * self.q[i];
        }
    }
}

impl AttentionGrad {
    fn forward(&self) -> Attention {
        Attention { masked: self.masked, counted: self.counted }
    }
}

impl Operator for AttentionGrad {
    const NAME: &'static str = "attention_grad";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        super::arity(inputs, 6 + usize::from(self.masked) + usize::from(self.counted))?;
        for i in 0..6 {
            float(inputs, i)?;
        }
        let (q, k, v, o, g, lse) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5]);
        let mut forward = vec![q, k, v];
        forward.extend(&inputs[6..]);
        let want = self.forward().infer(&forward)?;
        crate::ensure!(o.shape == q.shape && g.shape == q.shape, "results and gradients of {q} are {o} and {g}");
        crate::ensure!(*lse == want[1], "the log-sum-exp of {q} must be {}, is {lse}", want[1]);
        Ok(vec![q.clone(), k.clone(), v.clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (q, k, v, o, g, lse) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5]);
        let r = q.shape.len();
        let (lq, h, d, lk) = (q.shape[r - 3], q.shape[r - 2], q.shape[r - 1], k.shape[r - 3]);
        let batches: usize = q.shape[..r - 3].iter().product();
        let mut count = lk;
        if self.counted {
            let n = inputs[inputs.len() - 1].data[0].to_f64();
            crate::ensure!(n >= 1.0 && n <= lk as f64, "{n} keys of {lk}");
            count = n as usize;
        }
        let zeros = |t: &Tensor<T>| Tensor::filled(t.shape.clone(), T::default());
        let (mut dq, mut dk, mut dv) = (zeros(q), zeros(k), zeros(v));
        for b in 0..batches {
            for head in 0..h {
                for i in 0..lq {
                    let at = ((b * lq + i) * h + head) * d;
                    let at = at..at + d;
                    let (q, o, g) = (&q.data[at.clone()], &o.data[at.clone()], &g.data[at.clone()]);
                    let row = Row { q, o, g, lse: lse.data[(b * h + head) * lq + i] };
                    for j in 0..count {
                        let bias = if self.masked {
                            inputs[6].data[(b * lk + j) % inputs[6].data.len()]
                        } else {
                            T::default()
                        };
                        let key = ((b * lk + j) * h + head) * d;
                        let key = key..key + d;
                        let (k, v) = (&k.data[key.clone()], &v.data[key.clone()]);
                        let (dk, dv) = (&mut dk.data[key.clone()], &mut dv.data[key]);
                        row.add(k, v, bias, &mut dq.data[at.clone()], dk, dv);
                    }
                }
            }
        }
        Ok(vec![dq, dk, dv])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        // Five products: the scores again, g vᵀ, and one for each output.
        let keys = inputs[1].shape[inputs[1].rank() - 3] as u64;
        Work { flops: inputs[0].elements().saturating_mul(keys).saturating_mul(10), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        if index < 5 { Access::Rows } else { Access::Dense }
    }

    fn samples() -> Vec<Sample<Self>> {
        Attention::samples()
            .into_iter()
            .map(|s| {
                let outputs = s.op.infer(&s.inputs.iter().collect::<Vec<_>>()).unwrap_or_default();
                let mut inputs = s.inputs[..3].to_vec();
                inputs.extend([outputs[0].clone(), outputs[0].clone(), outputs[1].clone()]);
                inputs.extend_from_slice(&s.inputs[3..]);
                let op = Self { masked: s.op.masked, counted: s.op.counted };
                Sample::new(op, inputs).with_integers(s.integers)
            })
            .collect()
    }
}
