//! Small deterministic random values for tests of passes and backends.
//!
//! Numbers are a function of seed, name and position alone (splitmix64 as a counter-based generator, Box and
//! Muller's normal numbers), so that a graph that lost or gained inputs still sees the same values for the rest.
//! Each value is rounded to the element type that it has in the graph: evaluations in `f32` and `f64`, and kernels
//! that store half precision, start from the same numbers.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use crate::graph::Graph;
use crate::op::{Op, Sample};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};

/// A value for every input, weight and state of a graph.
///
/// - inputs: unit normal (absolute values where the name starts with `adam.`); `t` and `schedule` uniform in (0.1, 0.9); `step` a small row number, and that row of
///   `schedule` is `t`, so that a graph means the same before and after it reads the time from a schedule;
///   `x_len`, for an input `x [B, n, ..]`, a whole number from 1 to n; `x_row`, for an input `x [n, ..]`, one of its
///   rows; other `i32` inputs 0;
/// - weights and states (absolute values where the name starts with `adam.`): normal over `sqrt(fan in)` where they have two or more
///   dimensions; else `1 + 0.1 x` where the name ends in `.weight`, and `0.1 x`.
pub fn random_bindings(graph: &Graph, seed: u64) -> BTreeMap<String, Tensor<f64>> {
    let mut out = BTreeMap::new();
    for node in graph.nodes() {
        if let Some(tensor) = random_value(graph, &node.op, seed) {
            out.insert(node.op.given_name().unwrap_or_default().to_owned(), tensor);
        }
    }
    out
}

/// The value that [`random_bindings`] has for an input or a weight; `None` for every other operator.
pub(crate) fn random_value(graph: &Graph, op: &Op, seed: u64) -> Option<Tensor<f64>> {
    match op {
        Op::Input(input) => Some(input_values(graph, &input.name, &input.ty, seed)),
        Op::Weight(weight) => Some(weight_values(&weight.name, &weight.ty, seed)),
        Op::State(state) => Some(state_values(&state.name, &state.ty, seed)),
        _ => None,
    }
}

/// Values for the inputs of an operator's sample: unit normal, integers as the sample says.
pub fn sample_inputs(sample: &Sample<Op>, seed: u64) -> Vec<Tensor<f64>> {
    let mut integers = sample.integers.iter();
    let input = |(i, ty): (usize, &TensorType)| {
        let stream = Stream::new(seed, &format!("input {i}"));
        match ty.dtype {
            DType::I32 => tensor(ty, |_| f64::from(integers.next().copied().unwrap_or(0))),
            _ if sample.positive.contains(&i) => tensor(ty, |i| stream.normal(i).abs()),
            _ => tensor(ty, |i| stream.normal(i)),
        }
    };
    sample.inputs.iter().enumerate().map(input).collect()
}

fn input_values(graph: &Graph, name: &str, ty: &TensorType, seed: u64) -> Tensor<f64> {
    let stream = Stream::new(seed, name);
    let time = |i| 0.1 + 0.8 * Stream::new(seed, "t").uniform(i);
    if ty.dtype == DType::I32 {
        let value = match (name.strip_suffix("_len"), name.strip_suffix("_row")) {
            (Some(whole), _) => 1 + stream.below(size_of(graph, whole, 1)),
            (_, Some(table)) => stream.below(size_of(graph, table, 0)),
            _ if name == "step" => step(graph, seed),
            _ => 0,
        };
        return tensor(ty, |_| value as f64);
    }
    match name {
        "t" => tensor(ty, time),
        "schedule" => {
            let width: u64 = ty.shape.iter().skip(1).map(|&n| n as u64).product::<u64>().max(1);
            let now = step(graph, seed);
            tensor(ty, |i| if i / width == now { time(i % width) } else { 0.1 + 0.8 * stream.uniform(i) })
        }
        _ if name.starts_with("adam.") => tensor(ty, |i| stream.normal(i).abs()),
        _ => tensor(ty, |i| stream.normal(i)),
    }
}

/// A state is a weight, but for the optimiser's moments and counts, which are never below zero.
fn state_values(name: &str, ty: &TensorType, seed: u64) -> Tensor<f64> {
    let values = weight_values(name, ty, seed);
    if name.starts_with("adam.") { values.map(f64::abs) } else { values }
}

fn weight_values(name: &str, ty: &TensorType, seed: u64) -> Tensor<f64> {
    let stream = Stream::new(seed, name);
    let fan_in = ty.shape.iter().skip(1).product::<usize>().max(1) as f64;
    if ty.rank() >= 2 {
        tensor(ty, |i| stream.normal(i) / fan_in.sqrt())
    } else if name.ends_with(".weight") {
        tensor(ty, |i| 1.0 + 0.1 * stream.normal(i))
    } else {
        tensor(ty, |i| 0.1 * stream.normal(i))
    }
}

