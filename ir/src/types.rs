//! Element types and tensor types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of one element in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision; the type of all arithmetic on the CPU.
    F32,
    /// IEEE half precision, storage only on the CPU.
    F16,
    /// bfloat16, storage only on the CPU.
    Bf16,
    /// Signed 32-bit integers: the step index and key counts.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// Whether it is half precision.
    pub const fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16)
    }

    /// True for every type that holds real numbers.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::I32)
    }

    /// The name used in texts and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [DType::F32, DType::F16, DType::Bf16, DType::I32].into_iter().find(|d| d.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Most elements that one tensor may have: what fits an `i32` index space times 2^16, far above any
/// real model and far below where products of sizes overflow.
pub const MAX_ELEMENTS: u64 = 1 << 46;

/// Element type and shape of a tensor. A scalar has the shape `[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// A tensor of single precision numbers.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(DType::F32, shape)
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }

    /// The same element type with another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype: self.dtype, shape: shape.into() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Number of elements, or `None` where the product of the sizes that are not zero passes [`MAX_ELEMENTS`].
    pub fn checked_elements(&self) -> Option<u64> {
        let bound = |n: u64, &d: &usize| n.checked_mul(d.max(1) as u64).filter(|&n| n <= MAX_ELEMENTS);
        self.shape.iter().try_fold(1u64, bound).map(|n| if self.shape.contains(&0) { 0 } else { n })
    }

    /// Size in bytes when stored densely.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bytes()
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all sizes but the last; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// Distance in elements between neighbours of each dimension when stored densely.
    pub fn strides(&self) -> Vec<usize> {
        dense_strides(&self.shape)
    }

    /// Reads what [`fmt::Display`] writes, e.g. `f32[2,3]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('[')?;
        let list = rest.strip_suffix(']')?;
        let shape = if list.is_empty() {
            Vec::new()
        } else {
            list.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?
        };
        let ty = Self { dtype: DType::from_name(name)?, shape };
        ty.checked_elements().map(|_| ty)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, n) in self.shape.iter().enumerate() {
            write!(f, "{}{n}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// Distance in elements between neighbours of each dimension of a dense tensor.
pub fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// The shape of an elementwise result, numpy's rule: aligned at the last dimension, sizes equal or 1.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}
