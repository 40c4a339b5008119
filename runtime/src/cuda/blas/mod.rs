//! cuBLASLt, NVIDIA's library of matrix products: looked for where a plan may use it, and never required.
//!
//! The functions are those of `cublasLt.h` (<https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api>). cuBLASLt keeps matrices by columns, so a
//! product is told to it with all of them transposed: `resultᵀ = right leftᵀ`.

mod functions;

use std::ffi::c_uint;
use std::path::Path;
use std::ptr::{from_ref, null_mut};
use std::sync::Arc;

use ccl_codegen::gpu::tensor::library::{LibraryProduct, Matrix};
use ccl_codegen::gpu::tiles::ProductProblem;
use ccl_ir::DType;
use cudarc::cublaslt::sys;
use libloading::Library;

use functions::{Advice, Destroy, Functions, Object, Set, Status, done};

use super::driver::Context;
use super::stream::Stream;
use super::toolkit::{folders, named, open, roots, toolkits};
use crate::gpu::fault::Fault;

/// Where the library may be, by name, newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["cublasLt64_13.dll", "cublasLt64_12.dll"]
} else {
    &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]
};
/// The oldest version that is asked: 12.0. Older ones want to be told of epilogues in other ways.
const OLDEST: usize = 120_000;
/// Bytes of scratch memory that a product may take: what NVIDIA advises for compute capability 9.0.
const WORKSPACE: usize = 32 << 20;
/// What every matrix starts at a multiple of, in bytes: plans align buffers further, and factors are told apart by lines of eight numbers.
const ALIGNED: u32 = 16;

/// Where the first numbers of a product's operands are.
pub(in crate::cuda) struct Addresses {
    /// The left factor and the right one.
    pub factors: [u64; 2],
    pub bias: Option<u64>,
    pub result: u64,
    pub workspace: u64,
}

/// How the library does a product.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Algorithm {
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Bytes of scratch memory.
    pub workspace: usize,
}

/// The library, on a device.
pub(in crate::cuda) struct Blas {
    context: Arc<Context>,
    functions: Functions,
    handle: Object,
    version: String,
}

// SAFETY: the handle may be used from any thread whose context is its own, and by several at a time.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// A description that the library made.
struct Described {
    at: Object,
    destroy: Destroy,
}

impl Described {
    fn new(what: &str, destroy: Destroy, create: impl FnOnce(*mut Object) -> Status) -> Result<Self, String> {
        let mut at = null_mut();
        done(what, create(&raw mut at))?;
        Ok(Self { at, destroy })
    }

    fn set<T>(&self, set: Set, which: c_uint, value: T) -> Result<(), String> {
        // SAFETY: the description is alive, and the value is as long as is said; the library checks that the attribute is, too.
        let status = unsafe { set(self.at, which, from_ref(&value).cast(), size_of::<T>()) };
        done(&format!("attribute {which}"), status)
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        unsafe { (self.destroy)(self.at) };
    }
}

/// A product as the library is told of it: what is done, the right factor, the left one, and the result.
struct Description {
    product: Described,
    right: Described,
    left: Described,
    result: Described,
}

impl Blas {
    /// The library for a device whose context is `context`. A software driver brings the functions itself: NVIDIA's library would find no device.
    ///
    /// # Errors
    /// When there is none, or none that takes the device; the message says what to do.
    pub(in crate::cuda) fn find(context: &Arc<Context>, software: bool) -> Result<Self, String> {
        let (roots, only) = match named("CCL_CUBLASLT_DIR") {
            Some(root) => (vec![root], true),
            None => (roots().0.into_iter().chain(toolkits()).collect(), false),
        };
        if software && !only {
            // SAFETY: the driver was loaded before there was a context, and stays loaded.
            return Self::open(context, Functions::of(unsafe { cudarc::driver::sys::culib() })?);
        }
        let mut problems = Vec::new();
        let folders = roots.iter().flat_map(|root| [root.clone()].into_iter().chain(folders(root)));
        let files = folders.flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
        let files = files.filter(|path| path.exists());
        let places = files.map(|path| (path, true));
        let names = if only { &[] } else { NAMES };
        // Then what the system's loader knows: that it knows no such name is no problem to speak of.
        for (path, there) in places.chain(names.iter().map(|name| (Path::new(name).to_path_buf(), false))) {
            match open(path.as_os_str()) {
                Ok(library) => match Self::load(context, library) {
                    Ok(blas) => return Ok(blas),
                    Err(problem) => problems.push(format!("{}: {problem}", path.display())),
                },
                Err(problem) if there => problems.push(format!("{}: {problem}", path.display())),
                Err(_) => {}
            }
        }
        let why = problems.first().map(|p| format!(" ({p})")).unwrap_or_default();
        Err(format!(
            "cuBLASLt was not found{why}: install the CUDA toolkit and set CUDA_PATH, or `pip install nvidia-cublas` and set CCL_CUBLASLT_DIR to its \
             nvidia/cu13"
        ))
    }

    fn load(context: &Arc<Context>, library: Library) -> Result<Self, String> {
        let functions = Functions::of(&library)?;
        // SAFETY: takes nothing.
        let version = unsafe { (functions.version)() };
        if version < OLDEST {
            return Err(format!("version {version} is older than {OLDEST}"));
        }
        // Never unloaded: what it does then is its own affair, and a lost device might keep it.
        std::mem::forget(library);
        Self::open(context, functions)
    }

    fn open(context: &Arc<Context>, functions: Functions) -> Result<Self, String> {
        context.enter().map_err(|f| f.problem)?;
        let mut handle = null_mut();
        // SAFETY: the context is this thread's, and there is a handle to write to.
        done("a handle", unsafe { (functions.create)(&raw mut handle) })?;
        // SAFETY: takes nothing.
        let version = unsafe { (functions.version)() };
        let version = format!("cuBLASLt {}.{}", version / 10_000, version / 100 % 100);
        Ok(Self { context: Arc::clone(context), functions, handle, version })
    }

