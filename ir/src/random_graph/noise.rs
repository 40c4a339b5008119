//! What a runtime may make of a graph: the f64 results, and how far rounding can move them.
//!
//! The bound is measured, not derived: the graph is evaluated several times in f64 with every operator's result disturbed as much as
//! its [`Tolerance`] lets a kernel be wrong, or as its element type rounds.

use std::collections::BTreeMap;

use super::VALUES;
use crate::error::{IrError, Problem};
use crate::graph::{Graph, Node, Value};
use crate::interp::{Stream, evaluate, random_bindings, revised};
use crate::op::{Op, Tolerance};
use crate::tensor::{Real, Tensor, relative_l2};
use crate::types::{DType, TensorType};

/// Disturbed evaluations that a bound is the worst of.
const RUNS: u64 = 3;
/// How much farther than the worst disturbed evaluation a result may be: they are few, and not the worst possible.
pub(super) const MARGIN: f64 = 8.0;
/// Bound for results that rounding does not move.
const LEAST: f64 = 1e-6;

/// The results of a graph on the values of seed [`VALUES`].
#[derive(Clone, Debug)]
pub struct Expected {
    /// The f64 result by name of the output.
    pub values: BTreeMap<String, Tensor<f64>>,
    /// How far from it a runtime's result may be, relative L2.
    pub bounds: BTreeMap<String, f64>,
}

impl Expected {
    /// Evaluates a graph. `storage` is the half precision in which a plan may store any value that is real numbers,
    /// whatever type it has in the graph.
    ///
    /// # Errors
    /// When the graph cannot be evaluated.
    pub fn of(graph: &Graph, storage: Option<DType>) -> Result<Self, IrError> {
        Self::measured(graph, storage, true)
    }

    /// See [`Expected::of`]; `halves` as in [`Noise`].
    pub(super) fn measured(graph: &Graph, storage: Option<DType>, halves: bool) -> Result<Self, IrError> {
        let given = random_bindings(graph, VALUES);
        let values = evaluate(graph, &given)?;
        let mut bounds: BTreeMap<String, f64> = values.keys().map(|name| (name.clone(), LEAST)).collect();
        for run in 0..RUNS {
            let noise = Noise { stream: Stream::new(run, "noise"), storage, halves };
            let mut number = 0;
            let disturbed = revised(graph, &given, |node, inputs| {
                number += 1;
                noise.evaluate(number, graph, node, inputs)
            })?;
            for (name, bound) in &mut bounds {
                let moved = MARGIN * relative_l2(&disturbed[name].data, &values[name].data);
                // Not `max`, which would lose a NaN.
                if !(moved <= *bound) {
                    *bound = moved;
                }
            }
        }
        Ok(Self { values, bounds })
    }

    /// Compares a result with what is expected under this name.
    ///
    /// # Errors
    /// When it is farther away than rounding explains; in words.
    pub fn check<T: Real>(&self, name: &str, got: &[T]) -> Result<(), String> {
        let want = self.values.get(name).ok_or_else(|| format!("the graph has no output `{name}`"))?;
        let (error, bound) = (relative_l2(got, &want.data), self.bounds[name]);
        // A graph may be ill conditioned once it has been shrunk: then nothing can be said.
        if bound.is_nan() || error <= bound {
            return Ok(());
        }
        Err(format!("output `{name}` is {error:.2e} from the f64 evaluation, rounding explains {bound:.2e}"))
    }
}

/// One way to be wrong.
pub(super) struct Noise {
    pub stream: Stream,
    /// Half precision that any real numbers may be stored in.
    pub storage: Option<DType>,
    /// Whether what has half precision in the graph is rounded to it.
    pub halves: bool,
}

impl Noise {
    /// Results of a node as an inexact kernel may have them. `number` tells nodes apart.
    pub fn evaluate(
        &self,
        number: u64,
        graph: &Graph,
        node: &Node,
        inputs: &[&Tensor<f64>],
    ) -> Result<Vec<Tensor<f64>>, Problem> {
        let mut place = number << 32;
        let mut sign = || {
            place += 1;
            if self.stream.bits(place) & 1 == 0 { 1.0 } else { -1.0 }
        };
        let tolerance = node.op.tolerance();
        // Sums round inside, also where they cancel.
        let inside = if tolerance == Tolerance::Reduction { 5e-7 } else { 0.0 };
        let read = |(&v, &tensor): (&Value, &&Tensor<f64>)| {
            let each = self.rounding(graph.ty(v), DType::F32).max(inside);
            let exact = graph.ty(v).dtype == DType::I32 || each == 0.0;
            let data = tensor.data.iter().map(|x| if exact { *x } else { x * (1.0 + sign() * each) }).collect();
            Tensor { shape: tensor.shape.clone(), data }
        };
        let read: Vec<Tensor<f64>> = node.inputs.iter().zip(inputs).map(read).collect();
        let mut results = node.op.eval(&read.iter().collect::<Vec<_>>())?;
        if matches!(node.op, Op::Index(_) | Op::Route(_)) {
            return Ok(results);
        }
        for (result, ty) in results.iter_mut().zip(&node.types) {
            let rounding = self.rounding(ty, ty.dtype);
            let sum = match tolerance {
                Tolerance::Exact => 0.0,
                // What a chain adds up may cancel, as in the tail of a GELU.
                Tolerance::Elementwise => read.iter().map(|t| 1e-7 * rms(&t.data)).fold(0.0, f64::max),
                Tolerance::Reduction => tolerance.f32() * rms(&result.data),
            };
            let each = rounding.max(if tolerance == Tolerance::Elementwise { tolerance.f32() } else { 0.0 });
            for x in result.data.iter_mut().filter(|x| x.is_finite()) {
                *x += sign() * (each * x.abs() + sum);
            }
        }
        Ok(results)
    }

    /// Relative rounding of real numbers that are stored as `dtype`, or in [`Noise::storage`].
    fn rounding(&self, ty: &TensorType, dtype: DType) -> f64 {
        let of = |dtype| match dtype {
            DType::F16 => 2f64.powi(-11),
            DType::Bf16 => 2f64.powi(-8),
            DType::F32 | DType::I32 => 0.0,
        };
        let stored = self.storage.filter(|_| ty.dtype.is_float()).map_or(0.0, of);
        if self.halves { of(dtype).max(stored) } else { stored }
    }
}

/// Root of the mean square of the finite numbers.
fn rms(data: &[f64]) -> f64 {
    let squares = data.iter().filter(|x| x.is_finite()).map(|x| x * x);
    (squares.sum::<f64>() / data.len().max(1) as f64).sqrt()
}
