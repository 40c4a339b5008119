//! A strict software GPU for the kernels of CUDA programs.
//!
//! The crate has two halves. [`Module`] parses the PTX that NVRTC makes and interprets it, a warp of 32 lanes at a time.
//! The module `driver` exports the entry points of the CUDA driver from a dynamic library: a copy of it named
//! `libcuda.so.1` lets programs that load the driver at run time find a device of compute capability 9.0.
//!
//! The interpreter refuses what a device would let pass by luck: accesses outside of live memory, reads of shared memory
//! that nothing wrote, races between warps, copies that nobody waited for, barriers that can't complete and warp
//! instructions without all their lanes. Each refusal names the kernel, the block, the thread and the line.

mod compound;
mod decode;
mod driver;
mod emit;
mod error;
mod exec;
mod kinds;
mod lex;
mod memory;
mod module;
mod op;
mod operands;
mod parse;
mod stats;
mod tensor_map;

pub use error::{Error, FaultKind};
pub use memory::Memory;
pub use module::{Grid, Module};
pub use stats::Stats;
pub use tensor_map::matrix_map;
