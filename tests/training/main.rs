//! Training, and what survives its end. One program: what its tests share is compiled once.

#[path = "../common/mod.rs"]
mod common;

mod train;
mod train_kill;
mod training_steps;
