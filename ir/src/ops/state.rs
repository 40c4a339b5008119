//! A tensor that outlives the plan and that the plan may update.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// A tensor that the runtime keeps from run to run, by name: a parameter that is trained, a moment of the optimiser, an average.
/// No inputs. It changes between steps, so nothing that depends on it is computed earlier. An output of the graph that
/// [updates](crate::graph::Output::updates) it is its next value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Name, e.g. `video.blocks.0.ffn.0.weight` or `adam.m.video.head.head.bias`.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
}

impl Operator for State {
    const NAME: &'static str = "state";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 0)?;
        Ok(vec![self.ty.clone()])
    }

    fn eval<T: Real>(&self, _: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Err(Problem(format!("state `{}` was not given", self.name)))
    }

    fn work(&self, _: &[&TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn samples() -> Vec<Sample<Self>> {
        Vec::new()
    }
}
