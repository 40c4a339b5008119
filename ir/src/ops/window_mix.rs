//! A product of attention weights with the values of each query's window.

use serde::{Deserialize, Serialize};

use super::context_probabilities::sample_partitions;
use super::{WindowDots, WindowSpread, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::partition::Partition;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `Σ_j p[b, i, r, j] u[b, window(i) + j / H, j mod H]`: weights times the window's values, which are read in place.
///
/// Inputs: `p [B, Lq, R, s H]` with `s` = [`Partition::widest`], key by key and in each key head by head; `u [B, Lk, H, d]`. Output:
/// `[B, Lq, R, d]`. With `R = 1` the heads' results are summed: values that absorbed an output projection. With `H = 1` and the heads
/// as `R`, all heads mix the same values: tokens that are projected afterwards. Weights beyond a narrower window are not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowMix {
    /// Which values each query sees.
    pub partition: Partition,
}

impl Operator for WindowMix {
    const NAME: &'static str = "window_mix";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        float(inputs, 1)?;
        self.partition.check()?;
        let (p, u) = (inputs[0], inputs[1]);
        crate::ensure!(p.rank() == 4 && u.rank() == 4, "wants p [B, Lq, R, s H] and u [B, Lk, H, d], got {p} and {u}");
        crate::ensure!(u.shape[2] > 0 && u.shape[3] > 0 && p.shape[2] > 0, "nothing to mix: {p} and {u}");
        crate::ensure!(
            p.shape[0] == u.shape[0] && p.shape[1] == self.partition.queries() && u.shape[1] == self.partition.keys(),
            "the partition is for {} queries and {} keys, weights are {p}, values {u}",
            self.partition.queries(),
            self.partition.keys()
        );
        let want = self.partition.widest() * u.shape[2];
        crate::ensure!(p.shape[3] == want, "{want} weights a row are wanted for values {u}, weights are {p}");
        Ok(vec![p.with_shape([p.shape[0], p.shape[1], p.shape[2], u.shape[3]])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (p, u) = (inputs[0], inputs[1]);
        let (rows, h, d) = (p.shape[2], u.shape[2], u.shape[3]);
        let width = p.shape[3];
        let mut out = Tensor::filled([p.shape[0], p.shape[1], rows, d], T::default());
        for group in self.partition.groups() {
            let used = group.keys.len() * h;
            for b in 0..p.shape[0] {
                let first = (b * u.shape[1] + group.keys.start) * h * d;
                for i in group.queries.clone().flat_map(|i| (0..rows).map(move |r| (i, r))) {
                    let row = (b * p.shape[1] + i.0) * rows + i.1;
                    let to = &mut out.data[row * d..(row + 1) * d];
                    for (w, value) in p.data[row * width..][..used].iter().zip(u.data[first..].chunks_exact(d)) {
                        for (o, x) in to.iter_mut().zip(value) {
                            *o += *w * *x;
                        }
                    }
                }
            }
        }
        Ok(vec![out])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let (p, u) = (inputs[0], inputs[1]);
        let sizes = [p.shape[0], p.shape[2], u.shape[2], u.shape[3]];
        let per_pair = sizes.iter().fold(2u64, |n, &d| n.saturating_mul(d as u64));
        Work { flops: per_pair.saturating_mul(self.partition.pairs()), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        // Values of neighbouring keys and heads are taken as one run of rows.
        if index == 0 { Access::Any } else { Access::Dense }
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (p, u, g) = (cx.inputs[0], cx.inputs[1], cx.cotangent()?);
        let mut out = vec![None, None];
        if cx.wants(0) {
            out[0] = Some(cx.add(WindowDots { partition: self.partition }, &[g, u])?);
        }
        if cx.wants(1) {
            out[1] = Some(cx.add(WindowSpread { partition: self.partition }, &[p, g])?);
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let mut out = Vec::new();
        for partition in sample_partitions() {
            let s = partition.widest();
            let (lq, lk) = (partition.queries(), partition.keys());
            for [rows, heads, d] in [[1, 3, 5], [2, 1, 7]] {
                let p = TensorType::f32([2, lq, rows, s * heads]);
                out.push(Sample::new(Self { partition }, [p, TensorType::f32([2, lk, heads, d])]));
            }
        }
        out
    }
}
