//! Matrix product with a weight, its bias and its epilogue.
//!
//! The result is cut into blocks of rows and columns; a task multiplies one block on one thread and applies bias and
//! epilogue while it is in cache. A few rows are multiplied by dot products along the weight's rows ([`super::skinny`]);
//! for more rows a part of the weight at a time is transposed, and widened where it is stored in half precision.

use std::cell::RefCell;

use ccl_ir::ops::Linear;

use super::elementwise::{Lane, Machine, Program};
use super::layout::Layout;
use super::parallel::{Shared, tasks};
use super::product::{Block, Blocks, COLUMNS, Matrix, multiply};
use super::skinny::{SKINNY, dots};
use super::view::View;
use super::weight::{DEPTH, Weight};

thread_local! {
    /// A part of a weight, transposed: half a MiB. No task waits for another one while it holds it.
    static PART: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The operands of one call.
struct Call {
    x: Shared<f32>,
    /// Where the rows of `x` start.
    rows: Layout,
    weight: Weight,
    out: Shared<f32>,
    n: usize,
}

/// See [`Linear`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn linear(op: &Linear, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (x, weight, out) = (inputs[0], inputs[1], outputs[0]);
    if out.elements() == 0 {
        return;
    }
    let weight = Weight::new(&weight);
    let (n, k) = (weight.n, weight.k);
    let m = out.elements() / n;
    let call = Call { x: Shared(x.ptr.cast()), rows: Layout::rows(&x), weight, out: Shared(out.ptr.cast()), n };
    let program = Program::of_epilogue(op.bias, op.epilogue.as_ref());
    let operands = std::iter::once(&out).chain(&inputs[2..]);
    let lanes: Vec<Lane> = operands.map(|v| Lane::new(v, out.shape())).collect();
    let blocks = Blocks::new(m, n);
    tasks(blocks.count(), m.saturating_mul(n).saturating_mul(k.max(1)) / 16, |i| {
        let block = blocks.get(i);
        // SAFETY: the dispatcher's promise; blocks do not overlap.
        unsafe { if m <= SKINNY { call.dots(block) } else { call.multiply(block) } };
        if let Some(program) = &program {
            let mut machine = Machine::new(program, &lanes);
            for row in block.row..block.row + block.rows {
                let start = row * n + block.column;
                // SAFETY: as above; lane 0 is this part of the output itself.
                unsafe { machine.run(start, block.columns, call.out.at(start)) };
            }
        }
    });
}

impl Call {
    /// Writes one block of `x Wᵀ` of a few rows.
    ///
    /// # Safety
    /// As for [`linear`]; nobody else touches the block.
    unsafe fn dots(&self, block: Block) {
        let starts: Vec<usize> = (block.row..block.row + block.rows).map(|r| self.rows.offset(r)).collect();
        // SAFETY: rows of `x` are packed; the caller's promise.
        let rows: Vec<&[f32]> = starts.into_iter().map(|at| unsafe { self.x.slice(at, self.weight.k) }).collect();
        let mut sums = [0.0; SKINNY];
        for column in block.column..block.column + block.columns {
            // SAFETY: the caller's promise.
            unsafe { dots(&self.weight, column, &rows, &mut sums) };
            for (i, sum) in sums[..rows.len()].iter().enumerate() {
                // SAFETY: this block of the output belongs to the task.
                unsafe { *self.out.at((block.row + i) * self.n + column) = *sum };
            }
        }
    }

    /// Writes one block of `x Wᵀ` of many rows.
    ///
    /// # Safety
    /// As for [`linear`]; nobody else touches the block.
    unsafe fn multiply(&self, block: Block) {
        PART.with_borrow_mut(|part| {
            part.resize(COLUMNS * DEPTH, 0.0);
            let mut start = 0;
            // An empty sum is written too, as zeros.
            while start < self.weight.k || start == 0 {
                let len = DEPTH.min(self.weight.k - start);
                // SAFETY: the caller's promise.
                unsafe {
                    self.weight.transpose(block.column, block.columns, start, len, part);
                    let part = Matrix { ptr: part.as_mut_ptr(), row: block.columns, column: 1 };
                    self.multiply_part(block, start, len, part);
                }
                start += len.max(1);
            }
        });
    }

    /// Multiplies columns `start .. start + len` of the block's rows of `x` with `weight [len, columns]`, and adds the
    /// product to the block where `start` is not 0.
    ///
    /// # Safety
    /// As for [`Call::multiply`]; `weight` is valid.
    unsafe fn multiply_part(&self, block: Block, start: usize, len: usize, weight: Matrix) {
        let mut cursor = self.rows.cursor(block.row);
        let mut done = 0;
        while done < block.rows {
            let run = cursor.next(block.rows - done);
            // SAFETY: rows of `x` are packed and valid; this block of the output belongs to the task.
            unsafe {
                let x = Matrix { ptr: self.x.at(run.offset + start), row: run.stride, column: 1 };
                let at = (block.row + done) * self.n + block.column;
                let out = Matrix { ptr: self.out.at(at), row: self.n, column: 1 };
                multiply([run.len, block.columns, len], out, x, weight, start > 0);
            }
            done += run.len;
        }
    }
}
