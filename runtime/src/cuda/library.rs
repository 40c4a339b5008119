//! Products of a plan that cuBLASLt does, because measuring found it faster there.
//!
//! A plan's launches name kernels of our own throughout. A launch whose problem is among the target's [`Choices::library`] and that the library can do
//! goes to it, where it is there; else, and from the first time on that the library fails, to the kernel. The library adds a bias of the result's type
//! alone: a constant of single precision is rounded to half once, as PyTorch does. Its scratch memory, of at most 32 MiB, comes beside what the plan has.
//!
//! [`Choices::library`]: ccl_codegen::gpu::tiles::Choices::library

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ccl_codegen::gpu::tensor::library::{Finder, LibraryProduct};
use ccl_ir::plan::{Call, EmittedKernel, EmittedLaunch};
use ccl_ir::{DType, Plan};
use cudarc::driver::result;
use half::{bf16, f16};

use super::blas::{Addresses, Algorithm, Blas};
use super::device::Open;
use super::driver::{Allocation, Context, fault};
use super::stream::Stream;
use crate::gpu::fault::Fault;

/// A product, ready but for its buffers.
struct Planned {
    product: LibraryProduct,
    algorithm: Algorithm,
    shared: Arc<Shared>,
}

/// What all products of a plan share.
struct Shared {
    blas: Arc<Blas>,
    context: Arc<Context>,
    /// Bytes of scratch memory of the product that takes most.
    most: usize,
    /// Scratch memory, once the first product runs: the plan's own memory comes first. One stream does all products, one after another.
    workspace: OnceLock<Allocation>,
}

impl Shared {
    /// Where the scratch memory is.
    fn workspace(&self) -> Result<u64, Fault> {
        if let Some(there) = self.workspace.get() {
            return Ok(there.address());
        }
        let new = Allocation::new(&self.context, self.most as u64)?;
        Ok(self.workspace.get_or_init(|| new).address())
    }
}

/// A launch's product.
pub(super) struct OfLaunch {
    planned: Arc<Planned>,
    /// The bias as the library takes it, once it was rounded.
    bias: Mutex<Option<Allocation>>,
    /// The library has failed: the kernel does it.
    failed: AtomicBool,
}

impl OfLaunch {
    /// Whether the library does it, as far as is known.
    pub(super) fn is_done(&self) -> bool {
        !self.failed.load(Relaxed)
    }

    /// Does the product, `buffers` being the kernel's, by address; `false` where the kernel has to. The first time the bias is rounded, once `settle` has
    /// waited for what writes it.
    ///
    /// # Errors
    /// When the device is lost.
    ///
    /// # Safety
    /// What the product reaches is inside the buffers, and all of them are alive until the stream, which is the only one that the plan's products go
    /// to, is done. A bias that has to be rounded never changes.
    pub(super) unsafe fn run(
        &self,
        buffers: &[u64],
        stream: &Stream,
        settle: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        if !self.is_done() {
            return Ok(false);
        }
        // SAFETY: the caller's promise.
        match unsafe { self.attempt(buffers, stream, settle) } {
            Ok(()) => Ok(true),
            Err(fault) if fault.lost => Err(fault),
            Err(fault) => {
                self.failed.store(true, Relaxed);
                let key = self.planned.product.problem.key();
                tracing::warn!("product {key} takes a kernel of ours from here on: {}", fault.problem);
                Ok(false)
            }
        }
    }

    /// # Safety
    /// As for [`OfLaunch::run`].
    unsafe fn attempt(
        &self,
        buffers: &[u64],
        stream: &Stream,
        settle: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Planned { product, algorithm, shared } = self.planned.as_ref();
        let address = |buffer: usize, first: u64, dtype: DType| {
            let missing = || Fault::failed("a product lacks a buffer");
            buffers.get(buffer).map(|&at| at + first * dtype.bytes()).ok_or_else(missing)
        };
        let [left, right] = product.factors.map(|f| address(f.buffer, f.first, product.half));
        let result = address(buffers.len().wrapping_sub(1), product.first, product.result)?;
        let given = product.bias.map(|b| address(b.buffer, b.first, b.dtype)).transpose()?;
        let workspace = shared.workspace()?;
        let mut rounded = self.bias.lock().unwrap_or_else(PoisonError::into_inner);
        let bias = match (given, product.rounded_bias()) {
            (Some(at), Some(_)) => {
                if rounded.is_none() {
                    settle()?;
                    // SAFETY: the caller's promise; what writes it is done.
                    *rounded = Some(unsafe { round(&shared.context, at, product, stream) }?);
                }
                rounded.as_ref().map(Allocation::address)
            }
            (given, _) => given,
        };
        let at = Addresses { factors: [left?, right?], bias, result, workspace };
        // SAFETY: the caller's promise; the workspace is as long as the longest of the plan, and the bias as the result's rows.
        unsafe { shared.blas.run(product, algorithm, &at, stream) }
    }
}

