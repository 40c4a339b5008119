//! Matrix product with a weight, its bias and its epilogue.
//!
//! The result is cut into blocks of rows and columns; a task multiplies one block on one thread, from panels of the weight
//! ([`super::weight`]), adds the bias as it stores and applies the epilogue while the block is in cache. A few rows are multiplied
//! by dot products along the weight's rows ([`super::skinny`]) where it is not in panels. A number of the result does not depend on
//! the cut, so the cut may depend on the number of threads.

use ccl_ir::ops::Linear;

use super::elementwise::{Lane, Machine, Program};
use super::layout::Layout;
use super::micro::{Left, Onto, Panels, Target, product};
use super::parallel::{Shared, tasks};
use super::product::{Block, Blocks, STRIP, parts};
use super::skinny::{SKINNY, dots};
use super::view::View;
use super::weight::Weight;

/// The operands of one call.
struct Call {
    x: Shared<f32>,
    /// Where the rows of `x` start.
    rows: Layout,
    weight: Weight,
    bias: Option<Shared<f32>>,
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
    let call = Call {
        x: Shared(x.ptr.cast()),
        rows: Layout::rows(&x),
        weight,
        bias: op.bias.then(|| Shared(inputs[2].ptr.cast())),
        out: Shared(out.ptr.cast()),
        n,
    };
    let program = op.epilogue.as_ref().map(|chain| Program::new(&chain.steps));
    let operands = std::iter::once(&out).chain(&inputs[op.fixed_inputs()..]);
    let lanes: Vec<Lane> = operands.map(|v| Lane::new(v, out.shape())).collect();
    let few = m <= SKINNY && !weight.panels;
    let blocks = Blocks::for_threads(m, n, rayon::current_num_threads(), weight.panels);
    tasks(blocks.count(), m.saturating_mul(n).saturating_mul(k) / 16, |i| {
        let block = blocks.get(i);
        // SAFETY: the dispatcher's promise; blocks do not overlap.
        unsafe { if few { call.dots(block) } else { call.multiply(block) } };
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
    /// Writes one block of `x Wᵀ + b` of a few rows.
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
            // SAFETY: the bias has a number for each column.
            let bias = self.bias.map_or(0.0, |bias| unsafe { *bias.at(column) });
            for (i, sum) in sums[..rows.len()].iter().enumerate() {
                // SAFETY: this block of the output belongs to the task.
                unsafe { *self.out.at((block.row + i) * self.n + column) = sum + bias };
            }
        }
    }

    /// Writes one block of `x Wᵀ + b` of many rows, a strip of columns after the other.
    ///
    /// # Safety
    /// As for [`linear`]; nobody else touches the block.
    unsafe fn multiply(&self, block: Block) {
        let end = block.column + block.columns;
        for column in (block.column..end).step_by(STRIP) {
            let columns = STRIP.min(end - column);
            let strip = Block { column, columns, ..block };
            for (start, len) in parts(self.weight.k) {
                // SAFETY: the caller's promise.
                unsafe {
                    self.weight.part(column, columns, start, len, |part| self.multiply_part(strip, start, len, part))
                };
            }
        }
    }

    /// Multiplies columns `start .. start + len` of the block's rows of `x` with that part of the weight, and adds the
    /// product to the block, or to the bias where `start` is 0.
    ///
    /// # Safety
    /// As for [`Call::multiply`]; `weight` is valid.
    unsafe fn multiply_part(&self, block: Block, start: usize, len: usize, weight: Panels) {
        let onto = match self.bias {
            _ if start > 0 => Onto::Result,
            Some(bias) => Onto::Columns(bias.0.wrapping_add(block.column)),
            None => Onto::Nothing,
        };
        let mut cursor = self.rows.cursor(block.row);
        let mut done = 0;
        while done < block.rows {
            let run = cursor.next(block.rows - done);
            // SAFETY: rows of `x` are packed and valid; this block of the output belongs to the task.
            unsafe {
                let x = Left { ptr: self.x.at(run.offset + start), row: run.stride, column: 1 };
                let out = Target { ptr: self.out.at((block.row + done) * self.n + block.column), row: self.n };
                product([run.len, block.columns, len], x, weight, out, 1.0, onto);
            }
            done += run.len;
        }
    }
}
