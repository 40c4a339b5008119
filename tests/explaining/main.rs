//! What the program says of plans, and its commands. One program: what its tests share is compiled once.

#[path = "../common/mod.rs"]
mod common;

mod bisect;
mod commands;
mod explain;
mod explain_train;
mod page;
mod study;
