//! Operators that make numbers from attributes: constants, time features, rotary tables, window masks.

use ccl_ir::DType;
use ccl_ir::ops::{Constant, RopeTable, TimeFeatures, WindowMask};
use half::{bf16, f16};

use super::parallel::{Shared, chunks, rows};
use super::view::View;

/// See [`Constant`]; any element type.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn constant(op: &Constant, outputs: &[View<'_>]) {
    let out = outputs[0];
    // SAFETY: the caller's promise; the elements are filled by the view's own type.
    unsafe {
        match out.dtype() {
            DType::F32 => fill(&out, op.value as f32),
            DType::F16 => fill(&out, f16::from_f64(op.value)),
            DType::Bf16 => fill(&out, bf16::from_f64(op.value)),
            DType::I32 => fill(&out, op.value as i32),
        }
    }
}

/// Writes `value` everywhere.
unsafe fn fill<T: Copy + Send + Sync>(out: &View<'_>, value: T) {
    let to = Shared(out.ptr.cast::<T>());
    // SAFETY: the output is dense and of this type; chunks do not overlap.
    chunks(out.elements(), |start, len| unsafe { to.slice_mut(start, len) }.fill(value));
}

/// See [`TimeFeatures`]; angles are taken in f64.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn time_features(op: &TimeFeatures, inputs: &[View<'_>], outputs: &[View<'_>]) {
    // SAFETY: both are dense; the caller's promise.
    let (times, out) = unsafe { (inputs[0].f32s(), outputs[0].f32s_mut()) };
    for (t, row) in times.iter().zip(out.chunks_exact_mut(op.dim)) {
        for (o, x) in row.iter_mut().zip(op.features(f64::from(*t))) {
            *o = x as f32;
        }
    }
}

/// See [`RopeTable`]; angles are taken in f64.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn rope_table(op: &RopeTable, outputs: &[View<'_>]) {
    let to = Shared(outputs[0].ptr.cast::<f32>());
    rows(op.positions.tokens(), op.head_dim, |first, count| {
        for token in first..first + count {
            // SAFETY: the output is dense; every task has its own tokens.
            let row = unsafe { to.slice_mut(token * op.head_dim, op.head_dim) };
            for (pair, turn) in row.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let (sin, cos) = op.angle(token, pair).sin_cos();
                *turn = [cos as f32, sin as f32];
            }
        }
    });
}

/// See [`WindowMask`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn window_mask(op: &WindowMask, outputs: &[View<'_>]) {
    // SAFETY: the output is dense; the caller's promise.
    let out = unsafe { outputs[0].f32s_mut() };
    let (_, keys) = op.partition.row_shape();
    for ((_, there), row) in op.partition.rows().iter().zip(out.chunks_exact_mut(keys + op.context)) {
        row.fill(0.0);
        for (o, &there) in row.iter_mut().zip(there) {
            *o = if there { 0.0 } else { f32::NEG_INFINITY };
        }
    }
}
