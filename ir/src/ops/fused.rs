//! A chain of elementwise operators as one.

use serde::{Deserialize, Serialize};

use super::float;
use crate::chain::{Arg, Chain, Instr};
use crate::error::Problem;
use crate::grad::{self, Backward, Gradients};
use crate::op::{Access, Operator, Sample};
use crate::ops::{BinaryKind, UnaryKind};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType, broadcast};

/// Several elementwise operators in one pass over memory. Inputs broadcast against each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fused {
    /// What is computed per element.
    pub chain: Chain,
    /// Element type of the result; `None`: the inputs' own where they agree, else `f32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<DType>,
}

impl Fused {
    /// A chain whose result has the type of its inputs.
    pub fn new(chain: Chain) -> Self {
        Self { chain, out: None }
    }
}

/// Shape that all inputs broadcast to.
pub(super) fn common_shape(inputs: &[&TensorType]) -> Result<Vec<usize>, Problem> {
    let mut shape = Vec::new();
    for t in inputs {
        shape = broadcast(&shape, &t.shape)
            .ok_or_else(|| Problem(format!("{t} does not broadcast with the inputs before it, of shape {shape:?}")))?;
    }
    Ok(shape)
}

impl Operator for Fused {
    const NAME: &'static str = "fused";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        self.chain.check()?;
        super::arity(inputs, self.chain.inputs as usize)?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        crate::ensure!(self.out.is_none_or(DType::is_float), "the result must be real numbers");
        let dtype = inputs.iter().map(|t| t.dtype).reduce(super::promote).unwrap_or(DType::F32);
        Ok(vec![TensorType::new(self.out.unwrap_or(dtype), common_shape(inputs)?)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut shape = Vec::new();
        for t in inputs {
            shape = broadcast(&shape, &t.shape).unwrap_or_default();
        }
        let mut args = vec![T::default(); inputs.len()];
        Ok(vec![Tensor::from_fn(shape, |index| {
            for (a, t) in args.iter_mut().zip(inputs) {
                *a = t.at_broadcast(index);
            }
            self.chain.eval(&args)
        })])
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn may_overwrite(&self, _: usize) -> bool {
        true
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (inputs, g) = (cx.inputs.clone(), cx.cotangent()?);
        let wanted: Vec<bool> = (0..inputs.len()).map(|i| cx.wants(i)).collect();
        grad::chain(cx, &self.chain, &inputs, g, &wanted)
    }

    fn samples() -> Vec<Sample<Self>> {
        let gate = Chain {
            inputs: 3,
            steps: vec![
                Instr::Binary(BinaryKind::Mul, Arg::In(1), Arg::In(2)),
                Instr::Binary(BinaryKind::Add, Arg::In(0), Arg::Step(0)),
            ],
        };
        let long = Chain {
            inputs: 2,
            steps: vec![
                Instr::Unary(UnaryKind::Silu, Arg::In(0)),
                Instr::Binary(BinaryKind::Add, Arg::Step(0), Arg::Const(1.0)),
                Instr::Binary(BinaryKind::Mul, Arg::Step(1), Arg::In(1)),
                Instr::Unary(UnaryKind::GeluTanh, Arg::Step(2)),
                Instr::Binary(BinaryKind::Sub, Arg::Step(3), Arg::Step(0)),
            ],
        };
        let f32 = |shape: &[usize]| TensorType::f32(shape);
        vec![
            Sample::new(Self::new(gate.clone()), [f32(&[2, 3, 5]), f32(&[2, 3, 5]), f32(&[2, 1, 5])]),
            Sample::new(Self::new(gate), [f32(&[5]), f32(&[2, 3, 1]), f32(&[])]),
            Sample::new(Self::new(long.clone()), [f32(&[4, 9]), f32(&[9])]),
            Sample::new(Self::new(long), [f32(&[3, 300]), f32(&[3, 300])]),
        ]
    }
}
