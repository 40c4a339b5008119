//! What a plan is and how it came to be, for people: as text, as one self-contained HTML page, as a graph, next to another
//! plan.
//!
//! Everything is read from the [`ccl_ir::Plan`]: its calls, and the report that the passes left in it. [`mod@text`] and
//! [`html`] say the same of [`kernels`], [`rules`] (events, folded over equal blocks), [`fold`] (modules, likewise),
//! [`lifetimes`] (buffers over time) and [`cost`] (time by a roofline), [`training`] (phases and streams of a training step); [`trace`] adds measured times, [`diff`] another plan.

pub mod cost;
pub mod diff;
pub mod dot;
pub mod fold;
pub mod html;
pub mod kernels;
pub mod lifetimes;
pub mod rules;
pub mod text;
pub mod trace;
pub mod training;
pub mod units;

pub use diff::Diff;
pub use kernels::{Kernel, kernels};
pub use trace::Trace;
pub use training::Training;
