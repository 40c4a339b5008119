//! Datasets: what is written, checked and read. One program: what its tests share is compiled once.

mod common;

mod batches;
mod check;
mod dataset;
