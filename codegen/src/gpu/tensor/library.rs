//! Products that a library of the device's maker does as well: of two matrices, with nothing at their end but a bias and GELU.

use std::collections::BTreeSet;

use ccl_ir::ops::UnaryKind;
use ccl_ir::plan::{Call, EmittedKernel, EmittedLaunch, Operand, Place, Region};
use ccl_ir::{Binding, DType, Plan};

use super::product::TensorProduct;
use crate::gpu::blueprint::{Blueprint, Class, Kernel, Program, Source, Step};
use crate::gpu::lower::product::BIAS;
use crate::gpu::tiles::{Choices, Problem, ProductProblem, Work};

/// A product as such a library is told of it: `result[m][n] = gelu(left[m][k] right[n][k]ᵀ + bias[n])`, with numbers of half precision on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LibraryProduct {
    /// The sizes, in one batch.
    pub problem: ProductProblem,
    /// Kind of half precision of the factors.
    pub half: DType,
    /// The left factor and the right one.
    pub factors: [Matrix; 2],
    /// Added to the columns.
    pub bias: Option<Bias>,
    /// Whether the results go through GELU with `tanh`.
    pub gelu: bool,
    /// Type of the result.
    pub result: DType,
    /// First element of the result, which is the last buffer and dense.
    pub first: u64,
}

/// A factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Position among the kernel's buffers.
    pub buffer: usize,
    /// First element.
    pub first: u64,
    /// Elements from one line to the next: lines along the depth where that is contiguous, else across it.
    pub stride: u64,
}

/// What is added to the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bias {
    /// Position among the kernel's buffers.
    pub buffer: usize,
    /// First element.
    pub first: u64,
    /// Type of its numbers.
    pub dtype: DType,
}

/// What never changes once a plan is loaded: its weights, and what is computed of them when it is.
pub struct Constants(BTreeSet<u32>);

impl Constants {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Self {
        let kept = |b: &u32| plan.buffers.get(*b as usize).is_some_and(|b| b.region == Region::Persistent);
        let written = |calls: &[Call]| -> Vec<u32> {
            let places = calls.iter().flat_map(|call| &call.outputs).map(|o| o.place);
            places.filter_map(|place| if let Place::Buffer(b) = place { Some(b) } else { None }).collect()
        };
        let mut all: BTreeSet<u32> = written(plan.calls(Binding::Load)).into_iter().filter(kept).collect();
        let others = plan.entries.iter().filter(|(entry, _)| **entry != Binding::Load);
        let inputs = plan.inputs.iter().filter_map(|port| match port.operand.place {
            Place::Buffer(b) => Some(b),
            Place::Weight(_) => None,
        });
        for b in inputs {
            all.remove(&b);
        }
        for b in others.flat_map(|(_, calls)| written(calls)) {
            all.remove(&b);
        }
        Self(all)
    }

    /// Whether an operand is one.
    pub fn has(&self, operand: &Operand) -> bool {
        match operand.place {
            Place::Weight(_) => true,
            Place::Buffer(b) => self.0.contains(&b),
        }
    }
}

impl LibraryProduct {
    /// The product of a call that a kernel computes with these sizes, where the library may do it: a bias that has to be rounded before is rounded once,
    /// so it must be a constant.
    pub fn of_call(call: &Call, constants: &Constants, blueprint: &Blueprint, sizes: &[u32]) -> Option<Self> {
        let product = Self::of(blueprint, sizes)?;
        let kept = product.rounded_bias().is_none() || call.inputs.get(BIAS).is_some_and(|o| constants.has(o));
        kept.then_some(product)
    }

    /// The bias where it has to be rounded before: the library adds what is of the result's type.
    pub fn rounded_bias(&self) -> Option<Bias> {
        self.bias.filter(|bias| bias.dtype != self.result)
    }

