//! Matrix product with a weight.

use serde::{Deserialize, Serialize};

use super::{MatMul, Transpose, float};
use crate::chain::Chain;
use crate::error::Problem;
use crate::grad::{self, Backward, Gradients};
use crate::graph::Value;
use crate::op::{Access, Operator, Sample, Tolerance, Work, moved};
use crate::ops::{BinaryKind, UnaryKind};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType, broadcast};

/// `epilogue(x Wᵀ + b)`. Inputs: `x [..., k]`, `w [n, k]`, `b [n]` where `bias`, then the
/// epilogue's further inputs, which broadcast to the result `[..., n]`.
///
/// The weight may be stored in half precision; the result has the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Whether there is a bias.
    pub bias: bool,
    /// Elementwise steps on the product; its input 0 is the product with its bias.
    pub epilogue: Option<Chain>,
    /// Element type of the result; `None`: that of `x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<DType>,
}

impl Linear {
    /// Without bias.
    pub fn plain() -> Self {
        Self { bias: false, epilogue: None, out: None }
    }

    /// With a bias.
    pub fn biased() -> Self {
        Self { bias: true, epilogue: None, out: None }
    }

    /// Number of inputs before the epilogue's own.
    pub fn fixed_inputs(&self) -> usize {
        2 + usize::from(self.bias)
    }

    fn rows_and_sizes(inputs: &[&TensorType]) -> (u64, u64, u64) {
        (inputs[0].rows() as u64, inputs[1].shape[0] as u64, inputs[1].shape[1] as u64)
    }
}

