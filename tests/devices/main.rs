//! GPUs: what runs on them, is made for them and measured on them. One program: what its tests share is compiled once.

#[path = "../common/mod.rs"]
mod common;

mod bench_kernels;
mod cuda;
mod gpus;
mod library;
mod targets;
