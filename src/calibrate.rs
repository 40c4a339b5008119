//! Measuring a backend for the cost model: product rate, bandwidth, time between calls.
//!
//! Each number is measured by a small plan that the compiler makes, run as any other, so that what is measured is what plans get.

use std::collections::BTreeMap;
use std::time::Instant;

use ccl_ir::ops::{Binary, BinaryKind, Linear, Slice, Unary, UnaryKind};
use ccl_ir::plan::About;
use ccl_ir::{Binding, DType, Graph, IrError, TensorType, Value};
use ccl_passes::{DeviceSpec, Options, compile};
use ccl_runtime::backend::Backend;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::profile::CallTime;
use ccl_runtime::session::{Session, Tensors};
use ccl_runtime::weights::{WeightBytes, WeightSource};
use ccl_runtime::{HostTensor, RuntimeError};

use crate::error::Error;

/// How long the measurements may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Side of the square matrices that are multiplied.
    pub side: usize,
    /// Numbers of the tensor that is copied.
    pub numbers: usize,
    /// Calls that do next to nothing.
    pub calls: usize,
    /// Measurements; the fastest counts, as nothing makes a run faster than it can be.
    pub repeat: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { side: 1536, numbers: 1 << 25, calls: 2000, repeat: 5 }
    }
}

/// Weights whose values do not matter, small enough that nothing overflows.
pub(crate) struct Small;

impl WeightSource for Small {
    fn load(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError> {
        let values: Vec<f32> = (0..want.elements()).map(|i| (i % 17) as f32 * 1e-3).collect();
        WeightBytes::of_values(name, &values, want)
    }
}

/// Measures a backend.
///
/// # Errors
/// When a measurement cannot run there.
pub fn calibrate(backend: &dyn Backend, effort: Effort) -> Result<DeviceSpec, Error> {
    let Effort { side, numbers, calls, repeat } = effort;
    let product = fastest(backend, repeat, [side, side], "product", |g, x| {
        let w = g.weight("w", TensorType::f32([side, side]))?;
        g.add("product", Linear::plain(), &[x, w])
    })?;
    // Reads two tensors and writes one; both are larger than any cache.
    let copy = fastest(backend, repeat, [2, numbers / 2], "copy", |g, x| {
        let y = g.weight("y", TensorType::f32([2, numbers / 2]))?;
        g.add("copy", Binary { kind: BinaryKind::Add }, &[x, y])
    })?;
    let function = fastest(backend, repeat, [2, numbers / 2], "function", |g, x| {
        g.add("function", Unary { kind: UnaryKind::GeluTanh }, &[x])
    })?;
    let chain = fastest(backend, repeat, [1, 16], "", |g, x| {
        (0..calls).try_fold(x, |x, _| g.add("call", Unary { kind: UnaryKind::Neg }, &[x]))
    })?;
    let call_seconds = chain / calls as f64;
    let less = |seconds: f64| (seconds - call_seconds).max(1e-9);
    let info = backend.describe();
    let flops = 2.0 * (side as f64).powi(3) / less(product);
    Ok(DeviceSpec {
        name: info.name,
        source: format!("measured by `ccl bench calibrate` on backend {}", info.backend),
        matrix_flops: BTreeMap::from([("f32".to_string(), flops.round())]),
        // About ten operations for each number of that function.
        vector_flops: (10.0 * numbers as f64 / less(function)).round(),
        bandwidth: (3.0 * 4.0 * numbers as f64 / less(copy)).round(),
        call_seconds,
        memory_bytes: info.memory.total_bytes.unwrap_or(0),
    })
}

/// Seconds that the calls at `what` take, or the whole step where it names none: the fastest of several runs of a graph that works on a
/// tensor of this shape, after one that does not count.
fn fastest(
    backend: &dyn Backend,
    repeat: usize,
    shape: [usize; 2],
    what: &str,
    build: impl Fn(&mut Graph, Value) -> Result<Value, IrError>,
) -> Result<f64, Error> {
    let mut graph = Graph::new("calibrate");
    let ty = TensorType::f32(shape);
    let x = graph.input("x", ty.clone(), Binding::Prologue)?;
    // The input is there before the step; a number that is given in each step keeps the work out of the prologue.
    let one = graph.input("one", TensorType::f32([1, 1]), Binding::Step)?;
    let x = graph.add("start", Binary { kind: BinaryKind::Mul }, &[x, one])?;
    let y = build(&mut graph, x)?;
    // One row: reading the result back is not measured.
    let y = graph.add("end", Slice { axis: 0, start: 0, len: 1 }, &[y])?;
    graph.output("y", y, None);
    let about = About::no_model("calibrate", 1, DType::F32);
    let options = Options { fuse: false, algebra: None, ..Options::default() };
    let plan = compile(&graph, &BTreeMap::new(), about, &options)?;
    let mut session = Session::new(backend, plan.into(), &Small)?;
    let mut inputs = Inputs::new();
    inputs.insert("x", HostTensor::zeros(&ty));
    session.prologue(&inputs)?;
    let mut step = Tensors::new();
    step.insert("one".into(), HostTensor::f32([1, 1], vec![1.0]));
    session.step(&step, 0)?;
    let plan = std::sync::Arc::clone(session.plan());
    session.instance().set_profiling(!what.is_empty());
    let mut best = f64::INFINITY;
    for _ in 0..repeat.max(1) {
        session.instance().take_profile();
        let begin = Instant::now();
        session.step(&step, 0)?;
        let all = begin.elapsed().as_secs_f64();
        let times = session.instance().take_profile();
        let here = |t: &&CallTime| plan.calls(t.entry).get(t.index).is_some_and(|c| c.at == what);
        let seconds: f64 = times.iter().filter(here).map(|t| t.seconds).sum();
        best = best.min(if what.is_empty() { all } else { seconds });
    }
    Ok(best)
}
