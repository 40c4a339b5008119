//! Operators that move elements unchanged, whatever their type: only its size matters.

use ccl_ir::Operator;
use ccl_ir::ops::{Concat, Expand, Index, Pad, Slice, Transpose, WindowGather};

use super::KernelError;
use super::layout::{Layout, dims};
use super::parallel::{Shared, chunks, tasks};
use super::view::View;

/// Elements to copy, in row-major order of a layout.
#[derive(Clone, Debug)]
struct Source {
    data: Shared<u8>,
    layout: Layout,
    /// Size of an element in bytes: 2 or 4.
    size: usize,
}

impl Source {
    fn new(view: &View<'_>, layout: Layout) -> Self {
        Self { data: Shared(view.ptr), layout, size: view.dtype().bytes() as usize }
    }

    /// Copies `len` elements from row-major position `start` to `to`.
    ///
    /// # Safety
    /// They are valid, `to` is valid for as many, and nobody else touches it.
    unsafe fn copy(&self, start: usize, len: usize, to: *mut u8) {
        // SAFETY: the caller's promise; an element is moved as bits of its size, aligned as its type is.
        unsafe {
            match self.size {
                2 => self.copy_as::<u16>(start, len, to.cast()),
                _ => self.copy_as::<u32>(start, len, to.cast()),
            }
        }
    }

    unsafe fn copy_as<T: Copy>(&self, start: usize, len: usize, mut to: *mut T) {
        /// Runs below this are copied without calling `memcpy`.
        const SHORT: usize = 8;
        let mut cursor = self.layout.cursor(start);
        let mut left = len;
        while left > 0 {
            let run = cursor.next(left);
            // SAFETY: the caller's promise; the cursor stays inside the view.
            unsafe {
                let from = self.data.0.cast::<T>().add(run.offset);
                if run.stride == 1 && run.len >= SHORT {
                    std::ptr::copy_nonoverlapping(from, to, run.len);
                } else {
                    for i in 0..run.len {
                        *to.add(i) = *from.add(i * run.stride);
                    }
                }
                to = to.add(run.len);
            }
            left -= run.len;
        }
    }

    /// Copies everything to a dense output.
    ///
    /// # Safety
    /// As for [`super::run`].
    unsafe fn copy_all(&self, out: &View<'_>) {
        let to = Shared(out.ptr);
        // SAFETY: the caller's promise; chunks do not overlap.
        chunks(out.elements(), |start, len| unsafe { self.copy(start, len, to.at(start * self.size)) });
    }
}

/// Copies a permuted, sliced or repeated view, given by its first element and its (size, stride) pairs.
///
/// # Safety
/// As for [`super::run`]; the elements are inside the view.
pub(super) unsafe fn copy_strided(
    view: &View<'_>,
    first: usize,
    dims: impl IntoIterator<Item = (usize, usize)>,
    out: &View<'_>,
) {
    if out.elements() == 0 {
        return;
    }
    let mut source = Source::new(view, Layout::new(dims));
    // SAFETY: the caller's promise.
    unsafe {
        source.data = Shared(source.data.at(first * source.size));
        source.copy_all(out);
    }
}

/// See [`ccl_ir::ops::Copy`], [`ccl_ir::ops::Detach`] and [`ccl_ir::ops::Reshape`]: the same elements in order, densely packed.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn copy(inputs: &[View<'_>], outputs: &[View<'_>]) {
    // SAFETY: the caller's promise.
    unsafe { copy_strided(&inputs[0], 0, dims(&inputs[0]), &outputs[0]) }
}

/// See [`Transpose`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn transpose(op: &Transpose, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let x = inputs[0];
    // SAFETY: the caller's promise.
    unsafe { copy_strided(&x, 0, op.perm.iter().map(|&p| (x.shape()[p], x.stride(p))), &outputs[0]) }
}

/// See [`Slice`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn slice(op: &Slice, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (x, out) = (inputs[0], outputs[0]);
    let first = op.start * x.stride(op.axis);
    // SAFETY: the caller's promise.
    unsafe { copy_strided(&x, first, (0..out.shape().len()).map(|i| (out.shape()[i], x.stride(i))), &out) }
}

