//! Elementwise chains and strided copies: one element a unit.
//!
//! Sizes: the number of elements; the dimensions, outermost first; for each input its first element and its strides, likewise; for
//! the output the same.

use ccl_ir::ops::{BinaryKind, UnaryKind};
use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::walk::{position, unravel};
use super::{load, load_written, store};
use crate::gpu::blueprint::{Program, Slot, Source, Step};

/// An elementwise kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Elementwise {
    /// Number of dimensions, 1 where everything is dense.
    pub rank: u32,
    /// Inputs of the program.
    pub inputs: Vec<Read>,
    /// Where the result goes.
    pub output: Slot,
    /// What is computed.
    pub program: Program,
}

/// Where an input of the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Read {
    /// In a buffer that is only read.
    Input(Slot),
    /// Where the result goes: the kernel works in place. A unit reads an element before it writes it, and no other unit does either.
    Output,
}

/// The kernel.
#[cube]
pub fn elementwise<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] e: Elementwise,
) {
    let i = CUBE_POS as u32 * CUBE_DIM + UNIT_POS;
    if i < *sizes.index(0) {
        let rank = comptime!(e.rank as usize);
        let index = unravel(i, sizes, rank, 1usize);
        let mut values = Sequence::<f32>::new();
        #[unroll]
        for k in 0..comptime!(e.inputs.len()) {
            let at = position(&index, sizes, rank, comptime!(1 + rank + k * (rank + 1)));
            let value = match comptime!(e.inputs[k]) {
                Read::Input(slot) => load::<E>(halves, floats, at as usize, comptime!(slot)),
                Read::Output => load_written::<E>(half_outs, float_outs, at as usize, comptime!(e.output)),
            };
            values.push(value);
        }
        let result = run(values, comptime!(e.program.clone()));
        let at = position(&index, sizes, rank, comptime!(1 + rank + e.inputs.len() * (rank + 1)));
        store::<E>(half_outs, float_outs, at as usize, result, comptime!(e.output));
    }
}

/// Runs a program on its inputs.
#[cube]
pub fn run(inputs: Sequence<f32>, #[comptime] program: Program) -> f32 {
    let mut values = inputs;
    let count = values.len();
    #[unroll]
    for k in 0..comptime!(program.steps.len()) {
        let result = step(&values, count, comptime!(program.steps[k]));
        values.push(result);
    }
    if comptime!(program.steps.is_empty()) { *values.index(0) } else { *values.index(comptime!(values.len() - 1)) }
}

#[cube]
fn step(values: &Sequence<f32>, #[comptime] inputs: usize, #[comptime] step: Step) -> f32 {
    match comptime!(step) {
        Step::Unary(kind, a) => {
            let x = source(values, inputs, comptime!(a));
            unary(x, comptime!(kind))
        }
        Step::Binary(kind, a, b) => {
            let x = source(values, inputs, comptime!(a));
            let y = source(values, inputs, comptime!(b));
            match comptime!(kind) {
                BinaryKind::Add => x + y,
                BinaryKind::Sub => x - y,
                BinaryKind::Mul => x * y,
            }
        }
    }
}

#[cube]
fn source(values: &Sequence<f32>, #[comptime] inputs: usize, #[comptime] source: Source) -> f32 {
    match comptime!(source) {
        Source::In(n) => *values.index(comptime!(n as usize)),
        Source::Step(n) => *values.index(comptime!(inputs + n as usize)),
        Source::Const(bits) => f32::new(comptime!(f32::from_bits(bits))),
    }
}

/// The functions of one number, as `ccl_ir::ops::UnaryKind` defines them.
#[cube]
pub fn unary(x: f32, #[comptime] kind: UnaryKind) -> f32 {
    match comptime!(kind) {
        UnaryKind::Neg => -x,
        UnaryKind::Exp => x.exp(),
        UnaryKind::Silu => x / (1.0 + (-x).exp()),
        UnaryKind::GeluTanh => {
            let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        UnaryKind::GeluErf => 0.5 * x * (1.0 + Erf::erf(x * 0.707_106_77)),
        UnaryKind::SiluGrad => {
            let s = 1.0 / (1.0 + (-x).exp());
            s * (1.0 + x * (1.0 - s))
        }
        UnaryKind::GeluTanhGrad => {
            let tanh = (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh();
            let slope = 0.797_884_6 * (1.0 + 0.134_145 * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
        }
        UnaryKind::GeluErfGrad => {
            let below = 0.5 * (1.0 + Erf::erf(x * 0.707_106_77));
            below + x * 0.398_942_3 * (-(0.5 * x * x)).exp()
        }
    }
}
