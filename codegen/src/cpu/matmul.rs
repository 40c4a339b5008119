//! Batched matrix product of two activations.

use ccl_ir::ops::MatMul;

use super::layout::{Layout, dims};
use super::parallel::{Shared, add_parts, tasks};
use super::product::{Block, Blocks, Matrix, multiply};
use super::view::View;

/// Tasks that keep some cores busy: a result with fewer blocks is summed in parts.
const ENOUGH: usize = 16;

/// Least terms of a part of a sum.
const DEPTH: usize = 256;

/// The operands of one call.
struct Call<'a> {
    a: &'a View<'a>,
    b: &'a View<'a>,
    a_batch: Layout,
    b_batch: Layout,
    /// Strides of `b` along the summed dimension and along the columns.
    b_strides: [usize; 2],
}

/// See [`MatMul`]. Operands may have any strides.
///
/// Gradients of weights have few rows and columns and sum over all tokens: a result of few blocks is summed in parts, by
/// the sizes alone, which are added in order.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn matmul(op: &MatMul, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (a, b, out) = (inputs[0], inputs[1], outputs[0]);
    let total = out.elements();
    if total == 0 {
        return;
    }
    let r = out.shape().len();
    let (m, n, k) = (out.shape()[r - 2], out.shape()[r - 1], a.shape()[r - 1]);
    let (down, across) = if op.transpose_b { (r - 1, r - 2) } else { (r - 2, r - 1) };
    let batch = |view: &View<'_>| Layout::new(dims(view).take(r - 2));
    let (a_batch, b_batch) = (batch(&a), batch(&b));
    let b_strides = [b.stride(down), b.stride(across)];
    let call = Call { a: &a, b: &b, a_batch, b_batch, b_strides };
    let blocks = Blocks::new(m, n);
    let results = total / (m * n) * blocks.count();
    let parts = (ENOUGH / results).min(k / DEPTH).max(1);
    let depth = k.div_ceil(parts);
    let mut rest = vec![0.0f32; (parts - 1) * total];
    let (to, rest_at) = (Shared(out.ptr.cast::<f32>()), Shared(rest.as_mut_ptr()));
    tasks(results * parts, total.saturating_mul(k.max(1)) / 16, |i| {
        let (part, i) = (i / results, i % results);
        let (batch, block) = (i / blocks.count(), blocks.get(i % blocks.count()));
        let terms = part * depth..k.min((part + 1) * depth);
        let at = (batch * m + block.row) * n + block.column;
        // SAFETY: the dispatcher's promise; blocks do not overlap, and each part has its own copy of the result.
        unsafe {
            let first = if part == 0 { to.at(at) } else { rest_at.at((part - 1) * total + at) };
            call.multiply(batch, block, terms, Matrix { ptr: first, row: n, column: 1 });
        }
    });
    // SAFETY: the output is dense, and the tasks have ended.
    unsafe { add_parts(to, total, &rest) };
}

impl Call<'_> {
    /// Writes the sum of some terms of one block.
    ///
    /// # Safety
    /// As for [`matmul`]; nobody else touches `out`.
    unsafe fn multiply(&self, batch: usize, block: Block, terms: std::ops::Range<usize>, out: Matrix) {
        let r = self.a.shape().len();
        let (a, [down, across]) = ([self.a.stride(r - 2), self.a.stride(r - 1)], self.b_strides);
        let a_at = self.a_batch.offset(batch) + block.row * a[0] + terms.start * a[1];
        let b_at = self.b_batch.offset(batch) + terms.start * down + block.column * across;
        let at = |view: &View<'_>, offset| view.ptr.cast::<f32>().wrapping_add(offset);
        // SAFETY: the caller's promise.
        unsafe {
            multiply(
                [block.rows, block.columns, terms.len()],
                out,
                Matrix { ptr: at(self.a, a_at), row: a[0], column: a[1] },
                Matrix { ptr: at(self.b, b_at), row: down, column: across },
                false,
            );
        }
    }
}
