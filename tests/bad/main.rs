//! What is wrong with an input is said in one line. One program: what its tests share is compiled once.

#[path = "../common/mod.rs"]
mod common;

mod input;
mod options;
mod tensors;
mod training;
