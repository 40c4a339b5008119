//! cuBLASLt's functions in the driver: a product, and what is refused.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::size_of;

use libloading::{Library, Symbol};

macro_rules! call {
    ($library:expr, $name:ident, $($arg:expr => $ty:ty),*) => {{
        // SAFETY: the types are those of the interface.
        unsafe {
            let f: Symbol<unsafe extern "C" fn($($ty),*) -> u32> = $library.get(stringify!($name).as_bytes()).unwrap();
            f($($arg),*)
        }
    }};
}

macro_rules! ok {
    ($library:expr, $name:ident, $($arg:expr => $ty:ty),*) => {
        assert_eq!(call!($library, $name, $($arg => $ty),*), 0, stringify!($name))
    };
}

const BF16: c_uint = 14;
const M: u64 = 3;
const N: u64 = 2;
const K: u64 = 4;

#[repr(C)]
struct Advice {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_uint,
    waves: f32,
    reserved: [c_int; 4],
}

struct Blas {
    library: Library,
    handle: usize,
    product: usize,
    preference: usize,
    /// Of the factors and the result, all by columns: `m x k` turned, `k x n`, `m x n`.
    layouts: [usize; 3],
    at: [u64; 3],
    workspace: u64,
}

impl Blas {
    fn new() -> Self {
        let path = std::env::current_exe().unwrap().with_file_name("libsoftcuda.so");
        // SAFETY: the library has no initialisers.
        let library = unsafe { Library::new(path).unwrap() };
        ok!(library, cuInit, 0 => c_uint);
        let (mut context, mut handle, mut product, mut preference) = (0usize, 0usize, 0usize, 0usize);
        ok!(library, cuDevicePrimaryCtxRetain, &mut context => *mut usize, 0 => c_int);
        ok!(library, cuCtxSetCurrent, context => usize);
        ok!(library, cublasLtCreate, &mut handle => *mut usize);
        ok!(library, cublasLtMatmulDescCreate, &mut product => *mut usize, 68 => c_uint, 0 => c_uint);
        ok!(library, cublasLtMatmulPreferenceCreate, &mut preference => *mut usize);
        let at = [K * M, K * N, M * N].map(|numbers| alloc(&library, 2 * numbers));
        let workspace = alloc(&library, 4096);
        let layouts = [[K, M], [K, N], [M, N]].map(|[rows, columns]| layout(&library, BF16, rows, columns, rows));
        let blas = Self { library, handle, product, preference, layouts, at, workspace };
        assert_eq!(blas.set(3, 1), 0);
        assert_eq!(blas.prefer(1, 4096u64), 0);
        (5..=8).for_each(|which| assert_eq!(blas.prefer(which, 16u32), 0));
        blas
    }

    fn set(&self, which: c_uint, value: c_uint) -> u32 {
        call!(self.library, cublasLtMatmulDescSetAttribute, self.product => usize, which => c_uint,
            (&raw const value).cast() => *const c_void, 4 => usize)
    }

    fn prefer<T>(&self, which: c_uint, value: T) -> u32 {
        call!(self.library, cublasLtMatmulPreferenceSetAttribute, self.preference => usize, which => c_uint,
            (&raw const value).cast() => *const c_void, size_of::<T>() => usize)
    }

    fn advise(&self, [a, b, d]: [usize; 3]) -> (u32, Advice) {
        let mut advice = Advice { algorithm: [0; 8], workspace: 0, state: 9, waves: 0.0, reserved: [0; 4] };
        let mut count = 0;
        let status = call!(self.library, cublasLtMatmulAlgoGetHeuristic, self.handle => usize, self.product => usize,
            a => usize, b => usize, d => usize, d => usize, self.preference => usize, 1 => c_int,
            &mut advice => *mut Advice, &mut count => *mut c_int);
        (status, advice)
    }

    fn multiply(&self, algorithm: &[u64; 8], at: [u64; 3], workspace: usize) -> u32 {
        let [a, b, d] = self.layouts;
        let (one, zero) = (1f32, 0f32);
        call!(self.library, cublasLtMatmul, self.handle => usize, self.product => usize, &one => *const f32,
            at[0] => u64, a => usize, at[1] => u64, b => usize, &zero => *const f32, at[2] => u64, d => usize,
            at[2] => u64, d => usize, algorithm => *const [u64; 8], self.workspace => u64, workspace => usize,
            0 => usize)
    }

