//! RMSNorm over the whole width, then rotary position embedding per head.

use serde::{Deserialize, Serialize};

use super::{NormGrad, RmsNorm, Rope, arity, float};
use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::op::{Access, Operator, Sample, Tolerance};
use crate::tensor::{Real, Tensor};
use crate::types::{DType, TensorType};

/// `rope(rms_norm(x))` in one pass: what queries and keys go through (SPEC 2.5). Inputs: `x [B, L, d]`, `w [d]`, table
/// `[L, D/2, 2]` of (cos, sin). Output: `[B, L, heads, D]`, `D = d / heads`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNormRope {
    /// Added to the mean square.
    pub eps: f64,
    /// Number of heads.
    pub heads: usize,
}

impl Operator for RmsNormRope {
    const NAME: &'static str = "rms_norm_rope";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 3)?;
        float(inputs, 0)?;
        float(inputs, 1)?;
        let x = inputs[0];
        crate::ensure!(x.rank() == 3 && x.last() > 0, "wants x [B, L, d], got {x}");
        let (length, d) = (x.shape[1], x.shape[2]);
        let even = self.heads > 0 && d.is_multiple_of(self.heads) && (d / self.heads).is_multiple_of(2);
        crate::ensure!(even, "{d} channels cannot be cut into {} heads of an even width", self.heads);
        crate::ensure!(inputs[1].shape == [d], "the weight of {x} must be [{d}], is {}", inputs[1]);
        let want = TensorType::new(DType::F32, [length, d / self.heads / 2, 2]);
        crate::ensure!(*inputs[2] == want, "the table for {x} must be {want}, is {}", inputs[2]);
        crate::ensure!(self.eps >= 0.0 && self.eps.is_finite(), "eps must be a small positive number, is {}", self.eps);
        Ok(vec![x.with_shape([x.shape[0], length, self.heads, d / self.heads])])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        let x = inputs[0];
        let normed = RmsNorm { eps: self.eps }.eval(&inputs[..2])?.remove(0);
        let shape = [x.shape[0], x.shape[1], self.heads, x.shape[2] / self.heads];
        Rope::default().eval(&[&Tensor::new(shape, normed.data)?, inputs[2]])
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::Reduction
    }

    fn access(&self, index: usize) -> Access {
        if index == 0 { Access::Rows } else { Access::Dense }
    }

    fn differentiable(&self, input: usize) -> bool {
        input < 2
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (g, shape) = (cx.cotangent()?, cx.shape(cx.inputs[0]));
        let turned = cx.add(Rope { inverse: true }, &[g, cx.inputs[2]])?;
        let turned = cx.reshape(turned, shape)?;
        let norm = NormGrad { eps: self.eps, centered: false, scaled: true, one_plus: false };
        let (dx, dw) = norm.apply_to(cx, turned, Some(cx.inputs[1]), cx.wants(1))?;
        Ok(vec![Some(dx), dw, None])
    }

    fn samples() -> Vec<Sample<Self>> {
        let of = |b: usize, l: usize, heads: usize, d: usize| {
            let table = TensorType::f32([l, d / heads / 2, 2]);
            Sample::new(Self { eps: 1e-6, heads }, [TensorType::f32([b, l, d]), TensorType::f32([d]), table])
        };
        vec![of(2, 3, 2, 16), of(1, 5, 1, 6), of(2, 4, 3, 36)]
    }
}
