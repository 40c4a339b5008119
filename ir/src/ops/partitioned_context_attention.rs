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
///
/// With `splits` above 1 the keys of a group (context first, then its window) are dealt out in that many contiguous parts, and
/// the outputs get a leading dimension `splits`, in `f32`: partial results for [`super::MergeAttention`]. A part without keys
/// gives 0 and the log-sum-exp [`NO_KEYS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionedContextAttention {
    /// Which keys each query sees besides the context.
    pub partition: Partition,
    /// Number of parts that the keys of a group are dealt out in.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub splits: usize,
}

/// Log-sum-exp of no keys: far below any score, but a number.
pub const NO_KEYS: f64 = -1e30;

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// Which of `keys` keys part `part` of `splits` has.
pub fn part_of_keys(keys: usize, part: usize, splits: usize) -> std::ops::Range<usize> {
    let size = keys.div_ceil(splits);
    (part * size).min(keys)..((part + 1) * size).min(keys)
}

impl PartitionedContextAttention {
    /// The whole of the keys at once.
    pub fn new(partition: Partition) -> Self {
        Self { partition, splits: 1 }
    }
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
        crate::ensure!((1..=1 << 16).contains(&self.splits), "keys cannot be dealt out in {} parts", self.splits);
        let lse = TensorType::f32([q.shape[0], q.shape[2], q.shape[1]]);
        if self.splits == 1 {
            return Ok(vec![q.clone(), lse]);
        }
        let split = |t: &TensorType| TensorType::f32([&[self.splits], t.shape.as_slice()].concat());
        Ok(vec![split(q), split(&lse)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (q, k, v, ck, cv) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
        let [batch, lq, h, d] = [q.shape[0], q.shape[1], q.shape[2], q.shape[3]];
        let (lk, n) = (k.shape[1], ck.shape[0]);
        let (rows, all) = (batch * h * lq, batch * lq * h * d);
        let mut out = vec![T::default(); self.splits * all];
        let mut lse = vec![T::from_f64(NO_KEYS); self.splits * rows];
        for group in self.partition.groups() {
            // How often each key of the group counts, as a term added to its score.
            let bias = |j: usize| T::from_f64((group.times(j - group.keys.start) as f64).ln());
            for (b, head, part) in product(batch, h, self.splits) {
                let context = |j: usize| (j * h + head) * d..(j * h + head) * d + d;
                let latent = |j: usize| ((b * lk + j) * h + head) * d..((b * lk + j) * h + head) * d + d;
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for j in part_of_keys(n + group.keys.len(), part, self.splits) {
                    if j < n {
                        keys.push((&ck.data[context(j)], T::default()));
                        values.push(&cv.data[context(j)]);
                    } else {
                        let j = group.keys.start + j - n;
                        keys.push((&k.data[latent(j)], bias(j)));
                        values.push(&v.data[latent(j)]);
                    }
                }
                if keys.is_empty() {
                    continue;
                }
                for i in group.queries.clone() {
                    let at = ((b * lq + i) * h + head) * d;
                    let result = &mut out[part * all + at..part * all + at + d];
                    lse[part * rows + (b * h + head) * lq + i] =
                        attend_row(&q.data[at..at + d], keys.iter().copied(), &values, result);
                }
            }
        }
        let (mut shape, mut lse_shape) = (q.shape.clone(), vec![batch, h, lq]);
        if self.splits > 1 {
            shape.insert(0, self.splits);
            lse_shape.insert(0, self.splits);
        }
        Ok(vec![Tensor::new(shape, out)?, Tensor::new(lse_shape, lse)?])
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
            for splits in [1, 3] {
                let inputs = [q.clone(), k.clone(), k.clone(), c.clone(), c.clone()];
                out.push(Sample::new(Self { partition, splits }, inputs));
            }
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

/// All triples below three bounds, last fastest.
fn product(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |x| (0..b).flat_map(move |y| (0..c).map(move |z| (x, y, z))))
}
