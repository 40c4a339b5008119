//! A tensor given by the caller.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::graph::Binding;
use crate::op::{Operator, Sample, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// A tensor given by the caller. No inputs; the interpreter and the executor bind it by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Name that the caller uses.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
    /// When it is known.
    pub binding: Binding,
}

impl Operator for Input {
    const NAME: &'static str = "input";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 0)?;
        Ok(vec![self.ty.clone()])
    }

    fn eval<T: Real>(&self, _: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Err(Problem(format!("input `{}` was not given", self.name)))
    }

    fn work(&self, _: &[&TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn samples() -> Vec<Sample<Self>> {
        Vec::new()
    }
}
