//! Functions of two numbers.

use serde::{Deserialize, Serialize};

use super::{arity, float, promote};
use crate::error::Problem;
use crate::grad::{self, Backward, Gradients};
use crate::op::{Access, Operator, Sample};
use crate::tensor::{Real, Tensor};
use crate::types::{TensorType, broadcast};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryKind {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
}

impl BinaryKind {
    /// Sign in formulas.
    pub const fn symbol(self) -> &'static str {
        match self {
            BinaryKind::Add => "+",
            BinaryKind::Sub => "-",
            BinaryKind::Mul => "*",
        }
    }

    /// The function.
    pub fn apply<T: Real>(self, a: T, b: T) -> T {
        match self {
            BinaryKind::Add => a + b,
            BinaryKind::Sub => a - b,
            BinaryKind::Mul => a * b,
        }
    }
}

/// Applies a function to every pair of elements, numpy's broadcasting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binary {
    /// The function.
    pub kind: BinaryKind,
}

impl Operator for Binary {
    const NAME: &'static str = "binary";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        float(inputs, 0)?;
        float(inputs, 1)?;
        let (a, b) = (inputs[0], inputs[1]);
        let shape = broadcast(&a.shape, &b.shape);
        let shape = shape.ok_or_else(|| Problem(format!("{a} and {b} do not broadcast")))?;
        Ok(vec![TensorType::new(promote(a.dtype, b.dtype), shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (a, b) = (inputs[0], inputs[1]);
        let shape = broadcast(&a.shape, &b.shape).unwrap_or_default();
        Ok(vec![Tensor::from_fn(shape, |i| self.kind.apply(a.at_broadcast(i), b.at_broadcast(i)))])
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn may_overwrite(&self, _: usize) -> bool {
        true
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (operands, wanted) = ([cx.inputs[0], cx.inputs[1]], [cx.wants(0), cx.wants(1)]);
        let g = cx.cotangent()?;
        grad::binary(cx, self.kind, operands, g, wanted)
    }

    fn samples() -> Vec<Sample<Self>> {
        let shapes: [(&[usize], &[usize]); 5] =
            [(&[3, 5], &[3, 5]), (&[2, 3, 5], &[2, 1, 5]), (&[2, 3, 5], &[5]), (&[4, 1], &[1, 3]), (&[2, 2], &[])];
        let mut out = Vec::new();
        for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul] {
            for (a, b) in shapes {
                out.push(Sample::new(Self { kind }, [TensorType::f32(a), TensorType::f32(b)]));
            }
        }
        out
    }
}
