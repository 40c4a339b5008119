//! The bounce world: clips, measures, pictures. One program: what its tests share is compiled once.

mod render;
mod truth;
mod world;
