//! Cutting work into tasks for the current rayon pool.

use std::cell::RefCell;

use rayon::prelude::*;

use super::math::vectorised;

/// Elements below which a kernel does not leave its thread: the work is shorter than waking another one.
pub(super) const SMALL: usize = 1 << 14;

/// Elements of one task of kernels that are bound by memory.
pub(super) const CHUNK: usize = 1 << 14;

thread_local! {
    /// Sums that a call adds up at its end.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends a call memory for sums that its tasks leave and that it adds up, zeros at first. The memory stays for the next call on this thread, so that a step that
/// runs again allocates nothing. Not to be called by a task.
pub(super) fn with_sums<R>(len: usize, call: impl FnOnce(&mut [f32]) -> R) -> R {
    SUMS.with_borrow_mut(|sums| {
        sums.clear();
        sums.resize(len, 0.0);
        call(sums)
    })
}

/// A pointer that tasks may share; they touch disjoint elements.
#[derive(Debug)]
pub(super) struct Shared<T>(pub *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: only an address; every use is in an unsafe block that says why its elements are its own.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address of element `i`.
    ///
    /// # Safety
    /// Element `i` lies in the allocation, or one past its end.
    pub unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }

    /// Elements `start .. start + len` to write.
    ///
    /// # Safety
    /// They are in the allocation, and nobody else reads or writes them while the slice lives.
    pub unsafe fn slice_mut<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    /// Elements `start .. start + len` to read.
    ///
    /// # Safety
    /// They are in the allocation, and nobody writes them while the slice lives.
    pub unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.add(start), len) }
    }
}

/// Runs `task(0), .., task(count - 1)`; on this thread alone where there are fewer than [`SMALL`] elements in all.
pub(super) fn tasks(count: usize, elements: usize, task: impl Fn(usize) + Send + Sync) {
    if count <= 1 || elements < SMALL {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Runs `task(start, len)` for runs that together cover `0 .. elements`.
pub(super) fn chunks(elements: usize, task: impl Fn(usize, usize) + Send + Sync) {
    tasks(elements.div_ceil(CHUNK), elements, |i| task(i * CHUNK, CHUNK.min(elements - i * CHUNK)));
}

/// Runs `task(first, count)` for groups of rows of `width` elements, about [`CHUNK`] elements each.
pub(super) fn rows(count: usize, width: usize, task: impl Fn(usize, usize) + Send + Sync) {
    let group = (CHUNK / width.max(1)).max(1);
    tasks(count.div_ceil(group), count * width, |i| task(i * group, group.min(count - i * group)));
}

/// Adds lists of `len` numbers, one behind the other in `parts`, to `sum` in their order.
///
/// # Safety
/// `sum` has `len` valid elements that nobody else touches.
pub(super) unsafe fn add_parts(sum: Shared<f32>, len: usize, parts: &[f32]) {
    if parts.is_empty() {
        return;
    }
    chunks(len, |start, count| {
        // SAFETY: the caller's promise; chunks do not overlap.
        let sum = unsafe { sum.slice_mut(start, count) };
        for part in parts.chunks_exact(len) {
            vectorised(
                #[inline(always)]
                || {
                    for (sum, x) in sum.iter_mut().zip(&part[start..]) {
                        *sum += x;
                    }
                },
            );
        }
    });
}
