//! The entry points of the CUDA driver, with their C names and layouts.
//!
//! There is one device and one context. Streams are queues that run as late as the rules of CUDA allow, so that a
//! missing wait gives wrong data every time rather than seldom. A kernel that breaks a rule makes the context fail for
//! good, as on a device, and its message goes to the standard error stream.

#![allow(non_snake_case)]

mod blas;
mod copy;
mod device;
mod error;
mod graph;
mod launch;
mod state;
mod stream;
mod task;
mod tensor_map;

/// `CUresult`.
pub(crate) type Code = u32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const NOT_INITIALIZED: Code = 3;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const NO_BINARY_FOR_GPU: Code = 209;
pub(crate) const INVALID_PTX: Code = 218;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;
pub(crate) const ILLEGAL_ADDRESS: Code = 700;
pub(crate) const MISALIGNED_ADDRESS: Code = 716;
pub(crate) const LAUNCH_FAILED: Code = 719;
pub(crate) const NOT_SUPPORTED: Code = 801;
pub(crate) const CAPTURE_UNSUPPORTED: Code = 900;
pub(crate) const CAPTURE_INVALIDATED: Code = 901;
pub(crate) const CAPTURE_UNMATCHED: Code = 903;
pub(crate) const CAPTURED_EVENT: Code = 907;

/// A result that entry points turn into a code.
pub(crate) type Outcome<T = ()> = Result<T, Code>;

/// The code of an outcome. A panic must not cross into C: it becomes `CUDA_ERROR_UNKNOWN`.
pub(crate) fn call(body: impl FnOnce() -> Outcome) -> Code {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => 999,
    }
}

/// Writes through an output pointer of C; null is an error.
pub(crate) fn set<T>(target: *mut T, value: T) -> Outcome {
    if target.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller of the entry point gave a pointer to a `T` that it owns.
    unsafe { target.write(value) };
    Ok(())
}
