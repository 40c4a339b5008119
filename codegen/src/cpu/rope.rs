//! Rotary position embedding.

use ccl_ir::ops::{RmsNormRope, Rope};

use super::layout::Layout;
use super::math::vectorised;
use super::norms::rms;
use super::parallel::{Shared, rows};
use super::view::View;

/// See [`Rope`]. Heads of `x` are packed, its other strides any.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn rope(op: &Rope, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (x, out) = (inputs[0], outputs[0]);
    let (length, heads, d) = (x.shape()[1], x.shape()[2], x.shape()[3]);
    if out.elements() == 0 {
        return;
    }
    let sign = if op.inverse { -1.0 } else { 1.0 };
    let starts = Layout::rows(&x);
    let (from, to) = (Shared(x.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    // SAFETY: the table is dense; the caller's promise.
    let table = unsafe { inputs[1].f32s() };
    rows(out.elements() / (heads * d), heads * d, |first, count| {
        for token in first..first + count {
            let turns = &table[token % length * d..][..d];
            for row in token * heads..(token + 1) * heads {
                // SAFETY: the dispatcher's promise; every task has its own tokens of the output.
                let (x, out) = unsafe { (from.slice(starts.offset(row), d), to.slice_mut(row * d, d)) };
                turn(x, turns, sign, out);
            }
        }
    });
}

/// See [`RmsNormRope`]. Rows of `x` are packed, its other strides any.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn rms_norm_rope(op: &RmsNormRope, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (x, out) = (inputs[0], outputs[0]);
    let (length, width) = (x.shape()[1], x.shape()[2]);
    let (d, eps) = (width / op.heads, op.eps as f32);
    let starts = Layout::rows(&x);
    let (from, to) = (Shared(x.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    // SAFETY: weight and table are dense; the caller's promise.
    let (weight, table) = unsafe { (inputs[1].f32s(), inputs[2].f32s()) };
    rows(out.elements() / width, width, |first, count| {
        for token in first..first + count {
            let turns = &table[token % length * d..][..d];
            // SAFETY: the dispatcher's promise; every task has its own tokens of the output.
            let (x, out) = unsafe { (from.slice(starts.offset(token), width), to.slice_mut(token * width, width)) };
            let scale = vectorised(
                #[inline(always)]
                || rms(x, eps),
            );
            for head in 0..op.heads {
                let part = head * d..(head + 1) * d;
                turn_scaled(&x[part.clone()], &weight[part.clone()], scale, turns, &mut out[part]);
            }
        }
    });
}

/// [`turn`] of `x * scale * weight`.
fn turn_scaled(x: &[f32], weight: &[f32], scale: f32, turns: &[f32], out: &mut [f32]) {
    let (x, weight) = (x.as_chunks::<2>().0, weight.as_chunks::<2>().0);
    let (turns, out) = (turns.as_chunks::<2>().0, out.as_chunks_mut::<2>().0);
    vectorised(
        #[inline(always)]
        || {
            for (((out, x), w), &[cos, sin]) in out.iter_mut().zip(x).zip(weight).zip(turns) {
                let (even, odd) = (x[0] * scale * w[0], x[1] * scale * w[1]);
                *out = [even * cos - odd * sin, even * sin + odd * cos];
            }
        },
    );
}

/// Turns the pairs of one head by their (cos, sign * sin).
fn turn(x: &[f32], turns: &[f32], sign: f32, out: &mut [f32]) {
    let (x, turns, out) = (x.as_chunks::<2>().0, turns.as_chunks::<2>().0, out.as_chunks_mut::<2>().0);
    vectorised(
        #[inline(always)]
        || {
            for ((out, &[even, odd]), &[cos, sin]) in out.iter_mut().zip(x).zip(turns) {
                let sin = sign * sin;
                *out = [even * cos - odd * sin, even * sin + odd * cos];
            }
        },
    );
}
