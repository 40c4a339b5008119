//! Sums over broadcast dimensions.

use serde::{Deserialize, Serialize};

use super::float;
use super::fused::common_shape;
use crate::chain::{Arg, Chain, Instr};
use crate::error::{IrError, Problem};
use crate::grad::{self, Backward, Gradients};
use crate::graph::{Graph, Value};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::ops::BinaryKind;
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType, broadcast, dense_strides};

/// Sums an elementwise chain over every dimension in which `shape` has size 1, or none, and the inputs' common shape has more: the
/// adjoint of broadcasting. Inputs broadcast against each other; without a chain there is one input, summed as it is. The
/// sum is `f32`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is summed, per element of the common shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// Shape of the sums; it broadcasts to the common shape.
    pub shape: Vec<usize>,
}

/// Most elements that are summed to one number at once.
const LONG: u64 = 1 << 16;

impl Reduce {
    /// The sum of one input to a shape.
    pub fn to(shape: impl Into<Vec<usize>>) -> Self {
        Self { chain: None, shape: shape.into() }
    }

    /// Adds the sum of all elements to a graph. A large tensor is summed by rows first: on a GPU a sum is the work of one group of threads, however long
    /// it is.
    ///
    /// # Errors
    /// When the tensor is not of real numbers, or empty.
    pub fn total(graph: &mut Graph, at: &str, x: Value) -> Result<Value, IrError> {
        let (mut rows, elements) = (graph.ty(x).shape.clone(), graph.ty(x).elements());
        let mut sum = x;
        if let Some(last) = rows.last_mut().filter(|_| elements > LONG) {
            *last = 1;
            sum = graph.add(at, Self::to(rows), &[sum])?;
        }
        graph.add(at, Self::to([]), &[sum])
    }
}

impl Operator for Reduce {
    const NAME: &'static str = "reduce";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        if let Some(chain) = &self.chain {
            chain.check()?;
        }
        super::arity(inputs, self.chain.as_ref().map_or(1, |c| c.inputs as usize))?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        let common = common_shape(inputs)?;
        let fits = broadcast(&self.shape, &common).as_ref() == Some(&common);
        crate::ensure!(fits, "{common:?} cannot be summed to {:?}", self.shape);
        crate::ensure!(!common.contains(&0), "a sum over nothing: {common:?}");
        Ok(vec![TensorType::new(DType::F32, self.shape.clone())])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let mut common = Vec::new();
        for t in inputs {
            common = broadcast(&common, &t.shape).unwrap_or_default();
        }
        let mut out = Tensor::filled(self.shape.clone(), T::default());
        let (lead, strides) = (common.len() - self.shape.len(), dense_strides(&self.shape));
        let mut args = vec![T::default(); inputs.len()];
        Tensor::from_fn(common, |index| {
            for (a, t) in args.iter_mut().zip(inputs) {
                *a = t.at_broadcast(index);
            }
            let x = self.chain.as_ref().map_or(args[0], |c| c.eval(&args));
            let place = index[lead..].iter().zip(&self.shape).zip(&strides);
            let place: usize = place.map(|((&i, &n), &s)| if n == 1 { 0 } else { i * s }).sum();
            out.data[place] += x;
            T::default()
        });
        Ok(vec![out])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let inputs = cx.inputs.clone();
        let mut shape = Vec::new();
        for &v in &inputs {
            shape = broadcast(&shape, &cx.shape(v)).unwrap_or_default();
        }
        let g = cx.cotangent()?;
        let g = cx.add(super::Expand { shape }, &[g])?;
        let Some(chain) = &self.chain else { return Ok(vec![Some(g)]) };
        let wanted: Vec<bool> = (0..inputs.len()).map(|i| cx.wants(i)).collect();
        grad::chain(cx, chain, &inputs, g, &wanted)
    }

    fn samples() -> Vec<Sample<Self>> {
        let f32 = |shape: &[usize]| TensorType::f32(shape);
        // g * (x - mean) * rstd: the gradient of a norm's weight.
        let weight = Chain {
            inputs: 4,
            steps: vec![
                Instr::Binary(BinaryKind::Sub, Arg::In(1), Arg::In(2)),
                Instr::Binary(BinaryKind::Mul, Arg::Step(0), Arg::In(3)),
                Instr::Binary(BinaryKind::Mul, Arg::Step(1), Arg::In(0)),
            ],
        };
        let square = Chain { inputs: 1, steps: vec![Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::In(0))] };
        let rows = || [f32(&[2, 35, 19]), f32(&[2, 35, 19]), f32(&[2, 35, 1]), f32(&[2, 35, 1])];
        vec![
            Sample::new(Self::to([5]), [f32(&[2, 3, 5])]),
            Sample::new(Self::to([2, 1, 5]), [f32(&[2, 3, 5])]),
            Sample::new(Self::to([3, 1]), [f32(&[2, 3, 5])]),
            Sample::new(Self::to([1, 7, 1, 3]), [f32(&[4, 7, 5, 3])]),
            Sample::new(Self::to([]), [f32(&[13, 301])]),
            Sample::new(Self::to([70]), [f32(&[300, 70])]),
            Sample::new(Self { chain: Some(square), shape: vec![] }, [f32(&[3, 5])]),
            Sample::new(Self { chain: Some(weight.clone()), shape: vec![19] }, rows()),
            Sample::new(Self { chain: Some(weight), shape: vec![2, 1, 19] }, rows()),
        ]
    }
}
