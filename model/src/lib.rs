//! CCL as a graph: which tensors a model has, what a task computes, and the program that computes it.
//!
//! Everything starts from a [`Config`] (`config.json`), a [`Clip`] (latent sizes), a [`Task`] and a [`Guidance`]:
//!
//! ```
//! use ccl_model::{Config, Guidance, Spec, Task, answers, build};
//!
//! let config = Config::from_json(
//!     r#"{"video": {"dim": 24, "ffn_dim": 32, "heads": 2, "in_channels": 4, "out_channels": 4, "patch": [1, 2, 2]},
//!         "audio": {"dim": 16, "ffn_dim": 32, "heads": 1, "in_channels": 6, "out_channels": 6, "patch": [1]},
//!         "layers": 1, "text_dim": 8, "freq_dim": 16}"#,
//! )?;
//! let spec = Spec::new(Task::Joint, "4x6x4@21".parse()?, Guidance::TwoPass);
//! let graph = build(&config, &spec)?;
//! assert_eq!(graph.outputs[0].name, "guided.video");
//! assert!(answers(spec.task, spec.guidance)["cond.video_sees_audio"]);
//! # Ok::<(), ccl_model::ModelError>(())
//! ```
//!
//! [`build`] writes the whole joint program, with every choice of a task as a route operator; [`answers`] says how a
//! task answers the routes. Folding them, and all else that makes the program fast, is the passes' work: this crate
//! follows the definition operator by operator and does no input or output.

mod backbone;
mod build;
mod builder;
mod cca;
mod clip;
mod config;
mod error;
mod fields;
mod foreign;
mod guidance;
pub mod names;
mod observe;
mod stream;
pub mod tarp;
mod task;
mod tensors;
mod training;

pub use build::{Spec, build};
pub use clip::{Clip, Grid};
pub use config::{Config, CrossAttention, StreamConfig, WindowCenter};
pub use error::ModelError;
pub use guidance::{Guidance, Mode, Pass, Prompt, answers};
pub use observe::{build_context_weights, context_weights};
pub use stream::Stream;
pub use task::Task;
pub use tensors::{Init, TensorSpec, tensors};
pub use training::build_loss;
