//! All passes, on small models and on that of the paper. One program: what its tests share is compiled once.

mod common;
mod left_sides;

mod algebra_models;
mod algebra_rules;
mod algebra_training;
mod random;
mod stages;
mod targets;
mod training;
mod validate;
mod wan14b;
