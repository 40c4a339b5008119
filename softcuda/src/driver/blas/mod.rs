//! The entry points of cuBLASLt that do one matrix product: software drivers have no library of NVIDIA's to do it.
//!
//! As strict as the driver: shapes that don't fit, columns that overlap, addresses that are less aligned than the preference said, scratch memory that is
//! too short and an algorithm that was given for another product are refused. Products are queued like kernels; sums are fused multiply-adds of `f32` in
//! order of depth.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};

use super::set;
mod product;

use product::bytes;
pub(crate) use product::{Layout, Product};

use super::state::{State, with_context};
use super::task::Task;

/// `cublasStatus_t`.
type Status = c_uint;

const NOT_INITIALIZED: Status = 1;
const INVALID_VALUE: Status = 7;
const EXECUTION_FAILED: Status = 13;
const NOT_SUPPORTED: Status = 15;
/// Scratch memory that every product takes, and what marks its algorithms.
const WORKSPACE: usize = 4096;
const MARK: u64 = 0x50f7_b1a5;

/// What the library made.
#[derive(Clone)]
pub(crate) enum Object {
    Handle,
    /// Attributes by number.
    Product(HashMap<c_uint, u64>),
    Layout(Layout),
    Preference(HashMap<c_uint, u64>),
}

/// The status of an outcome, with its reason on the standard error stream.
fn call(body: impl FnOnce() -> Result<(), (Status, String)>) -> Status {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err((status, why))) => {
            eprintln!("softcuda: cuBLASLt: {why}");
            status
        }
        Err(_) => 14,
    }
}

fn no_context(code: super::Code) -> (Status, String) {
    (NOT_INITIALIZED, format!("no context, error {code}"))
}

fn invalid(why: &str) -> (Status, String) {
    (INVALID_VALUE, why.into())
}

/// Makes an object.
fn make(target: *mut usize, object: Object) -> Status {
    call(|| {
        let mut state = with_context().map_err(no_context)?;
        let handle = state.handle();
        state.blas.insert(handle, object);
        set(target, handle).map_err(|_| invalid("nowhere to write to"))
    })
}

fn destroy(object: usize) -> Status {
    call(|| {
        let mut state = with_context().map_err(no_context)?;
        state.blas.remove(&object).map(drop).ok_or_else(|| invalid("there is no such object"))
    })
}

/// Makes a handle.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtCreate(target: *mut usize) -> Status {
    make(target, Object::Handle)
}

/// Destroys a handle.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(handle: usize) -> Status {
    destroy(handle)
}

/// The version: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    100
}

/// Makes a product: sums and what multiplies them are `f32`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescCreate(target: *mut usize, sums: c_uint, scale: c_uint) -> Status {
    if (sums, scale) != (68, 0) {
        return call(|| Err((NOT_SUPPORTED, format!("sums of type {sums}, scales of type {scale}"))));
    }
    make(target, Object::Product(HashMap::new()))
}

/// Destroys a product.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescDestroy(product: usize) -> Status {
    destroy(product)
}

/// Sets an attribute, whose sizes in bytes are `sizes`.
fn attribute(object: usize, which: c_uint, value: *const c_void, size: usize, sizes: &[(c_uint, usize)]) -> Status {
    call(|| {
        let mut state = with_context().map_err(no_context)?;
        let known = sizes.iter().any(|&(w, bytes)| w == which && bytes == size);
        if !known || value.is_null() {
            return Err((INVALID_VALUE, format!("attribute {which} of {size} bytes")));
        }
        let mut bytes = [0u8; 8];
        // SAFETY: the caller gave so many bytes, at most eight.
        unsafe { std::ptr::copy_nonoverlapping(value.cast(), bytes.as_mut_ptr(), size) };
        match state.blas.get_mut(&object) {
            Some(Object::Product(all) | Object::Preference(all)) => {
                all.insert(which, u64::from_le_bytes(bytes));
                Ok(())
            }
            _ => Err(invalid("there is no such object")),
        }
    })
}

/// Sets whether factors are turned, the epilogue, or where the bias is.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescSetAttribute(
    product: usize,
    which: c_uint,
    value: *const c_void,
    size: usize,
) -> Status {
    attribute(product, which, value, size, &[(3, 4), (4, 4), (7, 4), (8, 8)])
}

/// Makes a matrix.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutCreate(
    target: *mut usize,
    number: c_uint,
    rows: u64,
    columns: u64,
    stride: i64,
) -> Status {
    make(target, Object::Layout(Layout { number, rows, columns, stride }))
}

/// Destroys a matrix.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutDestroy(layout: usize) -> Status {
    destroy(layout)
}

/// Makes a preference.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceCreate(target: *mut usize) -> Status {
    make(target, Object::Preference(HashMap::new()))
}

/// Sets the most scratch memory, the ways of adding, or what addresses are multiples of.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: usize,
    which: c_uint,
    value: *const c_void,
    size: usize,
) -> Status {
    attribute(preference, which, value, size, &[(1, 8), (3, 4), (5, 4), (6, 4), (7, 4), (8, 4)])
}

/// Destroys a preference.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceDestroy(preference: usize) -> Status {
    destroy(preference)
}

