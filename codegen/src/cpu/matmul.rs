//! Batched matrix product of two tensors.

use std::cell::RefCell;
use std::ops::Range;

use ccl_ir::DType;
use ccl_ir::ops::MatMul;
use half::{bf16, f16};

use super::layout::{Layout, dims};
use super::micro::{Left, Target};
use super::parallel::{Shared, add_parts, tasks, with_sums};
use super::product::{Block, Blocks, DEPTH, Matrix, multiply};
use super::view::View;

/// Tasks that keep some cores busy: a result with fewer blocks is summed in parts.
const ENOUGH: usize = 16;

/// Least terms of a part of a sum.
const PART: usize = 256;

thread_local! {
    /// Parts of both factors as `f32`, where they are stored in half precision.
    static WIDE: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A factor in memory: where its elements are, rows and columns apart, and of which type.
struct Factor {
    data: Shared<u8>,
    dtype: DType,
    batch: Layout,
    row: usize,
    column: usize,
}

impl Factor {
    fn new(view: &View<'_>, row: usize, column: usize) -> Self {
        Self {
            data: Shared(view.ptr),
            dtype: view.dtype(),
            batch: Layout::new(dims(view).take(view.shape().len() - 2)),
            row: view.stride(row),
            column: view.stride(column),
        }
    }

    /// The part of `rows` by `columns` elements from element `at` on, widened into `wide` where it must be.
    ///
    /// # Safety
    /// The elements are valid and nobody writes them.
    unsafe fn part(&self, at: usize, [rows, columns]: [usize; 2], wide: &mut Vec<f32>) -> Matrix {
        if self.dtype == DType::F32 {
            // SAFETY: the caller's promise.
            let ptr = unsafe { Shared(self.data.0.cast::<f32>()).at(at) }.cast_const();
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
        Matrix { ptr: wide.as_ptr(), row: columns, column: 1 }
    }
}

/// See [`MatMul`]. Operands may have any strides and be stored in half precision.
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
    let (left, right) = (Factor::new(&a, r - 2, r - 1), Factor::new(&b, down, across));
    let blocks = Blocks::new(m, n);
    let results = total / (m * n) * blocks.count();
    let parts = (ENOUGH / results).min(k / PART).max(1);
    let depth = k.div_ceil(parts);
    with_sums((parts - 1) * total, |rest| {
        let (to, rest_at) = (Shared(out.ptr.cast::<f32>()), Shared(rest.as_mut_ptr()));
        tasks(results * parts, total.saturating_mul(k.max(1)) / 16, |i| {
            let (part, i) = (i / results, i % results);
            let (batch, block) = (i / blocks.count(), blocks.get(i % blocks.count()));
            let terms = part * depth..k.min((part + 1) * depth);
            let at = (batch * m + block.row) * n + block.column;
            // SAFETY: the dispatcher's promise; blocks do not overlap, and each part has its own copy of the result.
            unsafe {
                let first = if part == 0 { to.at(at) } else { rest_at.at((part - 1) * total + at) };
                sum_block([&left, &right], batch, &block, terms, Target { ptr: first, row: n });
            }
        });
        // SAFETY: the output is dense, and the tasks have ended.
        unsafe { add_parts(to, total, rest) };
    });
}

/// Writes the sum of some terms of one block.
///
/// # Safety
/// As for [`matmul`]; nobody else touches `out`.
unsafe fn sum_block([left, right]: [&Factor; 2], batch: usize, block: &Block, terms: Range<usize>, out: Target) {
    let a_at = left.batch.offset(batch) + block.row * left.row;
    let b_at = right.batch.offset(batch) + block.column * right.column;
    // Only what is widened goes in pieces.
    let whole = left.dtype == DType::F32 && right.dtype == DType::F32;
    let depth = if whole { terms.len().max(1) } else { DEPTH };
    WIDE.with_borrow_mut(|[wide_a, wide_b]| {
        for start in terms.clone().step_by(depth) {
            let len = depth.min(terms.end - start);
            // SAFETY: the caller's promise.
            unsafe {
                let a = left.part(a_at + start * left.column, [block.rows, len], wide_a);
                let a = Left { ptr: a.ptr, row: a.row, column: a.column };
                let b = right.part(b_at + start * right.row, [len, block.columns], wide_b);
                multiply([block.rows, block.columns, len], out, a, b, start > terms.start);
            }
        }
    });
}
