//! Latents to patches and back: copies of a permuted view.

use ccl_ir::ops::{Patchify, Unpatchify};

use super::movement::copy_strided;
use super::view::View;

/// See [`Patchify`]: the result is `[B, grid.., C, patch..]` with dimensions joined.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn patchify(op: &Patchify, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let x = inputs[0];
    let at = |axis: usize| (x.shape()[2 + axis], x.stride(2 + axis));
    let grid = op.patch.iter().enumerate().map(|(axis, &p)| (at(axis).0 / p, at(axis).1 * p));
    let inner = op.patch.iter().enumerate().map(|(axis, &p)| (p, at(axis).1));
    let batch = (x.shape()[0], x.stride(0));
    let channels = (x.shape()[1], x.stride(1));
    let dims = std::iter::once(batch).chain(grid).chain([channels]).chain(inner);
    // SAFETY: the caller's promise.
    unsafe { copy_strided(&x, 0, dims, &outputs[0]) }
}

/// See [`Unpatchify`]: the result is `[B, C, (grid, patch)..]` with each pair of dimensions joined.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn unpatchify(op: &Unpatchify, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let x = inputs[0];
    let channels = outputs[0].shape()[1];
    let mut dims = Vec::with_capacity(2 + 2 * op.patch.len());
    // Strides of a dimension of the grid and of the patch grow from the last one up.
    let (mut token, mut inner) = (x.stride(1), x.stride(2) * channels);
    for (&g, &p) in op.grid.iter().zip(&op.patch).rev() {
        dims.extend([(p, inner), (g, token)]);
        token *= g;
        inner *= p;
    }
    dims.extend([(channels, x.stride(2)), (x.shape()[0], x.stride(0))]);
    // SAFETY: the caller's promise.
    unsafe { copy_strided(&x, 0, dims.into_iter().rev(), &outputs[0]) }
}
