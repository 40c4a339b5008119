//! Gathered windows: the plain form of a partition.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample, Tolerance};
use crate::partition::{Edge, Partition};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Copies the keys that each row of a partition sees: `[B, Lk, H, D]` to `[B, rows, s, H, D]`. The plain form
/// that raising replaces; it stays as the fused operator's oracle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowGather {
    /// Which keys each row sees.
    pub partition: Partition,
}

impl Operator for WindowGather {
    const NAME: &'static str = "window_gather";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        self.partition.check()?;
        let k = inputs[0];
        crate::ensure!(
            k.rank() == 4 && k.shape[1] == self.partition.keys(),
            "wants [B, {}, H, D], got {k}",
            self.partition.keys()
        );
        let (rows, s) = self.partition.row_shape();
        Ok(vec![k.with_shape([k.shape[0], rows, s, k.shape[2], k.shape[3]])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let k = inputs[0];
        let (rows, s) = self.partition.row_shape();
        let index = self.partition.rows();
        let shape = [k.shape[0], rows, s, k.shape[2], k.shape[3]];
        Ok(vec![Tensor::from_fn(shape, |i| k.at(&[i[0], index[i[1]].0[i[2]], i[3], i[4]]))])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn samples() -> Vec<Sample<Self>> {
        samples()
            .into_iter()
            .map(|p| Sample::new(Self { partition: p }, [TensorType::f32([2, p.keys(), 2, 3])]))
            .collect()
    }
}

/// Partitions for the tests of the plain form.
pub(crate) fn samples() -> Vec<Partition> {
    let windows = |edge| Partition::Windows {
        frames: 4,
        tokens_per_frame: 3,
        length: 11,
        size: 6,
        scale: 2,
        offset: 1,
        divisor: 1,
        edge,
    };
    vec![
        windows(Edge::Mask),
        windows(Edge::Shift),
        windows(Edge::Replicate),
        Partition::NearestFrame { frames: 4, tokens_per_frame: 3, length: 11 },
    ]
}
