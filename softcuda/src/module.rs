//! Modules and launches.

use crate::error::Error;
use crate::exec;
use crate::memory::Memory;
use crate::op::Kernel;
use crate::parse::{Symbols, line_of, parse};
use crate::stats::Stats;

/// Sizes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along each axis.
    pub cubes: [u32; 3],
    /// Threads of a block along each axis.
    pub units: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
}

impl Grid {
    /// What is wrong with the number of blocks, for a kernel.
    pub(crate) fn check(&self, kernel: &Kernel) -> Result<(), String> {
        let cubes = self.cubes;
        if cubes.contains(&0) || cubes[1] > 65535 || cubes[2] > 65535 {
            return Err(format!("a grid of {cubes:?} blocks"));
        }
        if !cubes[0].is_multiple_of(kernel.cluster) {
            return Err(format!("a grid of {cubes:?} blocks for clusters of {}", kernel.cluster));
        }
        Ok(())
    }
}

/// Bytes of shared memory that a block can have (the opt-in limit of compute capability 9.0).
pub(crate) const MAX_SHARED: u32 = 227 * 1024;

/// A parsed and decoded text.
pub struct Module {
    text: String,
    kernels: Vec<Kernel>,
    symbols: Symbols,
}

impl Module {
    /// Parses PTX and decodes all of its kernels.
    pub fn parse(text: &str) -> Result<Module, Error> {
        let parsed = parse(text)?;
        Ok(Module { text: text.to_string(), kernels: parsed.kernels, symbols: parsed.symbols })
    }

    /// The PTX.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> Vec<&str> {
        self.kernels.iter().map(|k| k.name.as_str()).collect()
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        let found = self.symbols.ranges.iter().find(|(n, ..)| n == name)?;
        Some((found.1, (found.2 - found.1) as usize))
    }

    /// Offsets and sizes of a kernel's parameters.
    pub fn params(&self, name: &str) -> Option<&[(u32, u32)]> {
        self.kernel(name).map(|k| k.params.as_slice())
    }

    /// Bytes of statically sized shared memory of a kernel.
    pub fn static_shared(&self, name: &str) -> Option<u32> {
        self.kernel(name).map(|k| k.static_shared)
    }

    /// The most threads that a block of this kernel may have.
    pub fn max_threads(&self, name: &str) -> Option<u32> {
        self.kernel(name).map(|k| k.max_threads.map_or(1024, |t| t.iter().product()))
    }

    /// Names, begins and ends of the module's variables.
    pub(crate) fn ranges(&self) -> &[(String, u64, u64)] {
        &self.symbols.ranges
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// Runs a kernel to its end. Each element of `params` holds at least the bytes of one parameter.
    pub fn launch(&self, name: &str, grid: Grid, params: &[&[u8]], memory: &Memory) -> Result<Stats, Error> {
        let fail = |message: String| Error::Launch { kernel: name.to_string(), message };
        let kernel = self.kernel(name).ok_or_else(|| fail("the module has no such kernel".into()))?;
        if params.len() != kernel.params.len() {
            return Err(fail(format!("{} parameters given, {} declared", params.len(), kernel.params.len())));
        }
        let mut buffer = vec![0u8; kernel.param_bytes as usize];
        for (i, (&(offset, size), given)) in kernel.params.iter().zip(params).enumerate() {
            let (offset, size) = (offset as usize, size as usize);
            let bytes = given.get(..size).ok_or_else(|| fail(format!("parameter {i} needs {size} bytes")))?;
            buffer[offset..offset + size].copy_from_slice(bytes);
        }
        self.launch_packed(name, grid, buffer, memory)
    }

    /// Runs a kernel whose parameters are packed already.
    pub(crate) fn launch_packed(
        &self,
        name: &str,
        grid: Grid,
        params: Vec<u8>,
        memory: &Memory,
    ) -> Result<Stats, Error> {
        let fail = |message: String| Error::Launch { kernel: name.to_string(), message };
        let kernel = self.kernel(name).ok_or_else(|| fail("the module has no such kernel".into()))?;
        let threads = grid.units.iter().map(|u| u64::from(*u)).product::<u64>();
        if threads == 0 || threads > 1024 || grid.units[2] > 64 {
            return Err(fail(format!("blocks of {:?} threads", grid.units)));
        }
        if let Some(most) = kernel.max_threads {
            let product = most.iter().map(|u| u64::from(*u)).product::<u64>();
            if threads > product || (kernel.exact_threads && grid.units != most) {
                return Err(fail(format!("{threads} threads in a block; the kernel allows {product}")));
            }
        }
        grid.check(kernel).map_err(fail)?;
        let shared = kernel.dynamic_base.max(kernel.static_shared) as u64 + u64::from(grid.dynamic_shared);
        if shared > u64::from(MAX_SHARED) {
            return Err(fail(format!("{shared} bytes of shared memory in a block")));
        }
        let mut ranges = memory.ranges();
        ranges.extend(self.symbols.ranges.iter().map(|(_, begin, end)| (*begin, *end)));
        ranges.sort_unstable();
        ranges.dedup();
        exec::run(kernel, grid, &params, &ranges).map_err(|at| Error::Fault {
            kind: at.fault.kind,
            kernel: name.to_string(),
            block: at.block,
            thread: at.thread,
            line: at.line,
            source_line: at.source,
            text: line_of(&self.text, at.line),
            message: at.fault.message,
        })
    }
}
