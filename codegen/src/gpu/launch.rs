//! Launches: a kernel, its grid and its arguments, as data.

use ccl_ir::DType;
use ccl_ir::plan::{Call, Operand};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::blueprint::{Blueprint, Class, Kernel, Slot};
use super::target::Target;

/// Why a call cannot run on a target.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{op} at `{at}`: {problem}")]
pub struct LowerError {
    /// Name of the operator.
    pub op: &'static str,
    /// Model path of the call.
    pub at: String,
    /// What the target lacks, with the limit.
    pub problem: String,
}

/// An operand of the call that a launch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ref {
    /// An input, by position.
    In(u16),
    /// An output, by position.
    Out(u16),
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The kernel.
    pub blueprint: Blueprint,
    /// Cubes along each axis.
    pub cubes: [u32; 3],
    /// Half precision buffers that are read.
    pub halves: Vec<Ref>,
    /// Single precision buffers that are read.
    pub floats: Vec<Ref>,
    /// Integer buffers that are read.
    pub ints: Vec<Ref>,
    /// Half precision buffers that are written.
    pub half_outs: Vec<Ref>,
    /// Single precision buffers that are written.
    pub float_outs: Vec<Ref>,
    /// Sizes, strides and first elements, in the kernel's own order.
    pub sizes: Vec<u32>,
}

/// Collects a launch's arguments.
pub struct Args<'a> {
    /// The call that is lowered.
    pub call: &'a Call,
    /// The target.
    pub target: &'a Target,
    half: DType,
    lists: [Vec<Ref>; 5],
    sizes: Vec<u32>,
}

impl<'a> Args<'a> {
    /// No arguments yet.
    pub fn new(call: &'a Call, target: &'a Target) -> Self {
        Self { call, target, half: DType::F32, lists: Default::default(), sizes: Vec::new() }
    }

    /// An error of this call.
    pub fn error(&self, problem: impl Into<String>) -> LowerError {
        LowerError { op: self.call.op.name(), at: self.call.at.clone(), problem: problem.into() }
    }

    /// Operand `i` of the inputs.
    pub fn operand(&self, i: usize) -> &'a Operand {
        &self.call.inputs[i]
    }

    /// Operand `i` of the outputs.
    pub fn result(&self, i: usize) -> &'a Operand {
        &self.call.outputs[i]
    }

    /// Reads input `i`.
    ///
    /// # Errors
    /// When the target cannot hold its type.
    pub fn input(&mut self, i: usize) -> Result<Slot, LowerError> {
        let dtype = self.call.inputs[i].ty.dtype;
        self.slot(dtype, Ref::In(i as u16), [0, 1, 2])
    }

    /// Writes output `i`.
    ///
    /// # Errors
    /// When the target cannot hold its type.
    pub fn output(&mut self, i: usize) -> Result<Slot, LowerError> {
        let dtype = self.call.outputs[i].ty.dtype;
        self.slot(dtype, Ref::Out(i as u16), [3, 4, 4])
    }

    fn slot(&mut self, dtype: DType, operand: Ref, [half, float, int]: [usize; 3]) -> Result<Slot, LowerError> {
        let (class, list) = match dtype {
            DType::F32 => (Class::Float, float),
            DType::I32 => (Class::Int, int),
            DType::F16 | DType::Bf16 => {
                if !self.target.halves.contains(&dtype) {
                    return Err(self.error(format!("target {} has no {dtype}", self.target.name)));
                }
                if self.half != DType::F32 && self.half != dtype {
                    return Err(self.error("mixes f16 and bf16"));
                }
                self.half = dtype;
                (Class::Half, half)
            }
        };
        let list = &mut self.lists[list];
        let index = list.iter().position(|r| *r == operand).unwrap_or_else(|| {
            list.push(operand);
            list.len() - 1
        });
        Ok(Slot { class, index: index as u32 })
    }

    /// Adds a size, stride or position. Kernels count in 32 bits.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn size(&mut self, n: u64) -> Result<(), LowerError> {
        let n = u32::try_from(n).map_err(|_| {
            self.error(format!("{n} elements do not fit the kernel's 32-bit index; take a smaller clip or batch"))
        })?;
        self.sizes.push(n);
        Ok(())
    }

    /// Adds several sizes.
    ///
    /// # Errors
    /// When one does not fit.
    pub fn sizes(&mut self, all: impl IntoIterator<Item = u64>) -> Result<(), LowerError> {
        all.into_iter().try_for_each(|n| self.size(n))
    }

    /// The launch of `cubes` cubes (spread over the grid's axes: kernels use the linear position) of `units` units.
    ///
    /// # Errors
    /// When the grid, the cube or the number of buffers is beyond the target's limits.
    pub fn launch(self, kernel: Kernel, cubes: u64, units: [u32; 3]) -> Result<Launch, LowerError> {
        let count: u32 = units.iter().product();
        if count > self.target.max_units {
            return Err(
                self.error(format!("{count} units a cube, target {} has {}", self.target.name, self.target.max_units))
            );
        }
        let buffers: usize = self.lists.iter().map(Vec::len).sum();
        // One more holds the sizes.
        if buffers + 1 > self.target.max_buffers as usize {
            let limit = self.target.max_buffers;
            return Err(self.error(format!("{} buffers, target {} binds {limit}", buffers + 1, self.target.name)));
        }
        let grid = grid(cubes, self.target.max_cubes)
            .ok_or_else(|| self.error(format!("{cubes} cubes are more than target {} has", self.target.name)))?;
        // Kernels number their units in 32 bits; a number that began anew would do its work a second time.
        let numbered = grid.iter().fold(u64::from(count), |n, &along| n.saturating_mul(along.into()));
        if kernel.numbers_units() && numbered > 1 << 32 {
            return Err(self.error(format!("{numbered} units do not fit 32 bits; take a smaller clip or batch")));
        }
        let [halves, floats, ints, half_outs, float_outs] = self.lists;
        let blueprint = Blueprint { kernel, half: self.half, units };
        Ok(Launch { blueprint, cubes: grid, halves, floats, ints, half_outs, float_outs, sizes: self.sizes })
    }
}

/// At least `cubes` cubes within limits; kernels pass over the surplus.
pub fn grid(cubes: u64, limits: [u32; 3]) -> Option<[u32; 3]> {
    let x = cubes.min(limits[0].into()).max(1);
    let rest = cubes.div_ceil(x);
    let y = rest.min(limits[1].into()).max(1);
    let z = rest.div_ceil(y).max(1);
    (z <= limits[2].into()).then(|| [x as u32, y as u32, z as u32])
}
