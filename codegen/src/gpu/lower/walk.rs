//! How kernels walk through operands: dimensions, first elements and strides.

use ccl_ir::plan::Operand;
use ccl_ir::types::dense_strides;

use crate::gpu::launch::{Args, LowerError};

/// One operand over a loop's dimensions: first element and strides, in elements.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) offset: u64,
    pub(super) strides: Vec<u64>,
}

impl Walk {
    /// An operand walked over a shape that it broadcasts to.
    pub(super) fn broadcast(operand: &Operand, over: &[usize]) -> Self {
        let shape = &operand.ty.shape;
        let lead = over.len() - shape.len();
        let stride = |i: usize| if i < lead || shape[i - lead] == 1 { 0 } else { operand.strides[i - lead] };
        Self { offset: operand.offset, strides: (0..over.len()).map(stride).collect() }
    }

    /// An operand's first element for each step of `over`, which all its dimensions but the last broadcast to.
    pub(super) fn rows(operand: &Operand, over: &[usize]) -> Self {
        let outer = operand.ty.rank().saturating_sub(1);
        let shape = operand.ty.shape[..outer].to_vec();
        let ty = operand.ty.with_shape(shape);
        let strides = operand.strides[..outer].to_vec();
        Self::broadcast(&Operand { ty, strides, ..operand.clone() }, over)
    }

    /// Whether each of its elements is `width` elements, or a multiple, from the buffer's first one.
    pub(super) fn is_aligned(&self, dims: &[usize], width: usize) -> bool {
        // Of a dimension of one element the stride says nothing.
        let steps = dims.iter().zip(&self.strides).filter(|(n, _)| **n > 1).map(|(_, s)| *s);
        std::iter::once(self.offset).chain(steps).all(|n| n % width as u64 == 0)
    }

    /// Adds the first element and the strides to a launch's sizes. `run` is how far the kernel goes from each of the walk's elements.
    ///
    /// # Errors
    /// When the last element is beyond the kernel's 32-bit index.
    pub(super) fn push(&self, args: &mut Args, dims: &[usize], run: u64) -> Result<(), LowerError> {
        let steps = dims.iter().zip(&self.strides).map(|(&n, &s)| (n as u64).saturating_sub(1).saturating_mul(s));
        let last = steps.fold(self.offset.saturating_add(run), u64::saturating_add);
        fits(args, last)?;
        args.size(self.offset)?;
        args.sizes(self.strides.iter().copied())
    }
}

/// Checks that a number fits the kernel's 32-bit index.
///
/// # Errors
/// When it does not.
pub(super) fn fits(args: &Args, n: u64) -> Result<(), LowerError> {
    match u32::try_from(n) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(args.error(format!("{n} elements do not fit the kernel's 32-bit index; take a smaller clip or batch")))
        }
    }
}

/// Joins neighbouring dimensions that every walk takes as one, and drops those of size 1. At least one dimension stays.
pub(super) fn collapse(dims: &mut Vec<usize>, walks: &mut [Walk]) {
    let mut d = dims.len();
    while d > 0 {
        d -= 1;
        if dims[d] == 1 && dims.len() > 1 {
            dims.remove(d);
            walks.iter_mut().for_each(|w| {
                w.strides.remove(d);
            });
            continue;
        }
        let n = dims.get(d + 1).copied().unwrap_or(0) as u64;
        if n > 0 && walks.iter().all(|w| w.strides[d] == w.strides[d + 1] * n) {
            dims[d + 1] *= dims[d];
            dims.remove(d);
            walks.iter_mut().for_each(|w| {
                w.strides.remove(d);
            });
        }
    }
    if dims.is_empty() {
        dims.push(1);
        walks.iter_mut().for_each(|w| w.strides.push(0));
    }
}

/// Strides of a dense tensor.
pub(super) fn dense(shape: &[usize]) -> Vec<u64> {
    dense_strides(shape).into_iter().map(|s| s as u64).collect()
}
