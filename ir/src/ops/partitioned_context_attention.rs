//! CCA's attention: a window of the other stream's keys and the context tokens, as one operator.

use serde::{Deserialize, Serialize};

use super::attention::attend_row;
use super::{arity, float};
use crate::error::Problem;
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::partition::{Edge, Partition};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `softmax(q [ck, k_window]ᵀ / sqrt(D)) [cv, v_window]` per head (SPEC 4), keys read in place.
///
/// Inputs: `q [B, Lq, H, D]`, `k, v [B, Lk, H, D]`, `ck, cv [n, H, D]`. Outputs: the result
/// `[B, Lq, H, D]` and the row log-sum-exp `[B, H, Lq]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionedContextAttention {
    /// Which keys each query sees besides the context.
    pub partition: Partition,
}

impl Operator for PartitionedContextAttention {
    const NAME: &'static str = "partitioned_context_attention";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 5)?;
        for i in 0..5 {
            float(inputs, i)?;
        }
        self.partition.check()?;
        let (q, k, v, ck, cv) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
        crate::ensure!(q.rank() == 4 && k.rank() == 4 && ck.rank() == 3, "wants q, k [B, L, H, D] and ck [n, H, D]");
        crate::ensure!(k.shape == v.shape && ck.shape == cv.shape, "keys and values differ in shape");
        crate::ensure!(
            k.shape[0] == q.shape[0] && k.shape[2..] == q.shape[2..] && ck.shape[1..] == q.shape[2..],
            "queries {q}, keys {k} and context {ck} do not fit"
        );
        crate::ensure!(
            q.shape[1] == self.partition.queries() && k.shape[1] == self.partition.keys(),
            "the partition is for {} queries and {} keys, there are {} and {}",
            self.partition.queries(),
            self.partition.keys(),
            q.shape[1],
            k.shape[1]
        );
        crate::ensure!(ck.shape[0] > 0 && q.last() > 0, "attention needs at least one context token: {ck}");
        Ok(vec![q.clone(), TensorType::f32([q.shape[0], q.shape[2], q.shape[1]])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (q, k, v, ck, cv) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
        let [batch, lq, h, d] = [q.shape[0], q.shape[1], q.shape[2], q.shape[3]];
        let (lk, n) = (k.shape[1], ck.shape[0]);
        let mut out = Tensor::filled(q.shape.clone(), T::default());
        let mut lse = Tensor::filled([batch, h, lq], T::default());
        for group in self.partition.groups() {
            // How often each key of the group counts, as a term added to its score.
            let bias: Vec<T> = group
                .keys
                .clone()
                .map(|j| {
                    let mut times = 1;
                    if j == group.keys.start {
                        times += group.first - 1;
                    }
                    if j + 1 == group.keys.end {
                        times += group.last - 1;
                    }
                    T::from_f64((times as f64).ln())
                })
                .collect();
            for b in 0..batch {
                for head in 0..h {
                    let context = |j: usize| (j * h + head) * d;
                    let latent = |j: usize| ((b * lk + j) * h + head) * d;
                    let mut values: Vec<&[T]> = (0..n).map(|j| &cv.data[context(j)..context(j) + d]).collect();
                    values.extend(group.keys.clone().map(|j| &v.data[latent(j)..latent(j) + d]));
                    for i in group.queries.clone() {
                        let at = ((b * lq + i) * h + head) * d;
                        let keys = (0..n)
                            .map(|j| (&ck.data[context(j)..context(j) + d], T::default()))
                            .chain(group.keys.clone().zip(&bias).map(|(j, &w)| (&k.data[latent(j)..latent(j) + d], w)));
                        lse.data[(b * h + head) * lq + i] =
                            attend_row(&q.data[at..at + d], keys, &values, &mut out.data[at..at + d]);
                    }
                }
            }
        }
        Ok(vec![out, lse])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let (q, n) = (inputs[0], inputs[3].shape[0] as u64);
        let pairs = self.partition.pairs().saturating_add((q.shape[1] as u64).saturating_mul(n));
        let per_pair = [q.shape[0], q.shape[2], q.shape[3]].iter().fold(4u64, |n, &d| n.saturating_mul(d as u64));
        Work { flops: per_pair.saturating_mul(pairs), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Rows
    }

    fn samples() -> Vec<Sample<Self>> {
        let mut out = Vec::new();
        let mut add = |partition: Partition, batch: usize, h: usize, d: usize, n: usize| {
            let q = TensorType::f32([batch, partition.queries(), h, d]);
            let k = TensorType::f32([batch, partition.keys(), h, d]);
            let c = TensorType::f32([n, h, d]);
            out.push(Sample::new(Self { partition }, [q, k.clone(), k, c.clone(), c]));
        };
        for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
            for (frames, length, scale, offset, divisor) in [(4, 21, 5, 2, 1), (5, 29, 58, 29, 10), (6, 4, 1, 0, 1)] {
                let c = (length / frames).max(1);
                let p = Partition::Windows {
                    frames,
                    tokens_per_frame: 3,
                    length,
                    size: 3 * c,
                    scale,
                    offset,
                    divisor,
                    edge,
                };
                add(p, 2, 2, 8, 3);
            }
        }
        for (frames, length) in [(4, 21), (5, 29), (6, 4), (3, 3)] {
            add(Partition::NearestFrame { frames, tokens_per_frame: 6, length }, 2, 2, 8, 5);
        }
        out
    }
}
