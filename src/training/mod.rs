//! Training (SPEC 9): plans that compute losses, gradients and updates, and the loop around them.
//!
//! [`config`] says how to train, [`trainer`] does it: [`source`] and [`feed`] bring parameters and batches, [`draws`] what is random, [`engine`]
//! learns from a step's batches, [`checkpoint`] and [`metrics`] keep what came of
//! it.

pub mod checkpoint;
pub mod config;
pub mod curve;
pub mod draws;
pub mod engine;
pub mod feed;
mod keep;
pub mod loss;
pub mod metrics;
pub mod scaling;
pub mod source;
pub mod trainer;
