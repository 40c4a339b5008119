//! Kernels in PTX, interpreted. One program: what its tests share is compiled once.

mod common;

mod bulk;
mod clusters;
mod depend;
mod faults;
mod kernels;
mod product;
