//! What the tests share.

use softcuda::{Error, Grid, Memory, Module, Stats};

/// Parses a fixture.
pub fn module(name: &str) -> Module {
    let path = format!("{}/tests/ptx/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    Module::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// An argument of a launch.
pub enum Arg {
    /// A device pointer.
    Pointer(u64),
    /// A 32-bit integer.
    Int(i32),
}

/// Copies values into fresh device memory.
pub fn upload<T: Copy>(memory: &Memory, values: &[T]) -> u64 {
    let at = memory.alloc(std::mem::size_of_val(values)).unwrap();
    // SAFETY: the allocation is as long as the values.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), at as *mut T, values.len()) };
    at
}

/// Copies device memory out.
pub fn download<T: Copy>(at: u64, len: usize) -> Vec<T> {
    // SAFETY: callers ask for no more than they allocated.
    unsafe { std::slice::from_raw_parts(at as *const T, len).to_vec() }
}

/// Launches a kernel on a one-dimensional or two-dimensional grid.
pub fn launch(
    module: &Module,
    memory: &Memory,
    kernel: &str,
    cubes: [u32; 3],
    units: [u32; 3],
    dynamic_shared: u32,
    args: &[Arg],
) -> Result<Stats, Error> {
    let bytes: Vec<Vec<u8>> = args
        .iter()
        .map(|a| match a {
            Arg::Pointer(p) => p.to_le_bytes().to_vec(),
            Arg::Int(i) => i.to_le_bytes().to_vec(),
        })
        .collect();
    let params: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    module.launch(kernel, Grid { cubes, units, dynamic_shared }, &params, memory)
}

/// Whether two floats agree within a relative (and absolute) tolerance.
pub fn close(a: f32, b: f32, tolerance: f32) -> bool {
    a == b || (a - b).abs() <= tolerance * b.abs().max(1.0) || a.is_nan() && b.is_nan()
}
