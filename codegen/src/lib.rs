//! Kernels that plans call.
//!
//! [`cpu`] holds native kernels for the host. A backend hands a kernel the operator and strided views of its
//! operands; the kernel knows nothing of plans, buffers or files.
#![deny(missing_docs)]

pub mod cpu;
pub mod gpu;
