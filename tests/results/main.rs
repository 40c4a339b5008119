//! Results of every backend and plan, held against the reference. One program: what its tests share is compiled once.

#[path = "../common/mod.rs"]
mod common;

mod algebra;
mod clips;
mod determinism;
mod parity;
mod plans;
mod random_graphs;
