//! Plans: what the checker accepts and refuses, bytes and back, damage, and the lower bound on memory.

mod build;
mod bytes;
mod kernels;
mod live;
mod mutate;
mod oracle;
mod tamper;
