//! Encoding of tensor maps, with the checks of the driver.

use std::ffi::{c_uint, c_void};

use super::{Code, INVALID_VALUE, NOT_SUPPORTED, call, set};
use crate::tensor_map::{Swizzle, TensorMap, element_size};

/// Describes a tiled tensor.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub extern "C" fn cuTensorMapEncodeTiled(
    target: *mut [u64; 16],
    data_type: c_uint,
    rank: c_uint,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    tile: *const u32,
    steps: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    _promotion: c_uint,
    fill: c_uint,
) -> Code {
    call(|| {
        let refuse = |what: &str| {
            eprintln!("softcuda: cuTensorMapEncodeTiled: {what}");
            Err(INVALID_VALUE)
        };
        let Some(element) = element_size(data_type) else { return refuse("the data type isn't known") };
        let n = rank as usize;
        if !(1..=5).contains(&n) || target.is_null() || dims.is_null() || tile.is_null() || steps.is_null() {
            return refuse("bad rank or null arguments");
        }
        if n > 1 && strides.is_null() {
            return refuse("strides are missing");
        }
        if interleave != 0 {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the caller's arrays have `rank` elements, the strides one less.
        let (dims, tile, steps, strides) = unsafe {
            let strides: &[u64] = if n > 1 { std::slice::from_raw_parts(strides, n - 1) } else { &[] };
            (
                std::slice::from_raw_parts(dims, n),
                std::slice::from_raw_parts(tile, n),
                std::slice::from_raw_parts(steps, n),
                strides,
            )
        };
        let (swizzle, span) = match swizzle {
            0 => (Swizzle::None, u32::MAX),
            1 => (Swizzle::B32, 32),
            2 => (Swizzle::B64, 64),
            3 => (Swizzle::B128, 128),
            _ => return Err(NOT_SUPPORTED),
        };
        if address as u64 % 16 != 0 {
            return refuse("the address is no multiple of 16");
        }
        if dims.iter().any(|d| *d == 0 || *d > 1 << 32) {
            return refuse("a dimension is out of range");
        }
        if strides.iter().any(|s| s % 16 != 0 || *s >= 1 << 40) {
            return refuse("a stride is no multiple of 16 or too large");
        }
        if strides.first().is_some_and(|s| *s < dims[0] * u64::from(element)) {
            return refuse("a stride is shorter than a row");
        }
        if tile.iter().any(|t| *t == 0 || *t > 256) || steps.iter().any(|s| *s == 0 || *s > 8) {
            return refuse("a tile size or an element stride is out of range");
        }
        let inner = tile[0] * element;
        if inner % 16 != 0 || inner > span {
            return refuse("the tile's rows are no multiple of 16 bytes or wider than the swizzle");
        }
        let map = TensorMap {
            element,
            data_type,
            address: address as u64,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            tile: tile.to_vec(),
            steps: steps.to_vec(),
            swizzle,
            fill_nan: fill == 1,
        };
        set(target, map.encode())
    })
}
