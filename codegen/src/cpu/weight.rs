//! A linear map's weight `[n, k]`, whatever its element type, as the products want it.
//!
//! A weight is multiplied from panels of [`LANES`] rows, transposed. Who reads a weight more than once brings it into that form
//! once ([`to_panels`]); other weights, such as those that a training step changes, are packed in parts as they are used.

use std::cell::RefCell;

use ccl_ir::{DType, Op, TensorType};
use rayon::prelude::*;

use super::cast::widen;
use super::micro::{LANES, Panels, pack_transposed, panels_len};
use super::parallel::Shared;
use super::product::{DEPTH, with_part};
use super::view::View;

/// Whether an operator reads its input number `index` from panels where it lies in such.
pub fn takes_panels(op: &Op, index: usize) -> bool {
    matches!(op, Op::Linear(_)) && index == 1
}

/// Bytes of a weight `[n, k]` in panels.
pub fn panels_bytes(ty: &TensorType) -> usize {
    panels_len(ty.shape[1], ty.shape[0]) * ty.dtype.bytes() as usize
}

/// Writes a dense weight `[n, k]` of any float type to panels of the same type, in parallel. The memory is aligned for the type.
pub fn to_panels(ty: &TensorType, from: &[u8], to: &mut [u8]) {
    match ty.dtype {
        DType::F32 => write_panels::<f32>(ty, bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to)),
        _ => write_panels::<u16>(ty, bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to)),
    }
}

fn write_panels<T: Copy + Default + Send + Sync>(ty: &TensorType, from: &[T], to: &mut [T]) {
    let k = ty.shape[1].max(1);
    to.par_chunks_mut(LANES * k).zip(from.par_chunks(LANES * k)).for_each(|(to, from)| {
        // SAFETY: a panel's rows are inside `from`.
        unsafe { pack_transposed(|i| from[i * k..].as_ptr(), from.len() / k, k, to) };
    });
}

thread_local! {
    /// A part of a weight in half precision.
    static HALVES: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
    /// A part of a weight's row as `f32`.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A weight in memory, dense or in panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    data: Shared<u8>,
    dtype: DType,
    /// Whether it lies in panels.
    pub panels: bool,
    /// Rows: outputs of the map.
    pub n: usize,
    /// Columns: inputs of the map.
    pub k: usize,
}

impl Weight {
    /// A weight of type `f32`, `f16` or `bf16`.
    pub fn new(view: &View<'_>) -> Self {
        let (n, k) = (view.shape()[0], view.shape()[1]);
        Self { data: Shared(view.ptr), dtype: view.dtype(), panels: view.panels, n, k }
    }

    /// Calls `f` with columns `start .. start + len` (at most [`DEPTH`]) of one row of a weight that is not in panels.
    ///
    /// # Safety
    /// The weight's memory is valid and nobody writes it.
    pub unsafe fn row<R>(&self, row: usize, start: usize, len: usize, f: impl FnOnce(&[f32]) -> R) -> R {
        let first = row * self.k + start;
        if self.dtype == DType::F32 {
            // SAFETY: inside the weight; the caller's promise.
            return f(unsafe { Shared(self.data.0.cast()).slice(first, len) });
        }
        WIDE.with_borrow_mut(|wide| {
            wide.resize(DEPTH, 0.0);
            // SAFETY: as above, two bytes an element.
            widen(self.dtype, unsafe { Shared(self.data.0.cast()).slice(first, len) }, &mut wide[..len]);
            f(&wide[..len])
        })
    }

    /// Calls `f` with the transpose of columns `start .. start + len` (at most [`DEPTH`]) of `count` rows from `row` on, a
    /// multiple of [`LANES`].
    ///
    /// # Safety
    /// The weight's memory is valid and nobody writes it.
    pub unsafe fn part<R>(&self, row: usize, count: usize, start: usize, len: usize, f: impl FnOnce(Panels) -> R) -> R {
        let (singles, halves) = (Shared(self.data.0.cast::<f32>()), Shared(self.data.0.cast::<u16>()));
        let in_panels = row * self.k + start * LANES;
        match (self.dtype, self.panels) {
            (DType::F32, true) => {
                f(Panels { ptr: singles.0.wrapping_add(in_panels), row: LANES, panel: self.k * LANES })
            }
            (DType::F32, false) => {
                let at = |i: usize| singles.0.wrapping_add((row + i) * self.k + start).cast_const();
                // SAFETY: the rows are inside the weight; the caller's promise.
                with_part(count, len, |to| unsafe { pack_transposed(at, count, len, to) }, f)
            }
            (_, true) => {
                let write = |to: &mut [f32]| {
                    for (panel, to) in to.chunks_exact_mut(LANES * len).enumerate() {
                        // SAFETY: the panel is inside the weight; the caller's promise.
                        let from = unsafe { halves.slice(in_panels + panel * LANES * self.k, LANES * len) };
                        widen(self.dtype, from, to);
                    }
                };
                with_part(count, len, write, f)
            }
            (_, false) => {
                let at = |i: usize| halves.0.wrapping_add((row + i) * self.k + start).cast_const();
                let write = |to: &mut [f32]| {
                    HALVES.with_borrow_mut(|part| {
                        part.resize(to.len(), 0);
                        // SAFETY: as above.
                        unsafe { pack_transposed(at, count, len, part) };
                        widen(self.dtype, part, to);
                    });
                };
                with_part(count, len, write, f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_transposed_and_widened() {
        let (n, k) = (37, 50);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let value = |i: usize| if dtype == DType::Bf16 { (i % 256) as f32 } else { i as f32 };
            let bits = |i: usize| match dtype {
                DType::F16 => half::f16::from_f32(value(i)).to_bits(),
                _ => half::bf16::from_f32(value(i)).to_bits(),
            };
            let (ty, strides) = (TensorType::new(dtype, [n, k]), [k as u64, 1]);
            let dense: Vec<u8> = match dtype {
                DType::F32 => (0..n * k).flat_map(|i| value(i).to_ne_bytes()).collect(),
                _ => (0..n * k).flat_map(|i| bits(i).to_ne_bytes()).collect(),
            };
            // Numbers of four bytes, so that both are aligned.
            let words = |bytes: &[u8]| bytes.chunks(4).map(|x| u32::from_ne_bytes([x[0], x[1], x[2], x[3]])).collect();
            let mut dense: Vec<u32> = words(&dense);
            let mut panels = vec![u32::MAX; panels_bytes(&ty) / 4];
            to_panels(&ty, bytemuck::cast_slice(&dense), bytemuck::cast_slice_mut(&mut panels));
            for (data, panels) in [(&mut dense, false), (&mut panels, true)] {
                let view = View { panels, ..View::new(data.as_mut_ptr().cast(), &ty, &strides) };
                let weight = Weight::new(&view);
                for (row, count, start, len) in [(0, 37, 0, 50), (16, 17, 5, 33), (32, 5, 49, 1), (0, 16, 0, 16)] {
                    let check = |got: Panels| {
                        for (i, j) in (0..len).flat_map(|i| (0..count).map(move |j| (i, j))) {
                            // SAFETY: inside the part.
                            let got = unsafe { *got.ptr.add(j / LANES * got.panel + i * got.row + j % LANES) };
                            assert_eq!(got, value((row + j) * k + start + i), "{dtype} {panels} {i} {j}");
                        }
                    };
                    // SAFETY: the weight is alive.
                    unsafe { weight.part(row, count, start, len, check) };
                }
            }
        }
    }
}
