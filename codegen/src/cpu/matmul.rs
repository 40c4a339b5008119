//! Batched matrix product of two tensors.

use std::cell::RefCell;

use ccl_ir::DType;
use ccl_ir::ops::MatMul;
use half::{bf16, f16};

use super::layout::{Layout, dims};
use super::parallel::{Shared, tasks};
use super::product::{Blocks, Matrix, multiply};
use super::view::View;
use super::weight::DEPTH;

thread_local! {
    /// Parts of both factors as `f32`, where they are stored in half precision.
    static WIDE: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A factor in memory: where its elements are, rows and columns apart, and of which type.
#[derive(Clone, Copy)]
struct Factor {
    data: Shared<u8>,
    dtype: DType,
    row: usize,
    column: usize,
}

impl Factor {
    /// The part of `rows` by `columns` elements from element `at` on, widened into `wide` where it must be.
    ///
    /// # Safety
    /// The elements are valid and nobody writes them.
    unsafe fn part(&self, at: usize, [rows, columns]: [usize; 2], wide: &mut Vec<f32>) -> Matrix {
        if self.dtype == DType::F32 {
            // SAFETY: the caller's promise.
            let ptr = unsafe { Shared(self.data.0.cast::<f32>()).at(at) };
            return Matrix { ptr, row: self.row, column: self.column };
        }
        wide.clear();
        let halves = Shared(self.data.0.cast::<u16>());
        for i in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            // SAFETY: as above, two bytes an element.
            let bits = unsafe { *halves.at(at + i.0 * self.row + i.1 * self.column) };
            wide.push(match self.dtype {
                DType::F16 => f16::from_bits(bits).to_f32(),
                _ => bf16::from_bits(bits).to_f32(),
            });
        }
        Matrix { ptr: wide.as_mut_ptr(), row: columns, column: 1 }
    }
}

/// See [`MatMul`]. Operands may have any strides and be stored in half precision.
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
    let factor = |view: &View<'_>, row: usize, column: usize| Factor {
        data: Shared(view.ptr),
        dtype: view.dtype(),
        row: view.stride(row),
        column: view.stride(column),
    };
    let (left, right) = (factor(&a, r - 2, r - 1), factor(&b, down, across));
    let to = Shared(out.ptr.cast::<f32>());
    // Only what is widened goes in parts.
    let whole = left.dtype == DType::F32 && right.dtype == DType::F32;
    let depth = if whole { k.max(1) } else { DEPTH };
    let blocks = Blocks::new(m, n);
    let batches = out.elements() / (m * n);
    tasks(batches * blocks.count(), out.elements().saturating_mul(k.max(1)) / 16, |i| {
        let (batch, block) = (i / blocks.count(), blocks.get(i % blocks.count()));
        let a_at = a_batch.offset(batch) + block.row * a.stride(r - 2);
        let b_at = b_batch.offset(batch) + block.column * b.stride(across);
        let out_at = (batch * m + block.row) * n + block.column;
        WIDE.with_borrow_mut(|[wide_a, wide_b]| {
            for start in (0..k).step_by(depth) {
                let len = depth.min(k - start);
                // SAFETY: the dispatcher's promise; blocks do not overlap.
                unsafe {
                    let a = left.part(a_at + start * left.column, [block.rows, len], wide_a);
                    let b = right.part(b_at + start * right.row, [len, block.columns], wide_b);
                    let result = Matrix { ptr: to.at(out_at), row: n, column: 1 };
                    multiply([block.rows, block.columns, len], result, a, b, start > 0);
                }
            }
        });
    });
}
