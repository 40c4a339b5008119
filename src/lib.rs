//! `ccl`: a compiler and a runtime for joint audio-video diffusion transformers of the CCL family.
//!
//! The crates below do the work; this one puts them together for the command line and for programs that embed it:
//!
//! - [`model_dir::ModelDir`] opens a model directory: configuration, weights in any of the accepted dialects;
//! - [`planning`] turns a model, a task and a clip into a [`ccl_ir::Plan`];
//! - [`explain`] says what is in a plan and how it came to be;
//! - [`bisect`] finds the rewrite that changes a result, [`calibrate`] measures a backend for the cost model, [`kernels`] calls one
//!   by one, [`tuning`] the tiles of a GPU's kernels;
//! - [`running`] sets a plan up on a backend and feeds it tensors by the names that files use;
//! - [`training`] plans losses, gradients and updates, and trains; [`evaluation`] measures what was learnt, [`attention`] what it looks at,
//!   [`study`] which part of the model taught it;
//! - [`clips`] reads clips of the bounce world, [`decoding`] makes them something to watch and to hear.
#![deny(missing_docs)]

pub mod attention;
pub mod bisect;
pub mod calibrate;
pub mod clips;
pub mod decoding;
pub mod error;
pub mod evaluation;
pub mod explain;
pub mod kernels;
pub mod model_dir;
mod page;
pub mod planning;
pub mod running;
pub mod study;
pub mod training;
pub mod tuning;

pub use ccl_data as data;
pub use ccl_ir as ir;
pub use ccl_model as model;
pub use ccl_passes as passes;
pub use ccl_runtime as runtime;
pub use ccl_world as world;
pub use error::Error;
