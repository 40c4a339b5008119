//! What a linear map does to its product: a chain of elementwise steps on one strip of columns at a time, while it is in the
//! first-level cache.
//!
//! A step goes over some rows of the strip at once. The last one writes the result.

use std::cell::RefCell;

use ccl_ir::chain::Chain;
use ccl_ir::ops::{BinaryKind, UnaryKind};

use super::elementwise::{Program, Source, Step};
use super::layout::Layout;
use super::math::{self, vectorised};
use super::micro::{Lines, Target};
use super::parallel::Shared;
use super::product::{Block, STRIP};
use super::view::View;

/// Most rows of a step: a few results of [`STRIP`] columns fit in the first-level cache.
const ROWS: usize = 32;

/// Numbers of a result.
const SIZE: usize = ROWS * STRIP;

thread_local! {
    /// Results of steps, and operands that do not lie in packed rows.
    static SCRATCH: RefCell<Lines> = RefCell::default();
}

/// A chain with the operands of one call.
pub(super) struct Epilogue {
    program: Program,
    inputs: Vec<Input>,
}

/// An operand as broadcasting repeats it to the result.
struct Input {
    data: Shared<f32>,
    /// Where rows start.
    rows: Layout,
    /// Distance of columns.
    column: usize,
}

/// Packed rows of a strip, a distance apart that is 0 where they are all the same.
#[derive(Clone, Copy)]
struct Rows {
    ptr: *mut f32,
    stride: usize,
}

impl Epilogue {
    /// A chain on a product with the result's shape, and on further operands that broadcast to it.
    pub fn new(chain: &Chain, result: &View<'_>, rest: &[View<'_>]) -> Self {
        let shape = result.shape();
        let input = |view: &View<'_>| Input {
            data: Shared(view.ptr.cast()),
            rows: Layout::broadcast_rows(view, shape),
            column: if view.ty.last() == 1 { 0 } else { view.stride(view.shape().len() - 1) },
        };
        Self { program: Program::new(&chain.steps), inputs: rest.iter().map(input).collect() }
    }

    /// Applies the chain to a strip of at most [`STRIP`] columns of the product and writes it to its place in the result.
    ///
    /// # Safety
    /// All operands are valid, nobody writes them, and nobody else touches the strip of the result, which is apart from them.
    pub unsafe fn run(&self, strip: Block, product: Target, out: Target) {
        let spaces = self.program.slots + self.inputs.len() + self.program.constants();
        SCRATCH.with_borrow_mut(|scratch| {
            let scratch = scratch.get(spaces * SIZE).as_mut_ptr();
            for row in (0..strip.rows).step_by(ROWS) {
                let part = Block { row: strip.row + row, rows: ROWS.min(strip.rows - row), ..strip };
                let at = |of: Target| Rows { ptr: of.ptr.wrapping_add(row * of.row), stride: of.row };
                // SAFETY: the caller's promise.
                unsafe { self.part(part, at(product), at(out), scratch) };
            }
        });
    }

    /// Applies the chain to at most [`ROWS`] rows and [`STRIP`] columns.
    ///
    /// # Safety
    /// As for [`Epilogue::run`]; `scratch` has room for all slots, inputs and constants.
    unsafe fn part(&self, block: Block, product: Rows, out: Rows, scratch: *mut f32) {
        let space = |i: usize| Rows { ptr: scratch.wrapping_add(i * SIZE), stride: STRIP };
        let mut spaces = self.program.slots..;
        // SAFETY: the caller's promise; every input has a space of its own.
        let inputs: Vec<Rows> =
            self.inputs.iter().zip(&mut spaces).map(|(input, at)| unsafe { input.rows(block, space(at)) }).collect();
        let last = self.program.steps.len() - 1;
        for (i, &(step, to)) in self.program.steps.iter().enumerate() {
            let to = if i == last { out } else { space(to) };
            let mut rows = |source| match source {
                Source::Input(0) => product,
                Source::Input(i) => inputs[i - 1],
                Source::Slot(i) => space(i),
                Source::Const(c) => {
                    let row = space(spaces.next().unwrap_or_default()).ptr;
                    // SAFETY: a space has more numbers than a strip has columns.
                    unsafe { std::slice::from_raw_parts_mut(row, block.columns) }.fill(c);
                    Rows { ptr: row, stride: 0 }
                }
            };
            // SAFETY: the caller's promise; a step writes none of its operands.
            unsafe {
                match step {
                    Step::Unary(kind, a) => unary(kind, rows(a), to, block),
                    Step::Binary(kind, a, b) => binary(kind, [rows(a), rows(b)], to, block),
                }
            }
        }
    }
}