    /// The product that a kernel computes with these sizes; `None` where it is another one.
    pub fn of(blueprint: &Blueprint, sizes: &[u32]) -> Option<Self> {
        let Kernel::TensorProduct(p) = &blueprint.kernel else { return None };
        let Work::Product(problem) = Problem::of_kernel(&blueprint.kernel, sizes)?.work else { return None };
        if !problem.bulk || !p.extras.is_empty() || !p.output.wide {
            return None;
        }
        let size = |i: usize| sizes.get(i).map(|&n| u64::from(n));
        let batch = p.batch_rank as usize;
        let factor = |slot: u32, at: usize, along: bool, outer: u64| {
            // Behind the first element: the distances of batches, of rows or columns, and of depths.
            let (stride, line) =
                if along { (size(at + 1 + batch)?, problem.k) } else { (size(at + 2 + batch)?, outer) };
            (stride >= line).then_some(Matrix { buffer: slot as usize, first: size(at)?, stride })
        };
        let [at_a, at_b, at_bias] = p.places();
        let [along_a, along_b] = problem.along;
        let factors =
            [factor(p.a.slot.index, at_a, along_a, problem.m)?, factor(p.b.slot.index, at_b, along_b, problem.n)?];
        let dtype = |class: Class| if class == Class::Half { blueprint.half } else { DType::F32 };
        let result = dtype(p.output.slot.class);
        let bias = match &p.bias {
            None => None,
            // Single precision is rounded to half where the result is; the other way it would have to grow.
            Some(bias)
                if bias.wide && size(at_bias + 1)? == 1 && (bias.slot.class == Class::Float || result.is_half()) =>
            {
                // Buffers of single precision come behind those of half precision.
                let before = if bias.slot.class == Class::Half { 0 } else { halves(p) };
                let buffer = before + bias.slot.index as usize;
                Some(Bias { buffer, first: size(at_bias)?, dtype: dtype(bias.slot.class) })
            }
            Some(_) => return None,
        };
        let first = size(sizes.len().checked_sub(1)?)?;
        Some(Self { problem, half: blueprint.half, factors, bias, gelu: gelu(&p.epilogue)?, result, first })
    }
}

/// Buffers of half precision that are read.
fn halves(p: &TensorProduct) -> usize {
    let bias = p.bias.iter().map(|bias| bias.slot);
    let slots = [p.a.slot, p.b.slot].into_iter().chain(bias).filter(|slot| slot.class == Class::Half);
    slots.map(|slot| slot.index as usize + 1).max().unwrap_or(0)
}

/// Whether a program is GELU, where it is that or nothing.
fn gelu(program: &Program) -> Option<bool> {
    match program.steps.as_slice() {
        [] => Some(false),
        [Step::Unary(UnaryKind::GeluTanh, Source::In(0))] => Some(true),
        _ => None,
    }
}

/// Finds the products of a plan's launches.
pub struct Finder {
    /// Of each kernel.
    blueprints: Vec<Option<Blueprint>>,
    constants: Constants,
}

impl Finder {
    /// For a plan that was lowered to these kernels.
    pub fn new(plan: &Plan, kernels: &[EmittedKernel]) -> Self {
        let blueprints = kernels.iter().map(|k| serde_json::from_value(k.blueprint.clone()).ok()).collect();
        Self { blueprints, constants: Constants::of(plan) }
    }

    /// The product of a launch that is part of a call, where the library may do it.
    pub fn product(&self, call: &Call, launch: &EmittedLaunch) -> Option<LibraryProduct> {
        let blueprint = self.blueprints.get(launch.kernel as usize)?.as_ref()?;
        LibraryProduct::of_call(call, &self.constants, blueprint, &launch.sizes)
    }
}

/// How many launches of the kernels that a plan carries are products that were chosen to be the library's.
pub fn chosen(plan: &Plan) -> usize {
    let Some(emitted) = &plan.kernels else { return 0 };
    let choices: Choices = serde_json::from_value(emitted.choices.clone()).unwrap_or_default();
    if choices.library.is_empty() {
        return 0;
    }
    let finder = Finder::new(plan, &emitted.kernels);
    let entries = plan.entries.iter().filter_map(|(entry, calls)| Some(calls.iter().zip(emitted.entries.get(entry)?)));
    let launches = entries.flatten().flat_map(|(call, all)| all.launches().iter().map(move |l| (call, l)));
    let products = launches.filter_map(|(call, launch)| finder.product(call, launch));
    products.filter(|p| choices.library.contains(&p.problem.key())).count()
}