impl Operator for Linear {
    const NAME: &'static str = "linear";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        let extra = self.epilogue.as_ref().map_or(0, |c| c.inputs.saturating_sub(1) as usize);
        super::arity(inputs, self.fixed_inputs() + extra)?;
        for i in 0..inputs.len() {
            float(inputs, i)?;
        }
        let (x, w) = (inputs[0], inputs[1]);
        crate::ensure!(w.rank() == 2 && x.rank() >= 1, "wants x [..., k] and w [n, k], got {x} and {w}");
        crate::ensure!(w.shape[0] > 0 && w.shape[1] > 0, "a weight without elements: {w}");
        crate::ensure!(x.last() == w.shape[1], "x {x} has {} columns, w {w} wants {}", x.last(), w.shape[1]);
        if self.bias {
            crate::ensure!(
                inputs[2].shape == [w.shape[0]],
                "the bias of {w} must be [{}], is {}",
                w.shape[0],
                inputs[2]
            );
        }
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = w.shape[0];
        }
        if let Some(chain) = &self.epilogue {
            chain.check()?;
            crate::ensure!(chain.inputs > 0, "the epilogue does not read the product");
            for t in &inputs[self.fixed_inputs()..] {
                crate::ensure!(
                    broadcast(&t.shape, &shape).as_ref() == Some(&shape),
                    "{t} does not broadcast to {shape:?}"
                );
            }
        }
        crate::ensure!(self.out.is_none_or(DType::is_float), "the result must be real numbers");
        Ok(vec![TensorType::new(self.out.unwrap_or(x.dtype), shape)])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let (x, w) = (inputs[0], inputs[1]);
        let (n, k) = (w.shape[0], w.shape[1]);
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        let mut data = Vec::with_capacity(shape.iter().product());
        for row in x.data.chunks_exact(k) {
            for (j, column) in w.data.chunks_exact(k).enumerate() {
                let mut sum = if self.bias { inputs[2].data[j] } else { T::default() };
                for (a, b) in row.iter().zip(column) {
                    sum += *a * *b;
                }
                data.push(sum);
            }
        }
        let product = Tensor::new(shape, data)?;
        let Some(chain) = &self.epilogue else { return Ok(vec![product]) };
        let extra = &inputs[self.fixed_inputs()..];
        let mut args = vec![T::default(); 1 + extra.len()];
        Ok(vec![Tensor::from_fn(product.shape.clone(), |index| {
            args[0] = product.at(index);
            for (a, t) in args[1..].iter_mut().zip(extra) {
                *a = t.at_broadcast(index);
            }
            chain.eval(&args)
        })])
    }

    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        let (m, n, k) = Self::rows_and_sizes(inputs);
        Work { flops: 2u64.saturating_mul(m).saturating_mul(n).saturating_mul(k), bytes: moved(inputs, outputs) }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        if index == 0 {
            Access::Rows
        } else if index < self.fixed_inputs() {
            Access::Dense
        } else {
            Access::Any
        }
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let mut g = cx.cotangent()?;
        let fixed = self.fixed_inputs();
        let mut out: Vec<Option<Value>> = vec![None; cx.inputs.len()];
        if let Some(chain) = &self.epilogue {
            let product = cx.inputs[..fixed].to_vec();
            let mut inputs = vec![cx.add(Self { bias: self.bias, epilogue: None, out: None }, &product)?];
            inputs.extend(&cx.inputs[fixed..]);
            let mut wanted = vec![true];
            wanted.extend((fixed..cx.inputs.len()).map(|i| cx.wants(i)));
            let found = grad::chain(cx, chain, &inputs, g, &wanted)?;
            out[fixed..].copy_from_slice(&found[1..]);
            // The chain reads its input 0, or the epilogue would not have passed inference.
            let Some(of_product) = found[0] else { return Ok(out) };
            g = of_product;
        }
        let (x, w) = (cx.inputs[0], cx.inputs[1]);
        let rows = cx.rows(g)?;
        if cx.wants(0) {
            let shape = cx.shape(x);
            let dx = cx.add(MatMul { transpose_b: false, out: None }, &[rows, w])?;
            out[0] = Some(cx.reshape(dx, shape)?);
        }
        if cx.wants(1) {
            let (columns, x) = (cx.add(Transpose { perm: vec![1, 0] }, &[rows])?, cx.rows(x)?);
            out[1] = Some(cx.add(MatMul { transpose_b: false, out: None }, &[columns, x])?);
        }
        if self.bias && cx.wants(2) {
            let n = cx.ty(rows).last();
            out[2] = Some(cx.sum_to(rows, &[n])?);
        }
        Ok(out)
    }

    fn samples() -> Vec<Sample<Self>> {
        let f32 = |shape: &[usize]| TensorType::f32(shape);
        let gelu = Self { bias: true, epilogue: Some(Chain::unary(UnaryKind::GeluTanh)), out: None };
        let gate = Chain::binary(BinaryKind::Mul);
        let mut residual = Chain::binary(BinaryKind::Add).inline(1, &gate).unwrap_or(gate.clone());
        // x + (y * g), with the product y first.
        residual = reorder(residual);
        let residual = Self { bias: true, epilogue: Some(residual), out: None };
        let half = |dtype| TensorType::new(dtype, [6, 7]);
        vec![
            Sample::new(Self::plain(), [f32(&[5, 7]), f32(&[3, 7])]),
            Sample::new(Self::biased(), [f32(&[2, 3, 7]), f32(&[4, 7]), f32(&[4])]),
            Sample::new(Self::biased(), [f32(&[1, 40]), f32(&[33, 40]), f32(&[33])]),
            Sample::new(gelu, [f32(&[2, 35, 16]), f32(&[70, 16]), f32(&[70])]),
            Sample::new(residual, [f32(&[2, 3, 7]), f32(&[5, 7]), f32(&[5]), f32(&[2, 1, 5]), f32(&[2, 3, 5])]),
            Sample::new(Self::biased(), [f32(&[3, 7]), half(DType::Bf16), f32(&[6])]),
            Sample::new(Self::biased(), [f32(&[3, 7]), half(DType::F16), f32(&[6])]),
        ]
    }
}

/// Rotates the inputs of `x + y * g` so that the product `y` is input 0 and `g`, `x` follow.
fn reorder(chain: Chain) -> Chain {
    use crate::chain::{Arg, Instr};
    let order = |a: Arg| match a {
        Arg::In(0) => Arg::In(2),
        Arg::In(n) => Arg::In(n - 1),
        other => other,
    };
    let steps = chain.steps.iter().map(|s| match *s {
        Instr::Unary(k, a) => Instr::Unary(k, order(a)),
        Instr::Binary(k, a, b) => Instr::Binary(k, order(a), order(b)),
    });
    Chain { inputs: chain.inputs, steps: steps.collect() }
}
