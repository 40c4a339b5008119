//! What every operator provides, and the closed set of operators.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::grad::{Backward, Gradients};
use crate::ops::*;
use crate::tensor::{Real, Tensor};
use crate::types::TensorType;

/// What a node costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Floating point operations: 2 per multiply-add of matrix products, attention and
    /// convolutions; everything else counts zero.
    pub flops: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

impl Add for Work {
    type Output = Work;
    fn add(self, o: Work) -> Work {
        Work { flops: self.flops.saturating_add(o.flops), bytes: self.bytes.saturating_add(o.bytes) }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(iter: I) -> Work {
        iter.fold(Work::default(), Add::add)
    }
}

/// How far an f32 kernel may be from the f64 reference, relative L2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Moves data: the same bits.
    Exact,
    /// A fixed number of roundings per element.
    Elementwise,
    /// Sums over an axis.
    Reduction,
}

impl Tolerance {
    /// The bound on relative L2 for f32.
    pub const fn f32(self) -> f64 {
        match self {
            Tolerance::Exact => 0.0,
            Tolerance::Elementwise => 1e-6,
            Tolerance::Reduction => 5e-6,
        }
    }
}

/// How a kernel reads one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The kernel wants the elements densely packed.
    Dense,
    /// Any strides, as long as the last dimension is packed.
    Rows,
    /// Any strides at all, zero (broadcast) included.
    Any,
}

/// One input setting for the generic tests of an operator.
#[derive(Clone, Debug)]
pub struct Sample<O> {
    /// The operator with its attributes.
    pub op: O,
    /// Types of the inputs. Float inputs are drawn from a unit normal, `i32` inputs take
    /// the numbers in `integers`, in order.
    pub inputs: Vec<TensorType>,
    /// Values of the `i32` inputs.
    pub integers: Vec<i32>,
    /// Float inputs that are drawn as absolute values.
    pub positive: Vec<usize>,
}

impl<O> Sample<O> {
    /// A sample with float inputs only.
    pub fn new(op: O, inputs: impl IntoIterator<Item = TensorType>) -> Self {
        Self { op, inputs: inputs.into_iter().collect(), integers: Vec::new(), positive: Vec::new() }
    }

    /// The same with values for its `i32` inputs.
    pub fn with_integers(mut self, integers: impl Into<Vec<i32>>) -> Self {
        self.integers = integers.into();
        self
    }

    /// The same with these inputs drawn as absolute values.
    pub fn positive(mut self, inputs: impl Into<Vec<usize>>) -> Self {
        self.positive = inputs.into();
        self
    }
}

/// The one definition of an operator.
pub trait Operator: Clone + fmt::Debug + PartialEq + Into<Op> {
    /// Name in texts, plans and messages, snake case.
    const NAME: &'static str;

    /// Types of the outputs.
    ///
    /// # Errors
    /// When the operator cannot take such inputs; the message says what it wants.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem>;

    /// The meaning, slow and obvious. Inputs have been checked by `infer`.
    ///
    /// # Errors
    /// When values (not shapes) are out of range, such as an index.
    fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem>;

    /// Cost; by default no flops and every operand moved once.
    fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
        Work { flops: 0, bytes: moved(inputs, outputs) }
    }

    /// How exact a kernel must be.
    fn tolerance(&self) -> Tolerance {
        Tolerance::Elementwise
    }

    /// How input `index` is read.
    fn access(&self, _index: usize) -> Access {
        Access::Dense
    }

    /// Whether a kernel may write its first output over input `index`, given that both are dense
    /// and of one type: element `i` of the result depends on element `i` of that input only.
    fn may_overwrite(&self, _index: usize) -> bool {
        false
    }

    /// The input, dense and of its type, that output `output` may lie over (beside what [`Operator::may_overwrite`] allows):
    /// element `i` of every output depends on element `i` of these inputs only. An optimiser's state is updated in place.
    fn updates(&self, _output: usize) -> Option<usize> {
        None
    }

    /// Whether a gradient passes to input `index`. Masks, counts and tables are given, not learnt.
    fn differentiable(&self, _index: usize) -> bool {
        true
    }

    /// Writes the gradients of the inputs.
    ///
    /// # Errors
    /// When the operator has no rule, as by default: what time and later passes make, and what is part of a backward pass itself.
    fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
        Err(cx.error("has no gradient"))
    }

    /// Settings for the generic tests: small, odd sizes, every attribute exercised.
    fn samples() -> Vec<Sample<Self>>;
}

/// Bytes of all operands, each once.
pub fn moved(inputs: &[&TensorType], outputs: &[TensorType]) -> u64 {
    inputs.iter().copied().chain(outputs).fold(0, |sum, t| sum.saturating_add(t.bytes()))
}

