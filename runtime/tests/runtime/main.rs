//! Backends, sessions, samplers, weights. One program: what its tests share is compiled once.

mod common;
mod support;

mod gpu;
mod plan_files;
mod runtimes;
mod samplers;
mod sampling;
mod states;
mod weights;
