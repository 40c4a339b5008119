//! Graph to graph and graph to plan: the compiler proper.
//!
//! [`compile`] runs the whole [`pipeline`]. Each pass is one module with one public function that takes a graph and
//! returns a new one, and writes an [`ccl_ir::Event`] for every rewrite and every refusal:
//!
//! 1. [`specialise`]: routes get the task's answers, unwanted outputs go;
//! 2. [`dead`]: what no output needs goes, weights included;
//! 3. [`simplify`] and [`cse`]: neutral operations go, equal values are computed once, across guidance passes;
//! 4. [`raise`]: plain patterns become `NormModulate` and `PartitionedContextAttention`;
//! 5. [`algebra`]: equality saturation, block by block, by the target's prices ([`cost`], [`device`]); and in training [`differentiate`],
//!    [`optimise`] and [`rematerialise`]: the backward pass, the update of the parameters in place, and what is computed again rather than kept;
//! 6. [`hoist`]: the time embedding moves from the step to the whole schedule, and every value gets its binding time;
//! 7. [`fuse`]: elementwise chains become one operator, or a product's epilogue;
//! 8. [`precision`] and [`split`], where the target asks for them: half precision activations, keys dealt out;
//! 9. [`layout`]: copies where a kernel cannot read a view;
//! 10. [`lower`]: calls, order, buffers, offsets.
//!
//! [`stage`] counts work, traffic and memory after each of them, and [`law`](law()) says why a rule is right.
//!
//! The verifier runs after each pass. [`validate`] holds a pass against the reference interpreter.
#![deny(missing_docs)]

pub mod algebra;
pub mod cost;
pub mod cse;
pub mod dead;
pub mod device;
pub mod differentiate;
pub mod error;
pub mod fuse;
pub mod hoist;
pub mod law;
pub mod layout;
pub mod lower;
pub mod memory;
pub mod optimise;
pub mod order;
pub mod pipeline;
pub mod precision;
pub mod raise;
pub mod rebuild;
pub mod record;
pub mod rematerialise;
pub mod simplify;
pub mod specialise;
pub mod split;
pub mod stage;
pub mod validate;

pub use device::DeviceSpec;
pub use error::PassError;
pub use law::law;
pub use optimise::Optimiser;
pub use pipeline::{Options, Training, compile, compile_some};
pub use record::{Record, Spent};
