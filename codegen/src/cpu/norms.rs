//! Normalisations over the last dimension: layer norm, its modulated form, RMS norm and softmax.
//!
//! Rows go to tasks; statistics are sums in lanes of `f32`, the variance in a second pass over the row.

use ccl_ir::ops::{LayerNorm, NormModulate, RmsNorm};

use super::layout::Layout;
use super::math::{exp, max, sum, vectorised};
use super::parallel::{Shared, rows};
use super::view::View;

/// Calls `row(index, x, out)` for every row of `x`, whose rows are packed, and of the dense `out`.
///
/// # Safety
/// As for [`super::run`].
unsafe fn each_row(x: &View<'_>, out: &View<'_>, row: impl Fn(usize, &[f32], &mut [f32]) + Send + Sync) {
    let d = x.ty.last();
    if d == 0 {
        return;
    }
    let starts = Layout::rows(x);
    let (from, to) = (Shared(x.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    rows(out.elements() / d, d, |first, count| {
        for r in first..first + count {
            // SAFETY: the dispatcher's promise; every task has its own rows of the output.
            unsafe { row(r, from.slice(starts.offset(r), d), to.slice_mut(r * d, d)) };
        }
    });
}

/// Mean and `1 / sqrt(var + eps)` of a row.
#[inline(always)]
pub(super) fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, |x| x) / n;
    let var = sum(row, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

/// See [`LayerNorm`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn layer_norm(op: &LayerNorm, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let eps = op.eps as f32;
    // SAFETY: weight and bias are dense; the caller's promise.
    let affine = op.affine.then(|| unsafe { (inputs[1].f32s(), inputs[2].f32s()) });
    let row = |_, x: &[f32], out: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || {
                let (mean, rstd) = statistics(x, eps);
                match affine {
                    None => {
                        for (o, &x) in out.iter_mut().zip(x) {
                            *o = (x - mean) * rstd;
                        }
                    }
                    Some((weight, bias)) => {
                        for (((o, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                            *o = (x - mean) * rstd * w + b;
                        }
                    }
                }
            },
        );
    };
    // SAFETY: the caller's promise.
    unsafe { each_row(&inputs[0], &outputs[0], row) };
}

/// See [`NormModulate`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn norm_modulate(op: &NormModulate, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let eps = op.eps as f32;
    let (x, shift, scale) = (inputs[0], inputs[1], inputs[2]);
    let (length, d) = (x.shape()[1], x.shape()[2]);
    let (shift_step, scale_step) = (shift.stride(0), scale.stride(0));
    let (shifts, scales) = (Shared(shift.ptr.cast::<f32>()), Shared(scale.ptr.cast::<f32>()));
    let row = |r: usize, x: &[f32], out: &mut [f32]| {
        let batch = r / length;
        // SAFETY: shift and scale have packed rows, one per batch element; the caller's promise.
        let (shift, scale) = unsafe { (shifts.slice(batch * shift_step, d), scales.slice(batch * scale_step, d)) };
        vectorised(
            #[inline(always)]
            || {
                let (mean, rstd) = statistics(x, eps);
                for (((o, &x), &shift), &scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
                    *o = (x - mean) * rstd * (1.0 + scale) + shift;
                }
            },
        );
    };
    // SAFETY: the caller's promise.
    unsafe { each_row(&x, &outputs[0], row) };
}

/// See [`RmsNorm`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn rms_norm(op: &RmsNorm, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let eps = op.eps as f32;
    // SAFETY: the weight is dense; the caller's promise.
    let weight = unsafe { inputs[1].f32s() };
    let row = |_, x: &[f32], out: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || {
                let scale = rms(x, eps);
                for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
                    *o = x * scale * w;
                }
            },
        );
    };
    // SAFETY: the caller's promise.
    unsafe { each_row(&inputs[0], &outputs[0], row) };
}

/// `1 / sqrt(mean(x²) + eps)`. To be called under [`vectorised`].
#[inline(always)]
pub(super) fn rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

/// See [`ccl_ir::ops::Softmax`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn softmax(inputs: &[View<'_>], outputs: &[View<'_>]) {
    let row = |_, x: &[f32], out: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || {
                let top = max(x);
                for (o, &x) in out.iter_mut().zip(x) {
                    *o = exp(x - top);
                }
                let total = sum(out, |x| x);
                for o in out {
                    *o /= total;
                }
            },
        );
    };
    // SAFETY: the caller's promise.
    unsafe { each_row(&inputs[0], &outputs[0], row) };
}
