//! Training (SPEC 9): plans that compute losses, gradients and updates.

pub mod loss;
