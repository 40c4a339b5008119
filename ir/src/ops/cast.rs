//! Another element type.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// Rounds (or widens) to another real element type. The reference evaluation does not round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// The new element type.
    pub to: DType,
}

impl Operator for Cast {
    const NAME: &'static str = "cast";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        float(inputs, 0)?;
        crate::ensure!(self.to.is_float(), "cannot cast to {}", self.to);
        Ok(vec![inputs[0].with_dtype(self.to)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![inputs[0].clone()])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, to) = (cx.cotangent()?, cx.ty(cx.inputs[0]).dtype);
        Ok(vec![Some(cx.add(Self { to }, &[g])?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        vec![Sample::new(Self { to: DType::F32 }, [TensorType::f32([3, 5])])]
    }
}
