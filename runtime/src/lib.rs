//! Backends, weights, inputs, executor and samplers: everything that runs a [`ccl_ir`] plan.
//!
//! Files come in through [`tensorfile`] (memory-mapped safetensors whose headers are not trusted) and leave through
//! [`mod@write`] (whole or not at all). [`checkpoint`] finds the files of a model directory and [`weights`] hands each
//! weight to a plan in the type that the plan wants. A [`Backend`] runs plans, a [`Session`] drives one plan the right
//! way, and [`denoise`] samples with it. A saved plan ([`planfile`]) runs without the compiler: this crate knows neither
//! models nor compiler passes.
#![deny(missing_docs)]

pub mod backend;
pub mod checkpoint;
pub mod convert;
pub mod cpu;
pub mod cuda;
pub mod denoise;
pub mod device;
pub mod error;
pub mod gpu;
pub mod header;
pub mod host;
pub mod inputs;
pub mod learner;
pub mod planfile;
pub mod profile;
pub mod random;
pub mod reference;
pub mod sampler;
pub mod schedule;
pub mod session;
pub mod tensorfile;
pub mod tuned;
pub mod weights;
pub mod write;

mod ports;
mod transfer;
mod wgpu;

pub use backend::{Backend, Instance};
pub use cpu::CpuBackend;
pub use error::RuntimeError;
pub use gpu::GpuBackend;
pub use host::{HostData, HostTensor};
pub use reference::ReferenceBackend;
pub use sampler::{Sampler, SamplerKind};
pub use session::{Session, Tensors};
