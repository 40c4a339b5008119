//! One row of a table, chosen at run time.

use serde::{Deserialize, Serialize};

use super::arity;
use crate::error::Problem;
use crate::op::{Operator, Sample, Tolerance, Work};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// Row `i` of a table `[N, ...]`, `i` an `i32` scalar: the denoising step's row of what was
/// computed for the whole schedule. Inputs: table, index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {}

impl Operator for Index {
    const NAME: &'static str = "index";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 2)?;
        crate::ensure!(inputs[0].rank() > 0, "cannot take a row of a scalar");
        crate::ensure!(*inputs[1] == TensorType::new(DType::I32, []), "the index must be i32[], is {}", inputs[1]);
        Ok(vec![inputs[0].with_shape(&inputs[0].shape[1..])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let i = inputs[1].data[0].to_f64();
        let n = inputs[0].shape[0];
        crate::ensure!(i >= 0.0 && (i as usize) < n, "row {i} of a table of {n} rows");
        let shape = inputs[0].shape[1..].to_vec();
        let size: usize = shape.iter().product();
        let start = i as usize * size;
        Ok(vec![Tensor::new(shape, inputs[0].data[start..start + size].to_vec())?])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        Work { flops: 0, bytes: 2 * outputs[0].bytes() + inputs[1].bytes() }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Exact
    }

    fn samples() -> Vec<Sample<Self>> {
        let index = TensorType::new(DType::I32, []);
        vec![
            Sample::new(Self {}, [TensorType::f32([4, 2, 3]), index.clone()]).with_integers([2]),
            Sample::new(Self {}, [TensorType::f32([1, 5]), index]).with_integers([0]),
        ]
    }
}
