//! Graphs: operators, values, gradients, texts, random ones. One program: what its tests share is compiled once.

mod gradients;
mod operators;
mod random_graph;
mod text;
mod values;
mod verify;
