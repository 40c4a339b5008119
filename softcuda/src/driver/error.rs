//! Names and texts of error codes.

use std::ffi::{CStr, c_char};

use super::{Code, INVALID_VALUE, SUCCESS, call, set};

const NAMES: [(Code, &CStr, &CStr); 23] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"capture was not initiated in this stream"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"operation not permitted on an event last recorded in a capturing stream"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

fn find(
    code: Code,
    target: *mut *const c_char,
    pick: impl Fn(&(Code, &'static CStr, &'static CStr)) -> &'static CStr,
) -> Code {
    let found = NAMES.iter().find(|n| n.0 == code);
    let text = found.map_or(std::ptr::null(), |n| pick(n).as_ptr());
    let code = call(|| set(target, text));
    if code == SUCCESS && found.is_none() { INVALID_VALUE } else { code }
}

/// Name of an error code.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: Code, target: *mut *const c_char) -> Code {
    find(code, target, |n| n.1)
}

/// Description of an error code.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: Code, target: *mut *const c_char) -> Code {
    find(code, target, |n| n.2)
}