/// See [`Expand`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn expand(op: &Expand, inputs: &[View<'_>], outputs: &[View<'_>]) {
    if outputs[0].elements() == 0 {
        return;
    }
    let source = Source::new(&inputs[0], Layout::broadcast(&inputs[0], &op.shape));
    // SAFETY: the caller's promise.
    unsafe { source.copy_all(&outputs[0]) }
}

/// See [`Concat`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn concat(op: &Concat, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let out = outputs[0];
    // Elements of a run along the joined dimension and all below it.
    let width = |view: &View<'_>| view.shape()[op.axis..].iter().product::<usize>();
    let (to, stride) = (Shared(out.ptr), width(&out));
    let mut column = 0;
    for x in inputs {
        let (source, len) = (Source::new(x, Layout::of(x)), width(x));
        chunks(x.elements(), |start, count| {
            let mut at = start;
            while at < start + count {
                let (row, within) = (at / len, at % len);
                let n = (len - within).min(start + count - at);
                // SAFETY: the dispatcher's promise; every input has its own columns of every row.
                unsafe { source.copy(at, n, to.at((row * stride + column + within) * source.size)) };
                at += n;
            }
        });
        column += len;
    }
}

/// See [`Pad`]; any element type, whose zero is zero bits.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn pad(op: &Pad, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (x, out) = (inputs[0], outputs[0]);
    if out.elements() == 0 {
        return;
    }
    // Elements of a run along the padded dimension and all below it: of the zeros before, the input, the result.
    let below: usize = out.shape()[op.axis + 1..].iter().product();
    let (before, len, width) = (op.before * below, x.shape()[op.axis] * below, out.shape()[op.axis] * below);
    let (source, to) = (Source::new(&x, Layout::of(&x)), Shared(out.ptr));
    chunks(out.elements(), |start, count| {
        let mut at = start;
        while at < start + count {
            let (row, within) = (at / width, at % width);
            let inside = (before..before + len).contains(&within);
            let end = [before, before + len, width].into_iter().find(|&end| end > within).unwrap_or(width);
            let n = (end - within).min(start + count - at);
            // SAFETY: the dispatcher's promise; chunks do not overlap.
            unsafe {
                if inside {
                    source.copy(row * len + within - before, n, to.at(at * source.size));
                } else {
                    to.slice_mut(at * source.size, n * source.size).fill(0);
                }
            }
            at += n;
        }
    });
}

/// See [`ccl_ir::ops::Index`].
///
/// # Errors
/// When the index is not a row of the table.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn index(inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<(), KernelError> {
    let (table, out) = (inputs[0], outputs[0]);
    // SAFETY: the index is an i32 scalar; the caller's promise.
    let row = unsafe { inputs[1].ptr.cast::<i32>().read() };
    let count = table.shape()[0];
    let row = usize::try_from(row).ok().filter(|&i| i < count).ok_or_else(|| KernelError::BadValue {
        op: Index::NAME,
        reason: format!("is asked for row {row} of a table of {count}: rows count from 0"),
    })?;
    // SAFETY: the row is inside the table; the caller's promise.
    unsafe { copy_strided(&table, row * table.stride(0), dims(&table).skip(1), &out) };
    Ok(())
}

/// See [`WindowGather`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn window_gather(op: &WindowGather, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (keys, out) = (inputs[0], outputs[0]);
    let (rows, size) = op.partition.row_shape();
    let (length, width) = (keys.shape()[1], keys.shape()[2] * keys.shape()[3]);
    let index = op.partition.rows();
    let source = Source::new(&keys, Layout::of(&keys));
    let to = Shared(out.ptr);
    tasks(keys.shape()[0] * rows, out.elements(), |task| {
        let (batch, row) = (task / rows, task % rows);
        for (i, &key) in index[row].0.iter().enumerate() {
            let at = (task * size + i) * width;
            // SAFETY: the dispatcher's promise; every task has its own row of the output.
            unsafe { source.copy((batch * length + key) * width, width, to.at(at * source.size)) };
        }
    });
}
