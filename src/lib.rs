//! `ccl`: a compiler and a runtime for joint audio-video diffusion transformers of the CCL family.
//!
//! The crates below do the work; this one puts them together for the command line and for programs that embed it:
//!
//! - [`model_dir::ModelDir`] opens a model directory: configuration, weights in any of the accepted dialects;
//! - [`planning`] turns a model, a task and a clip into a [`ccl_ir::Plan`];
//! - [`bisect`] finds the rewrite that changes a result, [`calibrate`] measures a backend for the cost model;
//! - [`running`] sets a plan up on a backend and feeds it tensors by the names that files use.
#![deny(missing_docs)]

pub mod bisect;
pub mod calibrate;
pub mod error;
pub mod model_dir;
pub mod planning;
pub mod running;

pub use ccl_ir as ir;
pub use ccl_model as model;
pub use ccl_passes as passes;
pub use ccl_runtime as runtime;
pub use error::Error;
