//! Weighted rows of the queries, summed up at the values that they see.

use serde::{Deserialize, Serialize};

use super::context_probabilities::sample_partitions;
use super::{WindowDots, WindowMix, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::partition::Partition;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `u[b, k, h] = Σ p[b, i, r, (k - window(i)) H + h] g[b, i, r]` over the queries `i` that see `k`, and `r`: what [`WindowMix`]'s values
/// get of its result's gradient.
///
/// Inputs: `p [B, Lq, R, s H]` with `s` = [`Partition::widest`], `g [B, Lq, R, d]`. Output: `[B, Lk, H, d]`, 0 for keys that no window
/// sees. Weights beyond a narrower window are not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowSpread {
    /// Which values each query sees.
    pub partition: Partition,
}

impl Operator for WindowSpread {
    const NAME: &'static str = "window_spread";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 1)?;
        let (p, g) = (inputs[0], inputs[1]);
        crate::ensure!(p.rank() == 4 && g.rank() == 4, "wants p [B, Lq, R, s H] and g [B, Lq, R, d], got {p} and {g}");
        self.partition.check()?;
        // A partition of queries that see no keys has weights of width 0, which say nothing of the heads.
        let heads = p.last().checked_div(self.partition.widest()).unwrap_or(0);
        let u = g.with_shape([g.shape[0], self.partition.keys(), heads, g.shape[3]]);
        let mixed = WindowMix { partition: self.partition }.infer(&[p, &u])?;
        crate::ensure!(mixed[0].shape == g.shape, "weights {p} and rows {g} do not fit");
        Ok(vec![u])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (p, g) = (inputs[0], inputs[1]);
        let (rows, width, d) = (p.shape[2], p.shape[3], g.shape[3]);
        let (lk, h) = (self.partition.keys(), width / self.partition.widest().max(1));
        let mut out = Tensor::filled([g.shape[0], lk, h, d], T::default());
        for group in self.partition.groups() {
            let used = group.keys.len() * h;
            for b in 0..g.shape[0] {
                let first = (b * lk + group.keys.start) * h * d;
                for row in group.queries.clone().flat_map(|i| (0..rows).map(move |r| (b, i, r))) {
                    let row = (row.0 * g.shape[1] + row.1) * rows + row.2;
                    let from = &g.data[row * d..(row + 1) * d];
                    for (w, to) in p.data[row * width..][..used].iter().zip(out.data[first..].chunks_exact_mut(d)) {
                        for (x, y) in to.iter_mut().zip(from) {
                            *x += *w * *y;
                        }
                    }
                }
            }
        }
        Ok(vec![out])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let mix = WindowMix { partition: self.partition };
        Work { flops: mix.work(&[inputs[0], &outputs[0]], &[inputs[1].clone()]).flops, bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (p, g, u) = (cx.inputs[0], cx.inputs[1], cx.cotangent()?);
        let mut out = vec![None, None];
        if cx.wants(0) {
            out[0] = Some(cx.add(WindowDots { partition: self.partition }, &[g, u])?);
        }
        if cx.wants(1) {
            out[1] = Some(cx.add(WindowMix { partition: self.partition }, &[p, u])?);
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let mut out = Vec::new();
        for partition in sample_partitions() {
            let (lq, s) = (partition.queries(), partition.widest());
            for [rows, heads, d] in [[1, 3, 5], [2, 1, 7]] {
                let types = [TensorType::f32([2, lq, rows, s * heads]), TensorType::f32([2, lq, rows, d])];
                out.push(Sample::new(Self { partition }, types));
            }
        }
        out
    }
}
