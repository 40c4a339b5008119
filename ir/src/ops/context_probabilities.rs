//! The weights of CCA's attention, apart from the values that they weigh.

use serde::{Deserialize, Serialize};

use super::attention::attend_row;
use super::{Binary, BinaryKind, Constant, MatMul, Slice, Transpose, WindowMix, WindowSpread, float};
use crate::error::{IrError, Problem};
use crate::grad::{Backward, Gradients};
use crate::graph::Value;
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::partition::{Edge, Partition};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `softmax(q [ck, k_window]ᵀ / sqrt(D))` per head: what [`super::PartitionedContextAttention`] multiplies values by.
///
/// Inputs: `q [B, Lq, H, D]`, `ck [n, H, D]` and, where there is a partition, `k [B, Lk, H, D]`. Output: `[B, Lq, n + s, H]`, the
/// context's weights first; `s` is [`Partition::widest`], and keys that a narrower window lacks weigh 0. Heads are innermost: the
/// weights of neighbouring keys of all heads are one run, the rows of `[n + s, H, d]` values that they multiply too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextProbabilities {
    /// Which keys each query sees besides the context; `None`: no others.
    pub partition: Option<Partition>,
}

impl ContextProbabilities {
    /// Most keys of a query besides the context.
    pub fn window(&self) -> usize {
        self.partition.map_or(0, |p| p.widest())
    }
}