    /// Name and version.
    pub(in crate::cuda) fn version(&self) -> &str {
        &self.version
    }

    /// How a product is done best, by the library's own judgement.
    ///
    /// # Errors
    /// When it does not do such products.
    pub(in crate::cuda) fn plan(&self, product: &LibraryProduct) -> Result<Algorithm, String> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        self.context.enter().map_err(|f| f.problem)?;
        let f = &self.functions;
        // Some versions advise of nothing where the bias is nowhere.
        let described = self.describe(product, product.bias.map(|_| u64::from(ALIGNED)))?;
        let preference = Described::new("a preference", f.preference_destroy, |at| {
            // SAFETY: there is a pointer to write to.
            unsafe { (f.preference)(at) }
        })?;
        let prefer = |which: Preference, value: u32| preference.set(f.preference_set, which as c_uint, value);
        let workspace = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as c_uint;
        preference.set(f.preference_set, workspace, WORKSPACE)?;
        // Parts of the depth are added as they are computed, and in one order: equal inputs give equal bits.
        let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction)?;
        for which in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            prefer(which, ALIGNED)?;
        }
        let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        let mut advice = Advice { algorithm, workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
        let mut count = 0;
        let Description { product, right, left, result } = &described;
        // SAFETY: everything is alive, and there is room for one piece of advice.
        let status = unsafe {
            (f.advise)(
                self.handle,
                product.at,
                right.at,
                left.at,
                result.at,
                result.at,
                preference.at,
                1,
                &raw mut advice,
                &raw mut count,
            )
        };
        done("advice", status)?;
        if count < 1 {
            return Err("it has no algorithm for it".into());
        }
        done("the algorithm", advice.state)?;
        Ok(Algorithm { algorithm: advice.algorithm, workspace: advice.workspace })
    }

    /// Does a product.
    ///
    /// # Errors
    /// When the library or the driver refuses.
    ///
    /// # Safety
    /// What the product reaches is there; the scratch memory is as long as the algorithm says, nothing else uses it while the stream does, and all
    /// of it is alive until the stream is done.
    pub(in crate::cuda) unsafe fn run(
        &self,
        product: &LibraryProduct,
        algorithm: &Algorithm,
        at: &Addresses,
        stream: &Stream,
    ) -> Result<(), Fault> {
        let failed = |problem: String| Fault::failed(format!("{}: {problem}", self.version));
        let [left, right] = at.factors;
        let described = self.describe(product, at.bias).map_err(failed)?;
        // SAFETY: everything is alive; numbers of the host are read before the call returns. The rest is the caller's promise.
        let status = unsafe {
            (self.functions.multiply)(
                self.handle,
                described.product.at,
                &raw const ONE,
                right,
                described.right.at,
                left,
                described.left.at,
                &raw const ZERO,
                at.result,
                described.result.at,
                at.result,
                described.result.at,
                &raw const algorithm.algorithm,
                at.workspace,
                algorithm.workspace,
                stream.handle().cast(),
            )
        };
        done("the product", status).map_err(failed)
    }

    fn describe(&self, p: &LibraryProduct, bias: Option<u64>) -> Result<Description, String> {
        use sys::cublasLtEpilogue_t as Epilogue;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let f = &self.functions;
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F as c_uint;
        let product = Described::new("a product", f.product_destroy, |at| {
            // SAFETY: there is a pointer to write to.
            unsafe { (f.product)(at, sums, number(DType::F32)) }
        })?;
        let set = |which: Attribute, value: c_uint| product.set(f.product_set, which as c_uint, value);
        let layout = |dtype: DType, [rows, columns]: [u64; 2], stride: u64| {
            Described::new("a matrix", f.layout_destroy, |at| {
                // SAFETY: there is a pointer to write to.
                unsafe { (f.layout)(at, number(dtype), rows, columns, i64::try_from(stride).unwrap_or(i64::MAX)) }
            })
        };
        let ProductProblem { m, n, k, along: [along_left, along_right], .. } = p.problem;
        let [left, right] = p.factors;
        // By columns, a factor whose depth is contiguous has the depth as its rows.
        let matrix = |factor: Matrix, along: bool, outer: u64| {
            layout(p.half, if along { [k, outer] } else { [outer, k] }, factor.stride)
        };
        // `cublasOperation_t`: 0 as it is, 1 transposed.
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, along_right.into())?;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, (!along_left).into())?;
        let epilogue = match (p.gelu, bias.is_some()) {
            (false, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (false, true) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (true, false) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (true, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as c_uint)?;
        if let Some(bias) = bias {
            product.set(f.product_set, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER as c_uint, bias)?;
        }
        Ok(Description {
            right: matrix(right, along_right, n)?,
            left: matrix(left, along_left, m)?,
            result: layout(p.result, [n, m], n)?,
            product,
        })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `open`; whoever runs products waits for them before it lets go of this.
            unsafe { (self.functions.destroy)(self.handle) };
        }
    }
}

/// What a product is multiplied with, and what was there before.
static ONE: f32 = 1.0;
static ZERO: f32 = 0.0;

/// `cudaDataType_t`.
fn number(dtype: DType) -> c_uint {
    use sys::cudaDataType_t as Number;
    match dtype {
        DType::F16 => Number::CUDA_R_16F as c_uint,
        DType::Bf16 => Number::CUDA_R_16BF as c_uint,
        DType::F32 => Number::CUDA_R_32F as c_uint,
        DType::I32 => Number::CUDA_R_32I as c_uint,
    }
}
