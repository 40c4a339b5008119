//! Products of a plan that cuBLASLt does, because measuring found it faster there.
//!
//! A plan's launches name kernels of our own throughout. A launch whose problem is among the target's [`Choices::library`] and that the library can do
//! goes to it, where it is there; else to the kernel. The library adds a bias of the result's type alone: a weight of single precision is rounded
//! to half once, as PyTorch does.
//!
//! [`Choices::library`]: ccl_codegen::gpu::tensor::tiles::Choices::library

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ccl_codegen::gpu::tensor::library::LibraryProduct;
use ccl_ir::DType;
use cudarc::driver::result;
use half::{bf16, f16};

use super::blas::{Addresses, Algorithm, Blas};
use super::device::Open;
use super::driver::{Allocation, Context, fault};
use super::stream::Stream;
use crate::gpu::fault::Fault;

/// A product, ready but for its buffers.
struct Planned {
    blas: Arc<Blas>,
    product: LibraryProduct,
    algorithm: Algorithm,
    /// Shared by all products of a plan, which one stream does one after another.
    workspace: Arc<Allocation>,
}

/// A launch's product.
pub(super) struct OfLaunch {
    planned: Arc<Planned>,
    /// The bias as the library takes it, once it was rounded.
    bias: Mutex<Option<Allocation>>,
}

impl OfLaunch {
    /// Does the product: `buffers` are the kernel's, by address. The first time the bias is rounded, once `settle` has waited for what writes it.
    ///
    /// # Errors
    /// When the library or the driver refuses.
    ///
    /// # Safety
    /// What the product reaches is inside the buffers, and all of them are alive until the stream, which is the only one that the plan's products go
    /// to, is done. A bias that has to be rounded never changes.
    pub(super) unsafe fn run(
        &self,
        buffers: &[u64],
        stream: &Stream,
        settle: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Planned { blas, product, algorithm, workspace } = self.planned.as_ref();
        let address = |buffer: usize, first: u64, dtype: DType| {
            let missing = || Fault::failed("a product lacks a buffer");
            buffers.get(buffer).map(|&at| at + first * dtype.bytes()).ok_or_else(missing)
        };
        let [left, right] = product.factors.map(|f| address(f.buffer, f.first, product.half));
        let result = address(buffers.len().wrapping_sub(1), product.first, product.result)?;
        let given = product.bias.map(|b| address(b.buffer, b.first, b.dtype)).transpose()?;
        let mut rounded = self.bias.lock().unwrap_or_else(PoisonError::into_inner);
        let bias = match (given, product.rounded_bias()) {
            (Some(at), Some(_)) => {
                if rounded.is_none() {
                    settle()?;
                    // SAFETY: the caller's promise; what writes it is done.
                    *rounded = Some(unsafe { round(workspace.context(), at, product) }?);
                }
                rounded.as_ref().map(Allocation::address)
            }
            (given, _) => given,
        };
        let at = Addresses { factors: [left?, right?], bias, result, workspace: workspace.address() };
        // SAFETY: the caller's promise; the workspace is as long as the longest of the plan, and the bias as the result's rows.
        unsafe { blas.run(product, algorithm, &at, stream) }
    }
}

/// A copy of a bias of single precision, rounded to the result's type.
///
/// # Safety
/// There are as many numbers at `at` as the result has columns, and nothing writes them.
unsafe fn round(context: &Arc<Context>, at: u64, product: &LibraryProduct) -> Result<Allocation, Fault> {
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
    // SAFETY: allocated just now, as long as the numbers.
    unsafe { result::memcpy_htod_sync(copy.address(), &halves) }.map_err(|e| fault("a copy of a bias", e))?;
    Ok(copy)
}

/// The products of a plan that the library does.
#[derive(Default)]
pub(super) struct Products(HashMap<LibraryProduct, Arc<Planned>>);

impl Products {
    /// Of some products those that were chosen and that the library does.
    ///
    /// # Errors
    /// When the device has no room for the library's scratch memory.
    pub(super) fn of(
        open: &Open,
        chosen: &BTreeSet<String>,
        products: impl Iterator<Item = LibraryProduct>,
    ) -> Result<Self, Fault> {
        let mut wanted: Vec<LibraryProduct> = Vec::new();
        for product in products.filter(|p| chosen.contains(&p.problem.key())) {
            if !wanted.contains(&product) {
                wanted.push(product);
            }
        }
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let blas = match open.blas() {
            Ok(blas) => blas,
            Err(why) => {
                tracing::info!("{} products that cuBLASLt does faster take other kernels: {why}", wanted.len());
                return Ok(Self::default());
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
        let most = planned.iter().map(|(_, algorithm)| algorithm.workspace).max().unwrap_or(0);
        let workspace = Arc::new(Allocation::new(&open.context, most as u64)?);
        tracing::info!("{} does {} products of the plan", blas.version(), planned.len());
        let ready = |(product, algorithm)| {
            let (blas, workspace) = (Arc::clone(&blas), Arc::clone(&workspace));
            (product, Arc::new(Planned { blas, product, algorithm, workspace }))
        };
        Ok(Self(planned.into_iter().map(ready).collect()))
    }

    /// What does the product of a launch.
    pub(super) fn of_launch(&self, product: &LibraryProduct) -> Option<OfLaunch> {
        self.0.get(product).map(|planned| OfLaunch { planned: Arc::clone(planned), bias: Mutex::default() })
    }
}