impl Input {
    /// A block's rows of this operand: in place where they are packed and equally far apart, otherwise brought to `space`.
    ///
    /// # Safety
    /// The operand is valid and nobody writes it; `space` has room for a step's result.
    unsafe fn rows(&self, block: Block, space: Rows) -> Rows {
        let mut cursor = self.rows.cursor(block.row);
        let run = cursor.next(block.rows);
        if run.len == block.rows && self.column == 1 {
            return Rows { ptr: self.data.0.wrapping_add(run.offset + block.column), stride: run.stride };
        }
        for i in 0..block.rows {
            let from = self.rows.offset(block.row + i) + block.column * self.column;
            for j in 0..block.columns {
                // SAFETY: the caller's promise.
                unsafe { *space.ptr.add(i * space.stride + j) = *self.data.at(from + j * self.column) };
            }
        }
        space
    }
}

/// `out = kind(a)` on all rows of a block.
///
/// # Safety
/// All rows are valid, and `out` is apart from the operands.
unsafe fn unary(kind: UnaryKind, a: Rows, out: Rows, block: Block) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            UnaryKind::Neg => each([a, a], out, block, |x, _| -x),
            UnaryKind::Silu => each([a, a], out, block, |x, _| math::silu(x)),
            UnaryKind::GeluTanh => each([a, a], out, block, |x, _| math::gelu_tanh(x)),
            UnaryKind::GeluErf => each([a, a], out, block, |x, _| math::gelu_erf(x)),
            UnaryKind::Exp => each([a, a], out, block, |x, _| math::exp(x)),
            UnaryKind::SiluGrad => each([a, a], out, block, |x, _| math::silu_grad(x)),
            UnaryKind::GeluTanhGrad => each([a, a], out, block, |x, _| math::gelu_tanh_grad(x)),
            UnaryKind::GeluErfGrad => each([a, a], out, block, |x, _| math::gelu_erf_grad(x)),
        }
    }
}

/// `out = kind(a, b)` on all rows of a block.
///
/// # Safety
/// As for [`unary`].
unsafe fn binary(kind: BinaryKind, operands: [Rows; 2], out: Rows, block: Block) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            BinaryKind::Add => each(operands, out, block, |x, y| x + y),
            BinaryKind::Sub => each(operands, out, block, |x, y| x - y),
            BinaryKind::Mul => each(operands, out, block, |x, y| x * y),
        }
    }
}

/// `out = f(a, b)`, row by row.
///
/// # Safety
/// All rows are valid, and `out` is apart from the operands.
#[inline(always)]
unsafe fn each([a, b]: [Rows; 2], out: Rows, block: Block, f: impl Fn(f32, f32) -> f32) {
    vectorised(
        #[inline(always)]
        || {
            for row in 0..block.rows {
                // SAFETY: the caller's promise.
                let [a, b] = [a, b].map(|of| unsafe {
                    std::slice::from_raw_parts(of.ptr.wrapping_add(row * of.stride), block.columns)
                });
                // SAFETY: as above.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(out.ptr.wrapping_add(row * out.stride), block.columns) };
                for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *out = f(a, b);
                }
            }
        },
    );
}
