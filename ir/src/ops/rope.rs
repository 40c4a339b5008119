//! Rotary position embedding.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// Turns neighbouring channel pairs `(2i, 2i+1)` of each head. Inputs: `x [B, L, H, D]`,
/// table `[L, D/2, 2]` of (cos, sin).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Whether pairs are turned back: the adjoint of turning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inverse: bool,
}

impl Operator for Rope {
    const NAME: &'static str = "rope";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        let x = inputs[0];
        crate::ensure!(x.rank() == 4 && x.last().is_multiple_of(2), "wants x [B, L, H, D] with an even D, got {x}");
        let want = TensorType::new(DType::F32, [x.shape[1], x.shape[3] / 2, 2]);
        crate::ensure!(*inputs[1] == want, "the table for {x} must be {want}, is {}", inputs[1]);
        Ok(vec![x.clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (x, table) = (inputs[0], inputs[1]);
        Ok(vec![Tensor::from_fn(x.shape.clone(), |i| {
            let pair = i[3] / 2;
            let (cos, mut sin) = (table.at(&[i[1], pair, 0]), table.at(&[i[1], pair, 1]));
            if self.inverse {
                sin = -sin;
            }
            let even = x.at(&[i[0], i[1], i[2], 2 * pair]);
            let odd = x.at(&[i[0], i[1], i[2], 2 * pair + 1]);
            if i[3] % 2 == 0 { even * cos - odd * sin } else { even * sin + odd * cos }
        })])
    }

    fn access(&self, index: usize) -> Access {
        if index == 0 { Access::Rows } else { Access::Dense }
    }

    fn differentiable(&self, input: usize) -> bool {
        input == 0
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, table) = (cx.cotangent()?, cx.inputs[1]);
        Ok(vec![Some(cx.add(Self { inverse: !self.inverse }, &[g, table])?), None])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![
            Sample::new(Self::default(), [TensorType::f32([2, 3, 2, 8]), TensorType::f32([3, 4, 2])]),
            Sample::new(Self { inverse: true }, [TensorType::f32([1, 5, 1, 6]), TensorType::f32([5, 3, 2])]),
        ]
    }
}
