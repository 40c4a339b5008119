//! Products of a plan that cuBLASLt does, because measuring found it faster there.
//!
//! A plan's launches name kernels of our own throughout. A launch whose problem is among the target's [`Choices::library`] and that the library can do
//! goes to it, where it is there; else to the kernel.
//!
//! [`Choices::library`]: ccl_codegen::gpu::tensor::tiles::Choices::library

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ccl_codegen::gpu::tensor::library::LibraryProduct;

use super::blas::{Algorithm, Blas};
use super::device::Open;
use super::driver::Allocation;
use super::stream::Stream;
use crate::gpu::fault::Fault;

/// A product, ready but for its buffers.
pub(super) struct Planned {
    blas: Arc<Blas>,
    product: LibraryProduct,
    algorithm: Algorithm,
    /// Shared by all products of a plan, which one stream does one after another.
    workspace: Arc<Allocation>,
}

impl Planned {
    /// Does the product: `buffers` are the kernel's, by address.
    ///
    /// # Errors
    /// When the library or the driver refuses.
    ///
    /// # Safety
    /// What the product reaches is inside the buffers, and all of them are alive until the stream, which is the only one that the plan's products go
    /// to, is done.
    pub(super) unsafe fn run(&self, buffers: &[u64], stream: &Stream) -> Result<(), Fault> {
        let workspace = self.workspace.address();
        // SAFETY: the caller's promise; the workspace is as long as the longest of the plan.
        unsafe { self.blas.run(&self.product, &self.algorithm, buffers, workspace, stream) }
    }
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

    /// What does a product.
    pub(super) fn get(&self, product: &LibraryProduct) -> Option<Arc<Planned>> {
        self.0.get(product).cloned()
    }
}
