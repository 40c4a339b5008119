//! Matrix product with a weight, its bias and its epilogue.
//!
//! The result is cut into blocks of rows and columns; a task multiplies one block on one thread, from panels of the weight
//! ([`super::weight`]), adds the bias as it stores and applies the epilogue while a strip of the block is in cache. A few rows are multiplied
//! by dot products along the weight's rows ([`super::skinny`]) where it is not in panels. A number of the result does not depend on
//! the cut, so the cut may depend on the number of threads.

use std::cell::RefCell;

use ccl_ir::ops::Linear;

use super::epilogue::Epilogue;
use super::layout::Layout;
use super::micro::{Left, Lines, Onto, Panels, Target, product};
use super::parallel::{Shared, tasks};
use super::product::{Block, Blocks, STRIP, parts};
use super::skinny::{SKINNY, dots};
use super::view::View;
use super::weight::Weight;

thread_local! {
    /// A strip of the product that the epilogue reads: packed, so that it stays in the first-level cache while parts of the sum are
    /// added to it.
    static PRODUCT: RefCell<Lines> = RefCell::default();
}

/// The operands of one call.
struct Call {
    x: Shared<f32>,
    /// Where the rows of `x` start.
    rows: Layout,
    weight: Weight,
    bias: Option<Shared<f32>>,
    out: Shared<f32>,
    n: usize,
    epilogue: Option<Epilogue>,
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
        epilogue: op.epilogue.as_ref().map(|chain| Epilogue::new(chain, &out, &inputs[op.fixed_inputs()..])),
    };
    let few = m <= SKINNY && !weight.panels;
    let blocks = Blocks::for_threads(m, n, rayon::current_num_threads(), weight.panels);
    tasks(blocks.count(), m.saturating_mul(n).saturating_mul(k) / 16, |i| {
        let block = blocks.get(i);
        let end = block.column + block.columns;
        for column in (block.column..end).step_by(STRIP) {
            let strip = Block { column, columns: STRIP.min(end - column), ..block };
            // SAFETY: the dispatcher's promise; blocks do not overlap.
            unsafe { call.strip(strip, few) };
        }
    });
}

impl Call {
    /// Writes one strip of columns of a block.
    ///
    /// # Safety
    /// As for [`linear`]; nobody else touches the strip.
    unsafe fn strip(&self, strip: Block, few: bool) {
        let out = Target { ptr: self.out.0.wrapping_add(strip.row * self.n + strip.column), row: self.n };
        // SAFETY: the caller's promise; the memory of a strip has room for its rows.
        let multiply = |to: Target| unsafe { if few { self.dots(strip, to) } else { self.multiply(strip, to) } };
        match &self.epilogue {
            None => multiply(out),
            Some(epilogue) => PRODUCT.with_borrow_mut(|product| {
                let product = Target { ptr: product.get(strip.rows * STRIP).as_mut_ptr(), row: STRIP };
                multiply(product);
                // SAFETY: as above.
                unsafe { epilogue.run(strip, product, out) };
            }),
        }
    }

    /// Writes a strip of a few rows.
    ///
    /// # Safety
    /// As for [`Call::strip`]; `to` has room for it.
    unsafe fn dots(&self, strip: Block, to: Target) {
        let starts: Vec<usize> = (strip.row..strip.row + strip.rows).map(|r| self.rows.offset(r)).collect();
        // SAFETY: rows of `x` are packed; the caller's promise.
        let rows: Vec<&[f32]> = starts.into_iter().map(|at| unsafe { self.x.slice(at, self.weight.k) }).collect();
        let mut sums = [0.0; SKINNY];
        for column in 0..strip.columns {
            // SAFETY: the caller's promise.
            unsafe { dots(&self.weight, strip.column + column, &rows, &mut sums) };
            // SAFETY: the bias has a number for each column.
            let bias = self.bias.map_or(0.0, |bias| unsafe { *bias.at(strip.column + column) });
            for (i, sum) in sums[..rows.len()].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *to.ptr.add(i * to.row + column) = sum + bias };
            }
        }
    }

    /// Writes a strip of many rows.
    ///
    /// # Safety
    /// As for [`Call::strip`]; `to` has room for it.
    unsafe fn multiply(&self, strip: Block, to: Target) {
        for (start, len) in parts(self.weight.k) {
            let multiply = |part: Panels| {
                // SAFETY: the caller's promise; the part is that of this strip.
                unsafe { self.multiply_part(strip, start, len, part, to) }
            };
            // SAFETY: the caller's promise.
            unsafe { self.weight.part(strip.column, strip.columns, start, len, multiply) };
        }
    }

    /// Multiplies columns `start .. start + len` of the strip's rows of `x` with that part of the weight, and adds the
    /// product to `to`, or to the bias where `start` is 0.
    ///
    /// # Safety
    /// As for [`Call::multiply`]; `weight` is valid.
    unsafe fn multiply_part(&self, strip: Block, start: usize, len: usize, weight: Panels, to: Target) {
        let onto = match self.bias {
            _ if start > 0 => Onto::Result,
            Some(bias) => Onto::Columns(bias.0.wrapping_add(strip.column)),
            None => Onto::Nothing,
        };
        let mut cursor = self.rows.cursor(strip.row);
        let mut done = 0;
        while done < strip.rows {
            let run = cursor.next(strip.rows - done);
            // SAFETY: rows of `x` are packed and valid; the caller's promise.
            unsafe {
                let x = Left { ptr: self.x.at(run.offset + start), row: run.stride, column: 1 };
                let to = Target { ptr: to.ptr.add(done * to.row), row: to.row };
                product([run.len, strip.columns, len], x, weight, to, 1.0, onto);
            }
            done += run.len;
        }
    }
}
