//! Matrix product with a weight, its bias and its epilogue.
//!
//! The result is cut into blocks of rows and columns; a task multiplies one block on one thread and applies bias and
//! epilogue while it is in cache. A weight in half precision is widened a part of a block at a time.

use std::cell::RefCell;

use ccl_ir::DType;
use ccl_ir::ops::Linear;

use super::cast::widen;
use super::elementwise::{Lane, Machine, Program};
use super::layout::Layout;
use super::parallel::{Shared, tasks};
use super::product::{Block, Blocks, Matrix, multiply};
use super::view::View;

/// Columns of a half precision weight that are widened at a time: 1 MiB of scratch per thread.
const DEPTH: usize = 1024;

thread_local! {
    /// A part of a weight as `f32`. No task waits for another one while it holds it.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The operands of one call.
struct Call<'a> {
    x: Shared<f32>,
    /// Where the rows of `x` start.
    rows: Layout,
    weight: View<'a>,
    out: Shared<f32>,
    n: usize,
    k: usize,
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
    let (n, k) = (weight.shape()[0], weight.shape()[1]);
    let m = out.elements() / n;
    let call = Call { x: Shared(x.ptr.cast()), rows: Layout::rows(&x), weight, out: Shared(out.ptr.cast()), n, k };
    let program = Program::of_epilogue(op.bias, op.epilogue.as_ref());
    let operands = std::iter::once(&out).chain(&inputs[2..]);
    let lanes: Vec<Lane> = operands.map(|v| Lane::new(v, out.shape())).collect();
    let blocks = Blocks::new(m, n);
    tasks(blocks.count(), m.saturating_mul(n).saturating_mul(k.max(1)) / 16, |i| {
        let block = blocks.get(i);
        // SAFETY: the dispatcher's promise; blocks do not overlap.
        unsafe { call.multiply(block) };
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

impl Call<'_> {
    /// Writes one block of `x Wᵀ`.
    ///
    /// # Safety
    /// As for [`linear`]; nobody else touches the block.
    unsafe fn multiply(&self, block: Block) {
        let first = block.column * self.k;
        if self.weight.dtype() == DType::F32 {
            // SAFETY: weights are dense; the caller's promise.
            unsafe {
                let weight = Shared(self.weight.ptr.cast::<f32>()).at(first);
                self.multiply_part(block, 0, self.k, Matrix { ptr: weight, row: 1, column: self.k });
            }
            return;
        }
        WIDE.with_borrow_mut(|wide| {
            // An empty product still has to write zeros.
            let mut start = 0;
            while start < self.k || start == 0 {
                let len = DEPTH.min(self.k - start);
                wide.resize((block.columns * len).max(wide.len()), 0.0);
                for c in 0..block.columns {
                    let to = &mut wide[c * len..(c + 1) * len];
                    // SAFETY: weights are dense, two bytes an element; the caller's promise.
                    unsafe {
                        let from = Shared(self.weight.ptr.cast::<u16>()).slice(first + c * self.k + start, len);
                        widen(self.weight.dtype(), from, to);
                    }
                }
                let weight = Matrix { ptr: wide.as_mut_ptr(), row: 1, column: len };
                // SAFETY: the caller's promise.
                unsafe { self.multiply_part(block, start, len, weight) };
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