/// The denoising step: one of the first eight rows of `schedule`.
fn step(graph: &Graph, seed: u64) -> u64 {
    Stream::new(seed, "step").below(size_of(graph, "schedule", 0).min(8))
}

/// A size of the input with this name; 1 where there is none.
fn size_of(graph: &Graph, name: &str, axis: usize) -> u64 {
    let size = graph.find(name).and_then(|v| graph.ty(v).shape.get(axis).copied());
    size.unwrap_or(1).max(1) as u64
}

fn tensor(ty: &TensorType, mut value: impl FnMut(u64) -> f64) -> Tensor<f64> {
    let data = (0..ty.elements()).map(|i| round(value(i), ty.dtype)).collect();
    Tensor { shape: ty.shape.clone(), data }
}

/// The nearest number of an element type, ties to even; results must be in its range.
fn round(x: f64, dtype: DType) -> f64 {
    let (digits, least) = match dtype {
        DType::F32 => return f64::from(x as f32),
        DType::I32 => return x,
        DType::Bf16 => (7, -126),
        DType::F16 => (10, -14),
    };
    // Distance of the type's numbers around x.
    let exponent = if x == 0.0 { least } else { libm::ilogb(x).max(least) };
    let quantum = libm::ldexp(1.0, exponent - digits);
    (x / quantum).round_ties_even() * quantum
}

/// Random numbers by position.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of a seed and a name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut key = [0; 8];
        key.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
        Self { key: u64::from_le_bytes(key) ^ mix(seed) }
    }

    /// 64 random bits.
    pub(crate) fn bits(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in (0, 1), neither end.
    fn uniform(self, index: u64) -> f64 {
        ((self.bits(index) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(self, index: u64) -> f64 {
        let (a, b) = (self.uniform(2 * index), self.uniform(2 * index + 1));
        // libm's functions, not the platform's: the same numbers everywhere.
        libm::sqrt(-2.0 * libm::log(a)) * libm::cos(TAU * b)
    }

    /// One whole number below `n`.
    fn below(self, n: u64) -> u64 {
        self.bits(0) % n.max(1)
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Binding;

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let stream = Stream::new(7, "x");
        let n = 20_000u64;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            sum += stream.normal(i);
            squares += stream.normal(i).powi(2);
        }
        assert!((sum / n as f64).abs() < 0.03, "{sum}");
        assert!((squares / n as f64 - 1.0).abs() < 0.05, "{squares}");
    }

    #[test]
    fn values_are_rounded_to_their_element_type() {
        assert_eq!(round(0.1, DType::F32), f64::from(0.1f32));
        assert_eq!(round(0.1, DType::Bf16), 0.10009765625);
        assert_eq!(round(-0.1, DType::F16), -0.0999755859375);
        assert_eq!(round(1e-6, DType::F16), 17.0 * 2f64.powi(-24));
        assert_eq!(round(0.0, DType::F16), 0.0);
    }

    #[test]
    fn the_time_is_the_schedule_row_of_the_step() {
        let mut g = Graph::new("g");
        g.input("t", TensorType::f32([2]), Binding::Step).unwrap();
        g.input("schedule", TensorType::f32([5, 2]), Binding::Prologue).unwrap();
        g.input("step", TensorType::new(DType::I32, []), Binding::Step).unwrap();
        g.input("text", TensorType::f32([2, 7, 3]), Binding::Prologue).unwrap();
        g.input("text_len", TensorType::new(DType::I32, []), Binding::Prologue).unwrap();
        for seed in 0..20 {
            let values = random_bindings(&g, seed);
            let step = values["step"].data[0] as usize;
            assert_eq!(values["schedule"].data[2 * step..2 * step + 2], values["t"].data);
            assert!(values["schedule"].data.iter().all(|t| (0.1..0.9).contains(t)));
            assert!((1.0..=7.0).contains(&values["text_len"].data[0]));
        }
    }

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let build = |names: &[&str]| {
            let mut g = Graph::new("g");
            for name in names {
                g.weight(name, TensorType::f32([3, 4])).unwrap();
            }
            g
        };
        let (one, two) = (random_bindings(&build(&["a"]), 1), random_bindings(&build(&["b", "a"]), 1));
        assert_eq!(one["a"], two["a"]);
        assert_ne!(two["a"], two["b"]);
        assert_ne!(one["a"], random_bindings(&build(&["a"]), 2)["a"]);
    }
}