macro_rules! operators {
    ($($variant:ident),+ $(,)?) => {
        /// Any operator.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", rename_all = "snake_case")]
        pub enum Op {
            $(#[doc = concat!("See [`crate::ops::", stringify!($variant), "`].")] $variant($variant),)+
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Op { Op::$variant(op) }
        })+

        impl Op {
            /// Name of the operator.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => $variant::NAME,)+ }
            }
            /// See [`Operator::infer`].
            ///
            /// # Errors
            /// When the operator cannot take such inputs.
            pub fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Problem> {
                match self { $(Op::$variant(o) => o.infer(inputs),)+ }
            }
            /// See [`Operator::eval`].
            ///
            /// # Errors
            /// When values are out of range.
            pub fn eval<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
                T::eval(self, inputs)
            }
            /// What [`Real::eval`] is made of.
            pub(crate) fn dispatch<T: Real>(&self, inputs: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, Problem> {
                match self { $(Op::$variant(o) => o.eval(inputs),)+ }
            }
            /// See [`Operator::work`].
            pub fn work(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Work {
                match self { $(Op::$variant(o) => o.work(inputs, outputs),)+ }
            }
            /// See [`Operator::tolerance`].
            pub fn tolerance(&self) -> Tolerance {
                match self { $(Op::$variant(o) => o.tolerance(),)+ }
            }
            /// See [`Operator::access`].
            pub fn access(&self, index: usize) -> Access {
                match self { $(Op::$variant(o) => o.access(index),)+ }
            }
            /// See [`Operator::may_overwrite`].
            pub fn may_overwrite(&self, index: usize) -> bool {
                match self { $(Op::$variant(o) => o.may_overwrite(index),)+ }
            }
            /// See [`Operator::updates`].
            pub fn updates(&self, output: usize) -> Option<usize> {
                match self { $(Op::$variant(o) => o.updates(output),)+ }
            }
            /// See [`Operator::differentiable`].
            pub fn differentiable(&self, index: usize) -> bool {
                match self { $(Op::$variant(o) => o.differentiable(index),)+ }
            }
            /// See [`Operator::gradient`].
            ///
            /// # Errors
            /// When the operator has no rule.
            pub fn gradient(&self, cx: &mut Backward<'_>) -> Gradients {
                match self { $(Op::$variant(o) => o.gradient(cx),)+ }
            }
            /// The samples of all operators, for the generic tests.
            pub fn samples() -> Vec<Sample<Op>> {
                let mut all: Vec<Sample<Op>> = Vec::new();
                $(all.extend($variant::samples().into_iter().map(|s| Sample {
                    op: s.op.into(), inputs: s.inputs, integers: s.integers, positive: s.positive,
                }));)+
                all
            }
        }
    };
}

operators!(
    Input,
    Weight,
    State,
    Constant,
    Reshape,
    Transpose,
    Slice,
    Expand,
    Concat,
    Copy,
    Detach,
    Pad,
    Cast,
    Unary,
    Binary,
    Fused,
    Route,
    Index,
    Reduce,
    Linear,
    MatMul,
    Softmax,
    LayerNorm,
    RmsNorm,
    NormModulate,
    TimeFeatures,
    RopeTable,
    Rope,
    Attention,
    WindowGather,
    WindowMask,
    PartitionedContextAttention,
    ContextProbabilities,
    WindowMix,
    WindowDots,
    WindowSpread,
    MergeAttention,
    RmsNormRope,
    Patchify,
    Unpatchify,
    NormGrad,
    AttentionGrad,
    PartitionedContextAttentionGrad,
    WindowScatter,
    AdamW,
);

impl Op {
    /// The name by which the caller gives an input, a weight or a state; `None` for every other operator.
    pub fn given_name(&self) -> Option<&str> {
        match self {
            Op::Input(input) => Some(&input.name),
            Op::Weight(weight) => Some(&weight.name),
            Op::State(state) => Some(&state.name),
            _ => None,
        }
    }

    /// The operator's attributes as JSON, without its name.
    pub fn attributes(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(mut map)) => {
                map.remove("op");
                map
            }
            _ => serde_json::Map::new(),
        }
    }

    /// Builds an operator from its name and attributes.
    ///
    /// # Errors
    /// When there is no such operator, or an attribute is missing, unknown or of the wrong kind.
    pub fn from_attributes(
        name: &str,
        mut attributes: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Op, Problem> {
        let given: Vec<String> = attributes.keys().cloned().collect();
        attributes.insert("op".into(), name.into());
        let op: Op =
            serde_json::from_value(serde_json::Value::Object(attributes)).map_err(|e| Problem::new(e.to_string()))?;
        let known = op.attributes();
        match given.iter().find(|key| !known.contains_key(*key)) {
            Some(key) => Err(Problem(format!("`{name}` has no attribute `{key}`"))),
            None => Ok(op),
        }
    }
}
