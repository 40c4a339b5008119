//! Gradients of normalisations.

use ccl_ir::ops::NormGrad;

use super::layout::Layout;
use super::math::{sum, sum_pairs, vectorised};
use super::norms::{rms, statistics};
use super::parallel::{Shared, rows};
use super::view::View;

/// See [`NormGrad`]. Rows of all inputs are packed, their other strides any.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn norm_grad(op: &NormGrad, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (x, g, dx) = (inputs[0], inputs[1], outputs[0]);
    let d = x.ty.last();
    let starts = [Layout::rows(&x), Layout::rows(&g)];
    let factor =
        op.scaled.then(|| (Shared(inputs[2].ptr.cast::<f32>()), Layout::broadcast_rows(&inputs[2], x.shape())));
    let [xs, gs, to, stats] = [x, g, dx, outputs[1]].map(|view| Shared(view.ptr.cast::<f32>()));
    let (eps, one) = (op.eps as f32, if op.one_plus { 1.0 } else { 0.0 });
    rows(dx.elements() / d, d, |first, count| {
        for r in first..first + count {
            // SAFETY: the dispatcher's promise; every task has its own rows of the outputs.
            let (x, g, out, stats) = unsafe {
                let (x, g) = (xs.slice(starts[0].offset(r), d), gs.slice(starts[1].offset(r), d));
                (x, g, to.slice_mut(r * d, d), stats.slice_mut(2 * r, 2))
            };
            // SAFETY: as above.
            let w = factor.as_ref().map(|(w, starts)| unsafe { w.slice(starts.offset(r), d) });
            let (mean, rstd) = vectorised(
                #[inline(always)]
                || row(x, g, w, one, op.centered, eps, out),
            );
            stats.copy_from_slice(&[mean, rstd]);
        }
    });
}

/// One row; returns its mean (0 where not centered) and the reciprocal of its deviation.
#[inline(always)]
fn row(x: &[f32], g: &[f32], w: Option<&[f32]>, one: f32, centered: bool, eps: f32, out: &mut [f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let (mean, rstd) = if centered { statistics(x, eps) } else { (0.0, rms(x, eps)) };
    match w {
        None => out.copy_from_slice(g),
        Some(w) => {
            for ((o, &g), &w) in out.iter_mut().zip(g).zip(w) {
                *o = g * (w + one);
            }
        }
    }
    let shift = if centered { sum(out, |g| g) / n } else { 0.0 };
    let slope = sum_pairs(out, x, |g, x| g * (x - mean)) * rstd / n;
    for (o, &x) in out.iter_mut().zip(x) {
        *o = rstd * (*o - shift - (x - mean) * rstd * slope);
    }
    (mean, rstd)
}
