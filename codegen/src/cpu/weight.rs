//! Reading a linear map's weight `[n, k]`, whatever its element type, in parts of bounded size.

use std::cell::RefCell;

use ccl_ir::DType;

use super::cast::widen;
use super::math::vectorised;
use super::parallel::Shared;
use super::view::View;

/// Most columns of a weight (the summed dimension) that are read at a time.
pub(super) const DEPTH: usize = 1024;

/// Side of the tiles that are transposed in registers, and rows that are widened at a time.
const TILE: usize = 16;

thread_local! {
    /// Rows of a weight as `f32`, [`TILE`] of at most [`DEPTH`] numbers: 64 KiB.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A dense weight in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    data: Shared<u8>,
    dtype: DType,
    /// Rows: outputs of the map.
    pub n: usize,
    /// Columns: inputs of the map.
    pub k: usize,
}

impl Weight {
    /// A weight of type `f32`, `f16` or `bf16`.
    pub fn new(view: &View<'_>) -> Self {
        Self { data: Shared(view.ptr), dtype: view.dtype(), n: view.shape()[0], k: view.shape()[1] }
    }

    /// Calls `f` with columns `start .. start + len` of `count` rows from `row` on: their first number and the distance
    /// between rows. At most [`TILE`] rows and [`DEPTH`] columns.
    ///
    /// # Safety
    /// The weight's memory is valid and nobody writes it.
    unsafe fn read<R>(
        &self,
        row: usize,
        count: usize,
        start: usize,
        len: usize,
        f: impl FnOnce(&[f32], usize) -> R,
    ) -> R {
        let first = row * self.k + start;
        if len == 0 || count == 0 {
            return f(&[], 0);
        }
        if self.dtype == DType::F32 {
            // SAFETY: the rows are inside the weight; the caller's promise.
            return f(unsafe { Shared(self.data.0.cast()).slice(first, (count - 1) * self.k + len) }, self.k);
        }
        WIDE.with_borrow_mut(|wide| {
            wide.resize(TILE * DEPTH, 0.0);
            for (i, to) in wide.chunks_exact_mut(len).take(count).enumerate() {
                // SAFETY: as above, two bytes an element.
                widen(self.dtype, unsafe { Shared(self.data.0.cast()).slice(first + i * self.k, len) }, to);
            }
            f(wide, len)
        })
    }

    /// Calls `f` with columns `start .. start + len` of one row, at most [`DEPTH`].
    ///
    /// # Safety
    /// As for [`Weight::transpose`].
    pub unsafe fn row<R>(&self, row: usize, start: usize, len: usize, f: impl FnOnce(&[f32]) -> R) -> R {
        // SAFETY: the caller's promise.
        unsafe { self.read(row, 1, start, len, |rows, _| f(&rows[..len])) }
    }

    /// Writes columns `start .. start + len` (at most [`DEPTH`]) of `count` rows from `row` on to `to [len, count]`.
    ///
    /// # Safety
    /// The weight's memory is valid and nobody writes it.
    pub unsafe fn transpose(&self, row: usize, count: usize, start: usize, len: usize, to: &mut [f32]) {
        for done in (0..count).step_by(TILE) {
            let rows = TILE.min(count - done);
            let write = |from: &[f32], stride: usize| {
                vectorised(
                    #[inline(always)]
                    || transpose(from, stride, [rows, len], &mut to[done..], count),
                );
            };
            // SAFETY: the caller's promise.
            unsafe { self.read(row + done, rows, start, len, write) };
        }
    }
}

/// Writes `from [rows, len]`, at most [`TILE`] rows `stride` apart, to `to [len, rows]` with rows `step` apart.
#[inline(always)]
fn transpose(from: &[f32], stride: usize, [rows, len]: [usize; 2], to: &mut [f32], step: usize) {
    let whole = if rows == TILE { len / TILE * TILE } else { 0 };
    for d in (0..whole).step_by(TILE) {
        let mut tile = [[0.0f32; TILE]; TILE];
        for (i, tile) in tile.iter_mut().enumerate() {
            tile.copy_from_slice(&from[i * stride + d..][..TILE]);
        }
        for j in 0..TILE {
            let to = &mut to[(d + j) * step..][..TILE];
            for (i, to) in to.iter_mut().enumerate() {
                *to = tile[i][j];
            }
        }
    }
    for d in whole..len {
        for i in 0..rows {
            to[d * step + i] = from[i * stride + d];
        }
    }
}

#[cfg(test)]
mod tests {
    use ccl_ir::TensorType;

    use super::*;

    #[test]
    fn parts_are_transposed_and_widened() {
        let (n, k) = (37, 50);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let bits = |i: usize| match dtype {
                DType::F16 => half::f16::from_f32(i as f32).to_bits(),
                _ => half::bf16::from_f32((i % 256) as f32).to_bits(),
            };
            let value = |i: usize| if dtype == DType::Bf16 { (i % 256) as f32 } else { i as f32 };
            let mut singles: Vec<f32> = (0..n * k).map(value).collect();
            let mut halves: Vec<u16> = (0..n * k).map(bits).collect();
            let ptr = if dtype == DType::F32 { singles.as_mut_ptr().cast() } else { halves.as_mut_ptr().cast() };
            let (ty, strides) = (TensorType::new(dtype, [n, k]), [k as u64, 1]);
            let weight = Weight::new(&View { ptr, ty: &ty, strides: &strides });
            for (row, count, start, len) in
                [(0, 37, 0, 50), (3, 17, 5, 33), (36, 1, 49, 1), (0, 16, 0, 16), (2, 3, 7, 0)]
            {
                let mut got = vec![f32::NAN; len * count];
                // SAFETY: the weight is alive and dense.
                unsafe { weight.transpose(row, count, start, len, &mut got) };
                for (i, got) in got.iter().enumerate() {
                    assert_eq!(*got, value((row + i % count) * k + start + i / count), "{dtype} {i}");
                }
            }
        }
    }
}
