//! Dense tensors on the host and the arithmetic that the reference evaluation needs.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::error::Problem;
use crate::op::Op;
use crate::types::TensorType;

/// Numbers that graphs are evaluated in: `f32` and `f64`.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialEq
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Send
    + Sync
    + 'static
{
    /// Rounds a double.
    fn from_f64(x: f64) -> Self;
    /// Widens to a double.
    fn to_f64(self) -> f64;
    /// Natural exponential.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// [`Op::eval`]: compiled here for each type, once, and not again in every crate that evaluates.
    ///
    /// # Errors
    /// When values are out of range.
    fn eval(op: &Op, inputs: &[&Tensor<Self>]) -> Result<Vec<Tensor<Self>>, Problem>;
}

macro_rules! real {
    ($t:ty, $erf:path) => {
        impl Real for $t {
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn eval(op: &Op, inputs: &[&Tensor<Self>]) -> Result<Vec<Tensor<Self>>, Problem> {
                op.dispatch(inputs)
            }
        }
    };
}
real!(f32, libm::erff);
real!(f64, libm::erf);

/// A dense tensor in row-major order. Integers are kept as whole numbers of `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, last dimension fastest.
    pub data: Vec<T>,
}

impl<T: Real> Tensor<T> {
    /// A tensor of these elements.
    ///
    /// # Errors
    /// When the number of elements is not what the shape says.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<T>) -> Result<Self, Problem> {
        let shape = shape.into();
        let want: usize = shape.iter().product();
        crate::ensure!(want == data.len(), "shape {shape:?} needs {want} elements, there are {}", data.len());
        Ok(Self { shape, data })
    }

    /// A tensor with one value everywhere.
    pub fn filled(shape: impl Into<Vec<usize>>, value: T) -> Self {
        let shape = shape.into();
        let data = vec![value; shape.iter().product()];
        Self { shape, data }
    }

    /// A tensor whose elements are a function of their index.
    pub fn from_fn(shape: impl Into<Vec<usize>>, mut f: impl FnMut(&[usize]) -> T) -> Self {
        let shape = shape.into();
        let n: usize = shape.iter().product();
        let mut index = vec![0usize; shape.len()];
        let mut data = Vec::with_capacity(n);
        for _ in 0..n {
            data.push(f(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Self { shape, data }
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The element at an index of the same rank.
    pub fn at(&self, index: &[usize]) -> T {
        self.data[index.iter().zip(&self.shape).fold(0, |offset, (i, n)| offset * n + i)]
    }

    /// The element that numpy's broadcasting puts at `index` of a larger shape.
    pub fn at_broadcast(&self, index: &[usize]) -> T {
        let skip = index.len() - self.shape.len();
        let offset =
            index[skip..].iter().zip(&self.shape).fold(0, |offset, (&i, &n)| offset * n + if n == 1 { 0 } else { i });
        self.data[offset]
    }

    /// Applies a function to every element.
    pub fn map(&self, f: impl Fn(T) -> T) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// The same numbers in another precision.
    pub fn convert<U: Real>(&self) -> Tensor<U> {
        Tensor { shape: self.shape.clone(), data: self.data.iter().map(|x| U::from_f64(x.to_f64())).collect() }
    }

    /// Whether shape and element count are what a type says.
    pub fn matches(&self, ty: &TensorType) -> bool {
        self.shape == ty.shape && self.data.len() as u64 == ty.elements()
    }
}

/// `‖got − want‖ / ‖want‖` in f64; `want = 0` compares with 1. NaN where either has one.
pub fn relative_l2<A: Real, B: Real>(got: &[A], want: &[B]) -> f64 {
    if got.len() != want.len() {
        return f64::NAN;
    }
    let (mut diff, mut norm) = (0.0f64, 0.0f64);
    for (g, w) in got.iter().zip(want) {
        let (g, w) = (g.to_f64(), w.to_f64());
        diff += (g - w) * (g - w);
        norm += w * w;
    }
    if norm == 0.0 { diff.sqrt() } else { (diff / norm).sqrt() }
}
