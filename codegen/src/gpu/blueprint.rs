//! Blueprints: what makes one kernel differ from another.
//!
//! A blueprint is a kernel's identity: what it computes, the element types of its operands, its tile. Sizes, strides and offsets are
//! arguments, so that a new clip length needs no new kernel. Blueprints are plain data: a plan can carry them.

use ccl_ir::chain::{Arg, Instr};
use ccl_ir::ops::{BinaryKind, UnaryKind};
use ccl_ir::{Chain, DType};
use serde::{Deserialize, Serialize};

/// In which list of buffers an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Half precision numbers: the blueprint says which kind.
    Half,
    /// Single precision numbers.
    Float,
    /// Whole numbers.
    Int,
}

/// An operand of a kernel: a list of buffers and a position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The list.
    pub class: Class,
    /// Position in that list.
    pub index: u32,
}

/// A chain of elementwise steps as part of a blueprint: constants by their bits, so that blueprints can be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Program {
    /// Steps in order; the last is the result. No steps: the first input is the result.
    pub steps: Vec<Step>,
}

/// One elementwise step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// A function of one operand.
    Unary(UnaryKind, Source),
    /// A function of two operands.
    Binary(BinaryKind, Source, Source),
}

/// An operand of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// An input of the chain.
    In(u32),
    /// The result of an earlier step.
    Step(u32),
    /// A number, by the bits of its `f32`.
    Const(u32),
}

impl Program {
    /// The program that returns its input.
    pub fn copy() -> Self {
        Self { steps: Vec::new() }
    }

    /// The program of a chain.
    pub fn of(chain: &Chain) -> Self {
        let source = |a: Arg| match a {
            Arg::In(n) => Source::In(n.into()),
            Arg::Step(n) => Source::Step(n.into()),
            Arg::Const(c) => Source::Const((c as f32).to_bits()),
        };
        let step = |i: &Instr| match *i {
            Instr::Unary(k, a) => Step::Unary(k, source(a)),
            Instr::Binary(k, a, b) => Step::Binary(k, source(a), source(b)),
        };
        Self { steps: chain.steps.iter().map(step).collect() }
    }
}

/// A kernel's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blueprint {
    /// What it computes, and how.
    pub kernel: Kernel,
    /// Kind of half precision; `F32` where no operand is half.
    pub half: DType,
    /// Units of one cube.
    pub units: [u32; 3],
}

impl Kernel {
    /// Whether a unit's work is chosen by its number among all units, not by its cube's.
    pub fn numbers_units(&self) -> bool {
        match self {
            Self::Elementwise(_)
            | Self::Merge(_)
            | Self::Rope(_)
            | Self::TableRow(_)
            | Self::Windows(_)
            | Self::Scatter(_)
            | Self::WideElementwise(_)
            | Self::AdamW(_) => true,
            Self::Attention(_)
            | Self::AttentionGrad(_)
            | Self::Probabilities(_)
            | Self::Product(_)
            | Self::TensorAttention(_)
            | Self::TensorAttentionGrad(_)
            | Self::TensorProbabilities(_)
            | Self::TensorProduct(_)
            | Self::WideAdamW(_)
            | Self::WideNorm(_)
            | Self::WideNormGrad(_)
            | Self::WideNormRope(_)
            | Self::WindowProduct(_)
            | Self::Norm(_)
            | Self::NormGrad(_)
            | Self::NormRope(_)
            | Self::Softmax(_)
            | Self::Sum(_) => false,
        }
    }
}

/// The kernels. Each variant's file says which sizes it takes, in which order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// See [`super::kernels::attention`].
    Attention(super::kernels::attention::Attention),
    /// See [`super::kernels::attention_grad`].
    AttentionGrad(super::kernels::attention_grad::AttentionGrad),
    /// See [`super::kernels::probabilities`].
    Probabilities(super::kernels::attention::Attention),
    /// See [`super::kernels::merge`].
    Merge(super::kernels::merge::Merge),
    /// See [`super::kernels::elementwise`].
    Elementwise(super::kernels::elementwise::Elementwise),
    /// See [`super::kernels::product`].
    Product(super::kernels::product::Product),
    /// See [`super::tensor::attention`].
    TensorAttention(super::tensor::attention::TensorAttention),
    /// See [`super::tensor::attention_grad`].
    TensorAttentionGrad(super::tensor::attention_grad::TensorAttentionGrad),
    /// See [`super::tensor::attention`].
    TensorProbabilities(super::tensor::attention::TensorAttention),
    /// See [`super::tensor::product`].
    TensorProduct(super::tensor::product::TensorProduct),
    /// See [`super::wide::adam_w`].
    WideAdamW(super::wide::adam_w::WideAdamW),
    /// See [`super::wide::elementwise`].
    WideElementwise(super::wide::elementwise::WideElementwise),
    /// See [`super::wide::rows`].
    WideNorm(super::wide::rows::Wide<super::kernels::norm::Norm>),
    /// See [`super::wide::rows`].
    WideNormGrad(super::wide::rows::Wide<super::kernels::norm_grad::NormGrad>),
    /// See [`super::wide::rows`].
    WideNormRope(super::wide::rows::Wide<super::kernels::norm_rope::NormRope>),
    /// See [`super::kernels::window_product`].
    WindowProduct(super::kernels::window_product::WindowProduct),
    /// See [`super::kernels::norm`].
    Norm(super::kernels::norm::Norm),
    /// See [`super::kernels::norm_grad`].
    NormGrad(super::kernels::norm_grad::NormGrad),
    /// See [`super::kernels::norm_rope`].
    NormRope(super::kernels::norm_rope::NormRope),
    /// See [`super::kernels::softmax`].
    Softmax(super::kernels::softmax::Softmax),
    /// See [`super::kernels::rope`].
    Rope(super::kernels::rope::Rope),
    /// See [`super::kernels::gather::TableRow`].
    TableRow(super::kernels::gather::TableRow),
    /// See [`super::kernels::gather::Windows`].
    Windows(super::kernels::gather::Windows),
    /// See [`super::kernels::gather::Scatter`].
    Scatter(super::kernels::gather::Scatter),
    /// See [`super::kernels::sum`].
    Sum(super::kernels::sum::Sum),
    /// See [`super::kernels::adam_w`].
    AdamW(super::kernels::adam_w::AdamW),
}
