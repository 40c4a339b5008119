//! Matrices as the copy engine (TMA) is told of them.

use std::ffi::c_void;

use ccl_codegen::gpu::text::TensorMap;
use ccl_ir::DType;
use cudarc::driver::sys;

use super::driver::fault;
use crate::gpu::fault::Fault;

/// The driver's description of a matrix in a buffer at `address`, for a launch with these sizes.
///
/// # Errors
/// When the driver refuses it: an address or a distance between rows that is no multiple of 16 bytes.
pub(super) fn encode(map: &TensorMap, address: u64, sizes: &[u32]) -> Result<sys::CUtensorMap, Fault> {
    let size = |i: usize| u64::from(sizes.get(i).copied().unwrap_or_default());
    let (data, bytes) = match map.half {
        DType::F16 => (sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2),
        _ => (sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2),
    };
    let at = (address + bytes * size(map.first)) as *mut c_void;
    let extents = map.extents.map(size);
    // Of one row the distance to the next is 0 or anything: the driver is told one that it takes.
    let stride = if extents[1] == 1 { (bytes * extents[0]).next_multiple_of(16) } else { bytes * size(map.stride) };
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: one description to write; two extents, one distance, two sides and two steps to read.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut encoded,
            data,
            2,
            at,
            extents.as_ptr(),
            &raw const stride,
            map.tile.as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            // As the kernels' own copies lay tiles out.
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .map_err(|e| fault("a matrix that the copy engine is to bring", e))?;
    Ok(encoded)
}
