//! Kernels of the CPU, held against the operators' own evaluation. One program for all of them: what they share is compiled once.

mod common;

mod attention;
mod attention_grad;
mod operators;
mod training;
