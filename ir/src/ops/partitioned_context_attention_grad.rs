//! Gradient of CCA's attention.

use serde::{Deserialize, Serialize};

use super::attention_grad::Row;
use super::{PartitionedContextAttention, arity, float};
use crate::error::Problem;
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::partition::Partition;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Gradient of [`PartitionedContextAttention`] (with all keys in one part) to everything that it reads, probabilities computed
/// again from the log-sum-exp.
///
/// Inputs: `q [B, Lq, H, D]`, `k, v [B, Lk, H, D]`, `ck, cv [n, H, D]`, the result `o` and its gradient `g` (as `q`), the row
/// log-sum-exp `l [B, H, Lq]`. Outputs: `dq, dk, dv, dck, dcv`. A key that no window sees has gradient 0; the context's
/// gradients are sums over the batch and all queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionedContextAttentionGrad {
    /// Which keys each query sees besides the context.
    pub partition: Partition,
}

impl Operator for PartitionedContextAttentionGrad {
    const NAME: &'static str = "partitioned_context_attention_grad";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 8)?;
        for i in 0..8 {
            float(inputs, i)?;
        }
        let (q, o, g, lse) = (inputs[0], inputs[5], inputs[6], inputs[7]);
        let want = PartitionedContextAttention::new(self.partition).infer(&inputs[..5])?;
        crate::ensure!(o.shape == q.shape && g.shape == q.shape, "results and gradients of {q} are {o} and {g}");
        crate::ensure!(*lse == want[1], "the log-sum-exp of {q} must be {}, is {lse}", want[1]);
        Ok(inputs[..5].iter().map(|&t| t.clone()).collect())
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let [q, k, v, ck, cv, o, g, lse] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| inputs[i]);
        let [batch, lq, h, d] = [q.shape[0], q.shape[1], q.shape[2], q.shape[3]];
        let (lk, n) = (k.shape[1], ck.shape[0]);
        let zeros = |t: &Tensor<T>| Tensor::filled(t.shape.clone(), T::default());
        let (mut dq, mut dk, mut dv, mut dck, mut dcv) = (zeros(q), zeros(k), zeros(v), zeros(ck), zeros(cv));
        for b in 0..batch {
            for group in self.partition.groups() {
                for head in 0..h {
                    for i in group.queries.clone() {
                        let at = ((b * lq + i) * h + head) * d;
                        let at = at..at + d;
                        let (q, o, g) = (&q.data[at.clone()], &o.data[at.clone()], &g.data[at.clone()]);
                        let row = Row { q, o, g, lse: lse.data[(b * h + head) * lq + i] };
                        let dq = &mut dq.data[at];
                        for j in 0..n {
                            let c = (j * h + head) * d;
                            let c = c..c + d;
                            let (k, v) = (&ck.data[c.clone()], &cv.data[c.clone()]);
                            row.add(k, v, T::default(), dq, &mut dck.data[c.clone()], &mut dcv.data[c]);
                        }
                        for j in group.keys.clone() {
                            let c = ((b * lk + j) * h + head) * d;
                            let c = c..c + d;
                            let (k, v) = (&k.data[c.clone()], &v.data[c.clone()]);
                            let bias = T::from_f64((group.times(j) as f64).ln());
                            row.add(k, v, bias, dq, &mut dk.data[c.clone()], &mut dv.data[c]);
                        }
                    }
                }
            }
        }
        Ok(vec![dq, dk, dv, dck, dcv])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let forward = PartitionedContextAttention::new(self.partition).work(&inputs[..5], &outputs[..1]);
        // Five products where the forward pass has two.
        Work { flops: forward.flops / 2 * 5, bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        if index < 7 { Access::Rows } else { Access::Dense }
    }

    fn samples() -> Vec<Sample<Self>> {
        let whole = PartitionedContextAttention::samples().into_iter().filter(|s| s.op.splits == 1);
        whole
            .map(|s| {
                let outputs = s.op.infer(&s.inputs.iter().collect::<Vec<_>>()).unwrap_or_default();
                let mut inputs = s.inputs.clone();
                inputs.extend([outputs[0].clone(), outputs[0].clone(), outputs[1].clone()]);
                Sample::new(Self { partition: s.op.partition }, inputs)
            })
            .collect()
    }
}
