//! Adjoint of gathered windows.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Operator, Sample, Tolerance};
use crate::partition::Partition;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Adds up what each key has in the rows that see it: `[B, rows, s, H, D]` to `[B, Lk, H, D]`, the adjoint of
/// [`super::WindowGather`]. Rows are added in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowScatter {
    /// Which keys each row sees.
    pub partition: Partition,
}

impl Operator for WindowScatter {
    const NAME: &'static str = "window_scatter";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        super::float(inputs, 0)?;
        self.partition.check()?;
        let g = inputs[0];
        let (rows, s) = self.partition.row_shape();
        let fits = g.rank() == 5 && g.shape[1] == rows && g.shape[2] == s;
        crate::ensure!(fits, "wants [B, {rows}, {s}, H, D], got {g}");
        Ok(vec![g.with_shape([g.shape[0], self.partition.keys(), g.shape[3], g.shape[4]])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let g = inputs[0];
        let (keys, width) = (self.partition.keys(), g.shape[3] * g.shape[4]);
        let index = self.partition.rows();
        let mut out = Tensor::filled([g.shape[0], keys, g.shape[3], g.shape[4]], T::default());
        let mut source = g.data.chunks_exact(width.max(1));
        for b in 0..g.shape[0] {
            for key in index.iter().flat_map(|(keys, _)| keys) {
                let at = (b * keys + key) * width;
                let Some(row) = source.next() else { continue };
                for (o, x) in out.data[at..at + width].iter_mut().zip(row) {
                    *o += *x;
                }
            }
        }
        Ok(vec![out])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let g = cx.cotangent()?;
        Ok(vec![Some(cx.add(super::WindowGather { partition: self.partition }, &[g])?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        let of = |p: Partition| {
            let (rows, s) = p.row_shape();
            Sample::new(Self { partition: p }, [TensorType::f32([2, rows, s, 2, 3])])
        };
        super::window_gather::samples().into_iter().map(of).collect()
    }
}
