//! Memory-bound kernels for CUDA that move sixteen bytes at a time: a unit has eight neighbouring numbers (the optimiser: twice four of
//! single precision) where a kernel of [`super::kernels`] has one.
//!
//! On an H200 a warp that reads numbers of half precision one by one asks for 64 bytes at a time, and as few as that in flight leave half of the
//! bandwidth unused. What works on rows keeps them in registers besides, so that a row is read once. Sizes are those of the kernels without the
//! width; lowering takes these where every first element and stride is a multiple of eight.

pub mod adam_w;
pub mod elementwise;
pub mod rows;

/// Numbers that a unit moves at a time.
pub const WIDTH: usize = 8;
