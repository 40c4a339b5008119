//! Kernels of GPUs: on a wgpu device, as texts, and on softcuda's interpreter. One program for all of them: what they share is compiled once, and
//! while one waits for a device or a compiler another works.

mod cases;
mod checks;
mod common;
mod nvrtc;
mod soft;

mod attention;
mod dense;
mod gradients;
mod products;
mod run;
mod samples;
mod snapshots;
mod tensor_attention;
mod text;
mod tiles;
mod training;
mod wide;
