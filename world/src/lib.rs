//! The bounce world: clips small enough to learn on two CPU cores, in which sync can be measured without any other network.
//!
//! A ball of one of four colours bounces two to four times. Each impact starts a burst of sound whose pitch the prompt gives (impact `k`
//! has symbol `k mod 3` of three) and whose timbre is the ball's colour. **The prompt holds no timing**: a model of both streams
//! can only agree on *when* through its cross-modal attention.
//!
//! What a model sees are latents, made directly ([`Clip`]): video `[4, 16, 8, 4]`, audio `[8, L]`, text `[4, 32]`. With `L = 128` there
//! are eight audio tokens to a frame, with `L = 121` no whole number of them.
//!
//! - [`World`] makes clips, each a function of the seed and its number, and is a [`ccl_data::Source`];
//! - [`detect`] finds impacts in a video and onsets in an audio latent, [`measure()`] tells how well they agree, beside chance;
//! - [`Prompt`] and text features turn into each other.
//!
//! The design, and every constant in [`space`], are those of a prototype in PyTorch with which the task was shown to be learnable. Times
//! are in video frames everywhere, [`space::FRAMES`] to a clip.
#![deny(missing_docs)]

pub mod clip;
pub mod detect;
pub mod error;
pub mod measure;
pub mod prompt;
pub mod render;
pub mod space;
pub mod tensors;

pub use clip::{Clip, Truth, World};
pub use detect::{Impacts, Onsets, find_impacts, find_onsets};
pub use error::WorldError;
pub use measure::{Measures, Sync, measure, sync};
pub use prompt::{Colour, Prompt};
