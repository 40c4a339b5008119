//! Products of each query's row with the values of its window.

use serde::{Deserialize, Serialize};

use super::context_probabilities::sample_partitions;
use super::{WindowMix, WindowSpread, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::partition::Partition;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// `p[b, i, r, j] = g[b, i, r] · u[b, window(i) + j / H, j mod H]`: what [`WindowMix`]'s weights get of its result's gradient.
///
/// Inputs: `g [B, Lq, R, d]`, `u [B, Lk, H, d]`. Output: `[B, Lq, R, s H]` with `s` = [`Partition::widest`], 0 beyond a narrower window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowDots {
    /// Which values each query sees.
    pub partition: Partition,
}

impl Operator for WindowDots {
    const NAME: &'static str = "window_dots";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        let (g, u) = (inputs[0], inputs[1]);
        crate::ensure!(g.rank() == 4 && u.rank() == 4, "wants g [B, Lq, R, d] and u [B, Lk, H, d], got {g} and {u}");
        self.partition.check()?;
        let p = g.with_shape([g.shape[0], g.shape[1], g.shape[2], self.partition.widest() * u.shape[2]]);
        let mixed = WindowMix { partition: self.partition }.infer(&[&p, u])?;
        crate::ensure!(mixed[0].shape == g.shape, "rows {g} and values {u} differ in width");
        Ok(vec![p])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (g, u) = (inputs[0], inputs[1]);
        let (rows, h, d) = (g.shape[2], u.shape[2], u.shape[3]);
        let width = self.partition.widest() * h;
        let mut out = Tensor::filled([g.shape[0], g.shape[1], rows, width], T::default());
        for group in self.partition.groups() {
            let used = group.keys.len() * h;
            for b in 0..g.shape[0] {
                let first = (b * u.shape[1] + group.keys.start) * h * d;
                for row in group.queries.clone().flat_map(|i| (0..rows).map(move |r| (b, i, r))) {
                    let row = (row.0 * g.shape[1] + row.1) * rows + row.2;
                    let from = &g.data[row * d..(row + 1) * d];
                    for (to, value) in out.data[row * width..][..used].iter_mut().zip(u.data[first..].chunks_exact(d)) {
                        for (x, y) in from.iter().zip(value) {
                            *to += *x * *y;
                        }
                    }
                }
            }
        }
        Ok(vec![out])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let mix = WindowMix { partition: self.partition };
        Work { flops: mix.work(&[&outputs[0], inputs[1]], &[inputs[0].clone()]).flops, bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        // As `WindowMix` reads them.
        if index == 0 { Access::Any } else { Access::Dense }
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, u, p) = (cx.inputs[0], cx.inputs[1], cx.cotangent()?);
        let mut out = vec![None, None];
        if cx.wants(0) {
            out[0] = Some(cx.add(WindowMix { partition: self.partition }, &[p, u])?);
        }
        if cx.wants(1) {
            out[1] = Some(cx.add(WindowSpread { partition: self.partition }, &[p, g])?);
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let mut out = Vec::new();
        for partition in sample_partitions() {
            let (lq, lk) = (partition.queries(), partition.keys());
            for [rows, heads, d] in [[1, 3, 5], [2, 1, 7]] {
                let types = [TensorType::f32([2, lq, rows, d]), TensorType::f32([2, lk, heads, d])];
                out.push(Sample::new(Self { partition }, types));
            }
        }
        out
    }
}
