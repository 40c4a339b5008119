//! The model as a graph: configurations, tasks, names and values. One program: what its tests share is compiled once.

mod common;

mod cases;
mod config;
mod graph;
mod observe;
mod tarp;
mod tasks;
mod tensors;
