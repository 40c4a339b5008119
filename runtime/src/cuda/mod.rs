//! NVIDIA GPUs, through the CUDA driver API.
//!
//! Kernels are the code generator's CUDA texts: a plan's are loaded as machine code, which the plan carries, the user's cache has, or NVRTC makes
//! ([`kernels`]). Each plan has two streams of its own: one for its calls, and one for weights that come to the device while it
//! runs ([`flow`]). Products that measuring gave to cuBLASLt are done by it where it is there ([`library`]). An entry that has run once is recorded as
//! a graph and replayed: a step then allocates nothing and waits for nothing before its end.

mod abi;
mod blas;
mod cache;
mod device;
mod driver;
mod engine;
mod flow;
mod kernels;
mod library;
mod nvrtc;
mod stream;
mod tensor_map;
mod toolkit;

pub(crate) use device::{CudaDevice, devices};
pub use kernels::add_code;