    fn upload(&self, at: u64, numbers: &[f32]) {
        let halves: Vec<u16> = numbers.iter().map(|&x| half::bf16::from_f32(x).to_bits()).collect();
        ok!(self.library, cuMemcpyHtoD_v2, at => u64, halves.as_ptr().cast() => *const c_void, 2 * halves.len() => usize);
    }
}

fn alloc(library: &Library, bytes: u64) -> u64 {
    let mut at = 0u64;
    ok!(library, cuMemAlloc_v2, &mut at => *mut u64, bytes as usize => usize);
    at
}

fn layout(library: &Library, number: c_uint, rows: u64, columns: u64, stride: u64) -> usize {
    let mut at = 0usize;
    ok!(library, cublasLtMatrixLayoutCreate, &mut at => *mut usize, number => c_uint, rows => u64, columns => u64,
        stride as i64 => i64);
    at
}

/// The device is one, and what fails stays failed: all in one test, the failure last.
#[test]
fn products_are_done_and_what_does_not_fit_is_refused() {
    let blas = Blas::new();
    let a: Vec<f32> = (0..K * M).map(|i| i as f32 - 5.0).collect();
    let b: Vec<f32> = (0..K * N).map(|i| 0.5 * i as f32).collect();
    let (status, advice) = blas.advise(blas.layouts);
    assert_eq!((status, advice.state, advice.workspace), (0, 0, 4096));
    blas.upload(blas.at[0], &a);
    blas.upload(blas.at[1], &b);
    assert_eq!(blas.multiply(&advice.algorithm, blas.at, 4096), 0);
    ok!(blas.library, cuStreamSynchronize, 0 => usize);
    let mut halves = [0u16; (M * N) as usize];
    ok!(blas.library, cuMemcpyDtoH_v2, halves.as_mut_ptr().cast() => *mut c_void, blas.at[2] => u64,
        2 * halves.len() => usize);
    let (m, k) = (M as usize, K as usize);
    for (i, bits) in halves.iter().enumerate() {
        let want: f32 = (0..k).map(|l| a[i % m * k + l] * b[i / m * k + l]).sum();
        assert_eq!(half::bf16::from_bits(*bits).to_f32(), half::bf16::from_f32(want).to_f32(), "{i}");
    }

    // Shapes, kinds and distances that do not fit; what is nowhere.
    let [x, y, z] = blas.layouts;
    let other = |number, rows, columns, stride| layout(&blas.library, number, rows, columns, stride);
    for (layouts, want) in [
        ([x, y, other(BF16, N, M, N)], 7),
        ([x, other(BF16, K + 1, N, K + 1), z], 7),
        ([other(BF16, K, M, K - 1), y, z], 7),
        ([other(2, K, M, K), y, z], 15),
        ([x, y, 77], 7),
    ] {
        assert_eq!(blas.advise(layouts).0, want, "{layouts:?}");
    }
    assert_eq!((blas.set(7, 4), blas.advise(blas.layouts).0), (0, 7), "a bias that is nowhere");
    assert_eq!((blas.set(7, 2), blas.advise(blas.layouts).0), (0, 15), "an epilogue that is not known");
    assert_eq!((blas.set(7, 1), blas.set(99, 1)), (0, 7));
    assert_eq!((blas.prefer(1, 100u64), blas.advise(blas.layouts).0), (0, 15), "too little scratch memory");
    let [at_a, at_b, at_d] = blas.at;
    assert_eq!(blas.multiply(&advice.algorithm, [at_a + 2, at_b, at_d], 4096), 7, "an address between");
    assert_eq!(blas.multiply(&advice.algorithm, blas.at, 100), 7, "short scratch memory");
    assert_eq!(blas.multiply(&[0; 8], blas.at, 4096), 7, "no algorithm");
    // A result that is not the device's: told when the product runs, for good.
    assert_eq!(blas.multiply(&advice.algorithm, [at_a, at_b, at_d + 512], 4096), 0);
    assert_eq!(call!(blas.library, cuStreamSynchronize, 0 => usize), 700);
    assert_eq!(call!(blas.library, cublasLtDestroy, blas.handle => usize), 1);
}
