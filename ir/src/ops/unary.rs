//! Functions of one number.

use serde::{Deserialize, Serialize};

use super::{arity, float};
use crate::error::Problem;
use crate::grad::{self, Backward, Gradients};
use crate::op::{Access, Operator, Sample};
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryKind {
    /// `-x`.
    Neg,
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU in its tanh form: feed-forward and text embedding (SPEC 2).
    GeluTanh,
    /// GELU in its exact form: image embedding (SPEC 2).
    GeluErf,
    /// `e^x`.
    Exp,
    /// Derivative of [`UnaryKind::Silu`].
    SiluGrad,
    /// Derivative of [`UnaryKind::GeluTanh`].
    GeluTanhGrad,
    /// Derivative of [`UnaryKind::GeluErf`].
    GeluErfGrad,
}

impl UnaryKind {
    /// All functions.
    pub const ALL: [UnaryKind; 8] = [
        UnaryKind::Neg,
        UnaryKind::Silu,
        UnaryKind::GeluTanh,
        UnaryKind::GeluErf,
        UnaryKind::Exp,
        UnaryKind::SiluGrad,
        UnaryKind::GeluTanhGrad,
        UnaryKind::GeluErfGrad,
    ];

    /// Name in formulas.
    pub const fn name(self) -> &'static str {
        match self {
            UnaryKind::Neg => "neg",
            UnaryKind::Silu => "silu",
            UnaryKind::GeluTanh => "gelu_tanh",
            UnaryKind::GeluErf => "gelu_erf",
            UnaryKind::Exp => "exp",
            UnaryKind::SiluGrad => "silu'",
            UnaryKind::GeluTanhGrad => "gelu_tanh'",
            UnaryKind::GeluErfGrad => "gelu_erf'",
        }
    }

    /// The function.
    pub fn apply<T: Real>(self, x: T) -> T {
        let c = T::from_f64;
        match self {
            UnaryKind::Neg => -x,
            UnaryKind::Silu => x / (c(1.0) + (-x).exp()),
            UnaryKind::GeluTanh => {
                let inner = c((2.0 / std::f64::consts::PI).sqrt()) * (x + c(0.044715) * x * x * x);
                c(0.5) * x * (c(1.0) + inner.tanh())
            }
            UnaryKind::GeluErf => c(0.5) * x * (c(1.0) + (x * c(std::f64::consts::FRAC_1_SQRT_2)).erf()),
            UnaryKind::Exp => x.exp(),
            UnaryKind::SiluGrad => {
                let s = c(1.0) / (c(1.0) + (-x).exp());
                s * (c(1.0) + x * (c(1.0) - s))
            }
            UnaryKind::GeluTanhGrad => {
                let root = c((2.0 / std::f64::consts::PI).sqrt());
                let tanh = (root * (x + c(0.044715) * x * x * x)).tanh();
                let slope = root * (c(1.0) + c(3.0 * 0.044715) * x * x);
                c(0.5) * (c(1.0) + tanh) + c(0.5) * x * (c(1.0) - tanh * tanh) * slope
            }
            UnaryKind::GeluErfGrad => {
                let cdf = c(0.5) * (c(1.0) + (x * c(std::f64::consts::FRAC_1_SQRT_2)).erf());
                cdf + x * c((2.0 * std::f64::consts::PI).sqrt().recip()) * (c(-0.5) * x * x).exp()
            }
        }
    }
}

/// Applies a function to every element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unary {
    /// The function.
    pub kind: UnaryKind,
}

impl Operator for Unary {
    const NAME: &'static str = "unary";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
        arity(inputs, 1)?;
        float(inputs, 0)?;
        Ok(vec![inputs[0].clone()])
    }

    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
        Ok(vec![inputs[0].map(|x| self.kind.apply(x))])
    }

    fn access(&self, _: usize) -> Access {
        Access::Any
    }

    fn may_overwrite(&self, _: usize) -> bool {
        true
    }

    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        let (x, y, g) = (cx.inputs[0], cx.outputs[0], cx.cotangent()?);
        Ok(vec![Some(grad::unary(cx, self.kind, x, y, g)?)])
    }

    fn samples() -> Vec<Sample<Self>> {
        UnaryKind::ALL.into_iter().map(|kind| Sample::new(Self { kind }, [TensorType::f32([3, 7])])).collect()
    }
}
