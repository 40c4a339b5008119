//! The functions of `cublasLt.h`, as far as they are used: enumerations are unsigned there, addresses of the device pointers.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::cublaslt::sys;
use libloading::Library;

use crate::cuda::toolkit::function;

/// An object of the library.
pub(super) type Object = *mut c_void;
/// What a function returns: 0, or a `cublasStatus_t`.
pub(super) type Status = c_uint;
pub(super) type Create = unsafe extern "C" fn(*mut Object) -> Status;
pub(super) type Destroy = unsafe extern "C" fn(Object) -> Status;
pub(super) type Set = unsafe extern "C" fn(Object, c_uint, *const c_void, usize) -> Status;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Advice {
    pub(super) algorithm: sys::cublasLtMatmulAlgo_t,
    pub(super) workspace: usize,
    pub(super) state: Status,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

/// The functions.
pub(super) struct Functions {
    pub(super) create: Create,
    pub(super) destroy: Destroy,
    pub(super) version: unsafe extern "C" fn() -> usize,
    /// With the type of sums, and of what multiplies them.
    pub(super) product: unsafe extern "C" fn(*mut Object, c_uint, c_uint) -> Status,
    pub(super) product_set: Set,
    pub(super) product_destroy: Destroy,
    /// With the type of numbers, rows, columns, and the distance of columns.
    pub(super) layout: unsafe extern "C" fn(*mut Object, c_uint, u64, u64, i64) -> Status,
    pub(super) layout_destroy: Destroy,
    pub(super) preference: Create,
    pub(super) preference_set: Set,
    pub(super) preference_destroy: Destroy,
    /// With the handle, the product, four layouts, the preference, and room for so much advice.
    #[allow(clippy::type_complexity)]
    pub(super) advise: unsafe extern "C" fn(
        Object,
        Object,
        Object,
        Object,
        Object,
        Object,
        Object,
        c_int,
        *mut Advice,
        *mut c_int,
    ) -> Status,
    #[allow(clippy::type_complexity)]
    pub(super) multiply: unsafe extern "C" fn(
        Object,
        Object,
        *const f32,
        u64,
        Object,
        u64,
        Object,
        *const f32,
        u64,
        Object,
        u64,
        Object,
        *const sys::cublasLtMatmulAlgo_t,
        u64,
        usize,
        Object,
    ) -> Status,
}

impl Functions {
    /// Those of a loaded library.
    ///
    /// # Errors
    /// When it lacks one.
    pub(super) fn of(library: &Library) -> Result<Self, String> {
        Ok(Self {
            create: function!(library, b"cublasLtCreate\0"),
            destroy: function!(library, b"cublasLtDestroy\0"),
            version: function!(library, b"cublasLtGetVersion\0"),
            product: function!(library, b"cublasLtMatmulDescCreate\0"),
            product_set: function!(library, b"cublasLtMatmulDescSetAttribute\0"),
            product_destroy: function!(library, b"cublasLtMatmulDescDestroy\0"),
            layout: function!(library, b"cublasLtMatrixLayoutCreate\0"),
            layout_destroy: function!(library, b"cublasLtMatrixLayoutDestroy\0"),
            preference: function!(library, b"cublasLtMatmulPreferenceCreate\0"),
            preference_set: function!(library, b"cublasLtMatmulPreferenceSetAttribute\0"),
            preference_destroy: function!(library, b"cublasLtMatmulPreferenceDestroy\0"),
            advise: function!(library, b"cublasLtMatmulAlgoGetHeuristic\0"),
            multiply: function!(library, b"cublasLtMatmul\0"),
        })
    }
}

/// Words a status.
pub(super) fn done(what: &str, status: Status) -> Result<(), String> {
    let name = match status {
        0 => return Ok(()),
        1 => "NOT_INITIALIZED",
        3 => "ALLOC_FAILED",
        7 => "INVALID_VALUE",
        8 => "ARCH_MISMATCH",
        11 => "MAPPING_ERROR",
        13 => "EXECUTION_FAILED",
        14 => "INTERNAL_ERROR",
        15 => "NOT_SUPPORTED",
        _ => "unknown",
    };
    Err(format!("{what}: CUBLAS_STATUS_{name} ({status})"))
}
