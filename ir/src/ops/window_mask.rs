//! The mask that goes with gathered windows.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample, Tolerance};
use crate::partition::Partition;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Additive mask `[rows, s + context]` of gathered windows followed by context tokens: `-inf` where the
/// window leaves the clip, else 0. No inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowMask {
    /// Which keys each row sees.
    pub partition: Partition,
    /// Number of context tokens, always seen.
    pub context: usize,
}

impl Operator for WindowMask {
    const NAME: &'static str = "window_mask";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 0)?;
        self.partition.check()?;
        let (rows, s) = self.partition.row_shape();
        let keys = s.checked_add(self.context);
        let keys = keys.ok_or_else(|| Problem(format!("{} context tokens are too many", self.context)))?;
        Ok(vec![TensorType::f32([rows, keys])])
    }

    fn eval<T: Real>(&self, _: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (rows, s) = self.partition.row_shape();
        let index = self.partition.rows();
        Ok(vec![Tensor::from_fn([rows, s + self.context], |i| {
            let there = i[1] >= s || index[i[0]].1[i[1]];
            T::from_f64(if there { 0.0 } else { f64::NEG_INFINITY })
        })])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn samples() -> Vec<Sample<Self>> {
        super::window_gather::samples()
            .into_iter()
            .map(|partition| Sample::new(Self { partition, context: 2 }, []))
            .collect()
    }
}