/// The product of a description and its layouts (the result's twice), with nothing in it yet.
fn described(state: &State, product: usize, layouts: [usize; 4]) -> Result<Product, (Status, String)> {
    let Some(Object::Product(set)) = state.blas.get(&product) else { return Err(invalid("there is no such product")) };
    let layout = |handle: usize| match state.blas.get(&handle) {
        Some(Object::Layout(layout)) if layout.is_sound() => Ok(*layout),
        Some(Object::Layout(layout)) => Err((INVALID_VALUE, format!("{layout:?} is no matrix"))),
        _ => Err(invalid("there is no such matrix")),
    };
    let [a, b, c, d] = layouts;
    let (a, b, c, d) = (layout(a)?, layout(b)?, layout(c)?, layout(d)?);
    let of = |which: c_uint, usual: u64| set.get(&which).copied().unwrap_or(usual);
    let turned = [of(3, 0), of(4, 0)].map(|t| t == 1);
    let turn = |l: Layout, turned: bool| if turned { (l.columns, l.rows) } else { (l.rows, l.columns) };
    let ((m, k), (depth, n)) = (turn(a, turned[0]), turn(b, turned[1]));
    let same = (c.number, c.rows, c.columns, c.stride) == (d.number, d.rows, d.columns, d.stride);
    if depth != k || (d.rows, d.columns) != (m, n) || !same {
        return Err((INVALID_VALUE, format!("{a:?} and {b:?}, turned {turned:?}, do not give {d:?}")));
    }
    if a.number != b.number || bytes(a.number) != Some(2) || !(d.number == a.number || d.number == 0) {
        return Err((NOT_SUPPORTED, format!("numbers of types {}, {}, {}", a.number, b.number, d.number)));
    }
    let (gelu, has_bias) = match of(7, 1) {
        1 => (false, false),
        4 => (false, true),
        32 => (true, false),
        36 => (true, true),
        other => return Err((NOT_SUPPORTED, format!("epilogue {other}"))),
    };
    let bias = has_bias.then(|| of(8, 0));
    if bias == Some(0) {
        return Err(invalid("the bias is nowhere"));
    }
    Ok(Product { turned, layouts: [a, b, d], at: [0; 3], bias, gelu, workspace: 0 })
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub struct Advice {
    algorithm: [u64; 8],
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// The one algorithm that there is, for this product alone.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: usize,
    product: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    preference: usize,
    room: c_int,
    advice: *mut Advice,
    count: *mut c_int,
) -> Status {
    call(|| {
        let state = with_context().map_err(no_context)?;
        if !matches!(state.blas.get(&handle), Some(Object::Handle)) || room < 1 {
            return Err(invalid("no handle, or no room for advice"));
        }
        let Some(Object::Preference(prefer)) = state.blas.get(&preference) else {
            return Err(invalid("there is no such preference"));
        };
        let [_, _, d] = described(&state, product, [a, b, c, d])?.layouts;
        if told("refuse") {
            return Err((NOT_SUPPORTED, "told to do no products".into()));
        }
        let of = |which: c_uint, usual: u64| prefer.get(&which).copied().unwrap_or(usual);
        if of(1, 0) < WORKSPACE as u64 {
            return Err((NOT_SUPPORTED, format!("no algorithm with less than {WORKSPACE} bytes of scratch memory")));
        }
        let aligned = (5..=8).map(|which| of(which, 256)).min().unwrap_or(256);
        let algorithm = [MARK, d.rows, d.columns, aligned, 0, 0, 0, 0];
        set(advice, Advice { algorithm, workspace: WORKSPACE, state: 0, waves: 1.0, reserved: [0; 4] })
            .and_then(|()| set(count, 1))
            .map_err(|_| invalid("nowhere to write to"))
    })
}

/// Whether `SOFTCUDA_BLAS` is this word.
fn told(word: &str) -> bool {
    std::env::var_os("SOFTCUDA_BLAS").is_some_and(|told| told == word)
}

/// Queues a product.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub extern "C" fn cublasLtMatmul(
    handle: usize,
    product: usize,
    alpha: *const f32,
    at_a: u64,
    a: usize,
    at_b: u64,
    b: usize,
    beta: *const f32,
    _at_c: u64,
    c: usize,
    at_d: u64,
    d: usize,
    algorithm: *const [u64; 8],
    workspace: u64,
    workspace_bytes: usize,
    stream: usize,
) -> Status {
    call(|| {
        let mut state = with_context().map_err(no_context)?;
        if !matches!(state.blas.get(&handle), Some(Object::Handle)) {
            return Err(invalid("there is no such handle"));
        }
        if alpha.is_null() || beta.is_null() || algorithm.is_null() {
            return Err(invalid("a scale or the algorithm is nowhere"));
        }
        // SAFETY: the caller gave two numbers and an algorithm.
        let (alpha, beta, [mark, rows, columns, aligned, ..]) = unsafe { (*alpha, *beta, *algorithm) };
        if (alpha, beta) != (1.0, 0.0) {
            return Err((NOT_SUPPORTED, format!("scales {alpha} and {beta}")));
        }
        if told("fail") {
            return Err((EXECUTION_FAILED, "told to fail".into()));
        }
        let mut product = described(&state, product, [a, b, c, d])?;
        let [_, _, result] = product.layouts;
        if (mark, rows, columns) != (MARK, result.rows, result.columns)
            || workspace_bytes < WORKSPACE
            || workspace % 256 != 0
        {
            return Err(invalid("the algorithm is of another product, or the scratch memory too short or between"));
        }
        (product.at, product.workspace) = ([at_a, at_b, at_d], workspace);
        let of_bias = product.bias.map(|bias| bias % bytes(result.number).unwrap_or(4));
        if product.at.iter().any(|at| at % aligned != 0) || of_bias.is_some_and(|off| off != 0) {
            return Err((INVALID_VALUE, format!("{:x?} are no multiples of {aligned}", product.at)));
        }
        let id = state.stream(stream).map_err(|_| invalid("there is no such stream"))?;
        state.push(id, Task::Product(Box::new(product))).map_err(|code| (EXECUTION_FAILED, format!("error {code}")))
    })
}
