//! Typed tensor graphs for CCL models, and the plans that they become.
//!
//! A [`Graph`] is a program over tensors of known shape: nodes in evaluation order, each an
//! [`Op`] with inputs, output types and the model path it came from. Every operator is one file
//! under [`ops`]: what it takes, what it returns, its reference evaluation (generic over
//! [`Real`]: `f32` and `f64`), its work and a few samples that every generic test runs.
//!
//! ```
//! use ccl_ir::{Binding, DType, Graph, TensorType, ops};
//!
//! let mut g = Graph::new("example");
//! let x = g.input("x", TensorType::f32([2, 3]), Binding::Step)?;
//! let w = g.weight("w", TensorType::f32([4, 3]))?;
//! let y = g.add("proj", ops::Linear::plain(), &[x, w])?;
//! g.output("y", y, None);
//! assert_eq!(g.ty(y).shape, [2, 4]);
//! assert_eq!(g.ty(y).dtype, DType::F32);
//! # Ok::<(), ccl_ir::IrError>(())
//! ```
//!
//! This crate does no input or output and knows no device: a saved [`plan::Plan`] is plain data.

pub mod chain;
pub mod error;
pub mod event;
pub mod graph;
pub mod interp;
pub mod op;
pub mod ops;
pub mod partition;
pub mod plan;
pub mod random_graph;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;
pub mod view;

pub use chain::Chain;
pub use error::{IrError, Problem};
pub use event::Event;
pub use graph::{Binding, Graph, Node, NodeId, Output, Value};
pub use op::{Access, Op, Operator, Sample, Tolerance, Work};
pub use partition::Partition;
pub use plan::Plan;
pub use tensor::{Real, Tensor};
pub use types::{DType, TensorType};