/// A copy of a bias of single precision, rounded to the result's type.
///
/// # Safety
/// There are as many numbers at `at` as the result has columns, and nothing writes them.
unsafe fn round(
    context: &Arc<Context>,
    at: u64,
    product: &LibraryProduct,
    stream: &Stream,
) -> Result<Allocation, Fault> {
    let count = product.problem.n as usize;
    let mut numbers = vec![0f32; count];
    // SAFETY: the caller's promise.
    unsafe { result::memcpy_dtoh_sync(&mut numbers, at) }.map_err(|e| fault("a copy of a bias", e))?;
    let half = |x: f32| match product.result {
        DType::F16 => f16::from_f32(x).to_bits(),
        _ => bf16::from_f32(x).to_bits(),
    };
    let halves: Vec<u16> = numbers.into_iter().map(half).collect();
    let copy = Allocation::new(context, 2 * count as u64)?;
    // SAFETY: allocated just now, as long as the numbers, which the driver has read when it returns: they are not pinned.
    unsafe { result::memcpy_htod_async(copy.address(), &halves, stream.handle()) }
        .map_err(|e| fault("a copy of a bias", e))?;
    Ok(copy)
}

/// The products of a plan that the library does.
pub(super) struct Products {
    finder: Finder,
    planned: HashMap<LibraryProduct, Arc<Planned>>,
}

impl Products {
    /// Of some launches those that were chosen and that the library does.
    pub(super) fn of<'p>(
        plan: &Plan,
        kernels: &[EmittedKernel],
        open: &Open,
        chosen: &BTreeSet<String>,
        launches: impl Iterator<Item = (&'p Call, &'p EmittedLaunch)>,
    ) -> Self {
        // Where nothing was chosen nothing has to be found.
        let kernels = if chosen.is_empty() { &[] } else { kernels };
        let mut products = Self { finder: Finder::new(plan, kernels), planned: HashMap::new() };
        let mut wanted: Vec<LibraryProduct> = Vec::new();
        for product in launches.filter_map(|(call, launch)| products.finder.product(call, launch)) {
            if chosen.contains(&product.problem.key()) && !wanted.contains(&product) {
                wanted.push(product);
            }
        }
        if wanted.is_empty() {
            return products;
        }
        let blas = match open.blas() {
            Ok(blas) => blas,
            Err(why) => {
                tracing::info!("{} products that cuBLASLt does faster take other kernels: {why}", wanted.len());
                return products;
            }
        };
        let planned = wanted.into_iter().filter_map(|product| match blas.plan(&product) {
            Ok(algorithm) => Some((product, algorithm)),
            Err(why) => {
                let (version, key) = (blas.version(), product.problem.key());
                tracing::info!("product {key} takes another kernel: {version} does not do it ({why})");
                None
            }
        });
        let planned: Vec<(LibraryProduct, Algorithm)> = planned.collect();
        if !planned.is_empty() {
            tracing::info!("{} does {} products of the plan", blas.version(), planned.len());
        }
        let most = planned.iter().map(|(_, algorithm)| algorithm.workspace).max().unwrap_or(0);
        let shared = Arc::new(Shared { blas, context: Arc::clone(&open.context), most, workspace: OnceLock::new() });
        let ready =
            |(product, algorithm)| (product, Arc::new(Planned { product, algorithm, shared: Arc::clone(&shared) }));
        products.planned = planned.into_iter().map(ready).collect();
        products
    }

    /// What does a launch, where the library does.
    pub(super) fn of_launch(&self, call: &Call, launch: &EmittedLaunch) -> Option<OfLaunch> {
        let planned = self.planned.get(&self.finder.product(call, launch)?)?;
        Some(OfLaunch { planned: Arc::clone(planned), bias: Mutex::default(), failed: AtomicBool::new(false) })
    }
}
