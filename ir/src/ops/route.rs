//! A choice that the task makes.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// The first input where the task's answer to `flag` is yes, else the second (SPEC 5).
/// Specialisation fills in the answer; a route without one cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Name of the question, e.g. `cond.video_sees_audio`.
    pub flag: String,
    /// The task's answer, once known.
    pub answer: Option<bool>,
}

impl Operator for Route {
    const NAME: &'static str = "route";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        crate::ensure!(inputs[0] == inputs[1], "both ways must have one type, have {} and {}", inputs[0], inputs[1]);
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        match self.answer {
            Some(yes) => Ok(vec![inputs[usize::from(!yes)].clone()]),
            None => Err(Problem(format!("the route `{}` has no answer yet", self.flag))),
        }
    }

    fn work(&self, _: &[&TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let g = cx.cotangent()?;
        match self.answer {
            Some(yes) => Ok(vec![yes.then_some(g), (!yes).then_some(g)]),
            None => Err(cx.error("has no answer: specialise the graph first")),
        }
    }

    fn samples() -> Vec<Sample<Self>> {
        let ty = TensorType::f32([2, 3]);
        [true, false]
            .into_iter()
            .map(|yes| Sample::new(Self { flag: "f".into(), answer: Some(yes) }, [ty.clone(), ty.clone()]))
            .collect()
    }
}