impl Operator for ContextProbabilities {
    const NAME: &'static str = "context_probabilities";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        super::arity(inputs, 2 + usize::from(self.partition.is_some()))?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        let (q, ck) = (inputs[0], inputs[1]);
        crate::ensure!(q.rank() == 4 && ck.rank() == 3, "wants q [B, L, H, D] and ck [n, H, D], got {q} and {ck}");
        crate::ensure!(ck.shape[1..] == q.shape[2..], "queries {q} and context {ck} do not fit");
        crate::ensure!(ck.shape[0] > 0 && q.last() > 0, "attention needs at least one context token: {ck}");
        if let Some(p) = &self.partition {
            p.check()?;
            let k = inputs[2];
            let fits = k.rank() == 4 && k.shape[0] == q.shape[0] && k.shape[2..] == q.shape[2..];
            crate::ensure!(fits, "queries {q} and keys {k} do not fit");
            crate::ensure!(
                q.shape[1] == p.queries() && k.shape[1] == p.keys(),
                "the partition is for {} queries and {} keys, there are {} and {}",
                p.queries(),
                p.keys(),
                q.shape[1],
                k.shape[1]
            );
        }
        Ok(vec![q.with_shape([q.shape[0], q.shape[1], ck.shape[0] + self.window(), q.shape[2]])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (q, ck) = (inputs[0], inputs[1]);
        let [batch, lq, h, d] = [q.shape[0], q.shape[1], q.shape[2], q.shape[3]];
        let n = ck.shape[0];
        let width = n + self.window();
        let mut out = Tensor::filled([batch, lq, width, h], T::default());
        let groups = match &self.partition {
            Some(p) => p.groups(),
            None => vec![crate::partition::Group { queries: 0..lq, keys: 0..0, first: 1, last: 1 }],
        };
        for group in groups {
            // The weights are the attention over values that are unit vectors.
            let keys = n + group.keys.len();
            let units: Vec<Vec<T>> =
                (0..keys).map(|j| (0..keys).map(|i| T::from_f64(f64::from(u8::from(i == j)))).collect()).collect();
            let units: Vec<&[T]> = units.iter().map(Vec::as_slice).collect();
            for (b, head) in (0..batch).flat_map(|b| (0..h).map(move |head| (b, head))) {
                let key = |j: usize| {
                    if j < n {
                        let at = (j * h + head) * d;
                        return (&ck.data[at..at + d], T::default());
                    }
                    let k = inputs[2];
                    let at = ((b * k.shape[1] + group.keys.start + j - n) * h + head) * d;
                    (&k.data[at..at + d], T::from_f64((group.times(group.keys.start + j - n) as f64).ln()))
                };
                for i in group.queries.clone() {
                    let at = ((b * lq + i) * h + head) * d;
                    let mut row = vec![T::default(); keys];
                    attend_row(&q.data[at..at + d], (0..keys).map(key), &units, &mut row);
                    for (j, p) in row.into_iter().enumerate() {
                        out.data[((b * lq + i) * width + j) * h + head] = p;
                    }
                }
            }
        }
        Ok(vec![out])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let (q, n) = (inputs[0], inputs[1].shape[0] as u64);
        let pairs = (q.shape[1] as u64).saturating_mul(n).saturating_add(self.partition.map_or(0, |p| p.pairs()));
        let per_pair = [q.shape[0], q.shape[2], q.shape[3]].iter().fold(2u64, |n, &d| n.saturating_mul(d as u64));
        Work { flops: per_pair.saturating_mul(pairs), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Rows
    }

    /// With `t = p g` for the gradient `g` of the weights `p`: `s = (t - p Σ t) / sqrt(D)` are those of the scores, and what queries and keys
    /// get are products per head.
    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (q, ck, p, g) = (cx.inputs[0], cx.inputs[1], cx.outputs[0], cx.cotangent()?);
        let &[batch, lq, h, d] = cx.shape(q).as_slice() else { return Err(cx.error("queries are no [B, L, H, D]")) };
        let n = cx.shape(ck)[0];
        let binary = |cx: &mut Backward<'_>, kind, a, b| cx.add(Binary { kind }, &[a, b]);
        let weighted = binary(cx, BinaryKind::Mul, p, g)?;
        let sum = cx.sum_to(weighted, &[batch, lq, 1, h])?;
        let apart = binary(cx, BinaryKind::Sub, g, sum)?;
        let scores = binary(cx, BinaryKind::Mul, apart, p)?;
        let scale = cx.add(Constant { ty: TensorType::f32([]), value: 1.0 / (d as f64).sqrt() }, &[])?;
        let scores = binary(cx, BinaryKind::Mul, scores, scale)?;

        // Of the context: [H, B Lq, n] against [H, n, D] and [H, B Lq, D].
        let own = cx.add(Slice { axis: 2, start: 0, len: n }, &[scores])?;
        let own = cx.reshape(own, [batch * lq, n, h])?;
        let mut of_q = None;
        if cx.wants(0) {
            let (own, keys) = (turn(cx, own, &[2, 0, 1])?, turn(cx, ck, &[1, 0, 2])?);
            let product = cx.add(MatMul { transpose_b: false, out: None }, &[own, keys])?;
            let product = turn(cx, product, &[1, 0, 2])?;
            of_q = Some(cx.reshape(product, [batch, lq, h, d])?);
        }
        let mut of_ck = None;
        if cx.wants(1) {
            let queries = cx.reshape(q, [batch * lq, h, d])?;
            let (own, queries) = (turn(cx, own, &[2, 1, 0])?, turn(cx, queries, &[1, 0, 2])?);
            let product = cx.add(MatMul { transpose_b: false, out: None }, &[own, queries])?;
            of_ck = Some(turn(cx, product, &[1, 0, 2])?);
        }
        let (Some(partition), Some(&k)) = (self.partition, cx.inputs.get(2)) else { return Ok(vec![of_q, of_ck]) };

        // Of the window, heads as batch entries: [B H, Lq, 1, s] against [B H, Lk, 1, D] and [B H, Lq, 1, D].
        let (s, lk) = (self.window(), cx.shape(k)[1]);
        let own = cx.add(Slice { axis: 2, start: n, len: s }, &[scores])?;
        let own = turn(cx, own, &[0, 3, 1, 2])?;
        let own = cx.reshape(own, [batch * h, lq, 1, s])?;
        let by_head = |cx: &mut Backward<'_>, v: Value, rows: usize| {
            let v = turn(cx, v, &[0, 2, 1, 3])?;
            cx.reshape(v, [batch * h, rows, 1, d])
        };
        let of_heads = |cx: &mut Backward<'_>, v: Value, rows: usize| {
            let v = cx.reshape(v, [batch, h, rows, d])?;
            turn(cx, v, &[0, 2, 1, 3])
        };
        if let Some(context) = of_q {
            let keys = by_head(cx, k, lk)?;
            let mixed = cx.add(WindowMix { partition }, &[own, keys])?;
            let window = of_heads(cx, mixed, lq)?;
            of_q = Some(binary(cx, BinaryKind::Add, context, window)?);
        }
        let mut of_k = None;
        if cx.wants(2) {
            let queries = by_head(cx, q, lq)?;
            let sums = cx.add(WindowSpread { partition }, &[own, queries])?;
            of_k = Some(of_heads(cx, sums, lk)?);
        }
        Ok(vec![of_q, of_ck, of_k])
    }

    fn samples() -> Vec<Sample<Self>> {
        let f32 = |shape: &[usize]| TensorType::f32(shape);
        let mut out = vec![
            Sample::new(Self { partition: None }, [f32(&[2, 5, 2, 8]), f32(&[3, 2, 8])]),
            Sample::new(Self { partition: None }, [f32(&[1, 150, 3, 16]), f32(&[70, 3, 16])]),
        ];
        for p in sample_partitions() {
            let inputs = [f32(&[2, p.queries(), 2, 8]), f32(&[3, 2, 8]), f32(&[2, p.keys(), 2, 8])];
            out.push(Sample::new(Self { partition: Some(p) }, inputs));
        }
        out
    }
}

/// Dimensions in another order.
fn turn(cx: &mut Backward<'_>, v: Value, perm: &[usize]) -> Result<Value, IrError> {
    cx.add(Transpose { perm: perm.to_vec() }, &[v])
}

/// Partitions of every kind and edge, for samples.
pub(super) fn sample_partitions() -> Vec<Partition> {
    let mut out = Vec::new();
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        for (frames, length, scale, offset, divisor) in [(4, 21, 5, 2, 1), (5, 29, 58, 29, 10), (6, 4, 1, 0, 1)] {
            let size = 3 * (length / frames).max(1);
            out.push(Partition::Windows { frames, tokens_per_frame: 3, length, size, scale, offset, divisor, edge });
        }
    }
    for (frames, length) in [(4, 21), (6, 4), (3, 3)] {
        out.push(Partition::NearestFrame { frames, tokens_per_frame: 6, length });
    }
    out
}
