//! Batched matrix product of two activations.

use ccl_ir::ops::MatMul;

use super::layout::{Layout, dims};
use super::parallel::{Shared, tasks};
use super::product::{Blocks, Matrix, multiply};
use super::view::View;

/// See [`MatMul`]. Operands may have any strides.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn matmul(op: &MatMul, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (a, b, out) = (inputs[0], inputs[1], outputs[0]);
    if out.elements() == 0 {
        return;
    }
    let r = out.shape().len();
    let (m, n, k) = (out.shape()[r - 2], out.shape()[r - 1], a.shape()[r - 1]);
    let (down, across) = if op.transpose_b { (r - 1, r - 2) } else { (r - 2, r - 1) };
    let batch = |view: &View<'_>| Layout::new(dims(view).take(r - 2));
    let (a_batch, b_batch) = (batch(&a), batch(&b));
    let (a_data, b_data, to) =
        (Shared(a.ptr.cast::<f32>()), Shared(b.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    let blocks = Blocks::new(m, n);
    let batches = out.elements() / (m * n);
    tasks(batches * blocks.count(), out.elements().saturating_mul(k.max(1)) / 16, |i| {
        let (batch, block) = (i / blocks.count(), blocks.get(i % blocks.count()));
        let a_at = a_batch.offset(batch) + block.row * a.stride(r - 2);
        let b_at = b_batch.offset(batch) + block.column * b.stride(across);
        let out_at = (batch * m + block.row) * n + block.column;
        // SAFETY: the dispatcher's promise; blocks do not overlap.
        unsafe {
            multiply(
                [block.rows, block.columns, k],
                Matrix { ptr: to.at(out_at), row: n, column: 1 },
                Matrix { ptr: a_data.at(a_at), row: a.stride(r - 2), column: a.stride(r - 1) },
                Matrix { ptr: b_data.at(b_at), row: b.stride(down), column: b.stride(across) },
                false,
            );
        }
    });
}
