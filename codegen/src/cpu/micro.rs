//! Small matrix products on one thread, for operands that are in cache and used at once.
//!
//! The right operand is read in *panels* of [`LANES`] columns, the left one may have any strides. There is no packing
//! inside and no threshold below which it does not pay: products of a few rows and columns, as gradients of short heads and
//! narrow windows have them, run at nearly the rate of large ones. Callers pack what is read often enough.

use pulp::{Simd, WithSimd};

use super::softmax_math::vectorised;

/// Columns of a panel.
pub(super) const LANES: usize = 16;

/// Rows of the result that are summed side by side: with 8 lanes a register they fill 12 of 16 registers.
const ROWS: usize = 6;

/// Left operand: first element, distance of rows and of columns.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub ptr: *const f32,
    pub row: usize,
    pub column: usize,
}

/// Right operand in panels of [`LANES`] columns: the first number, and the distances of rows and of panels.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    ptr: *const f32,
    row: usize,
    panel: usize,
}

impl Panels {
    /// `rows` rows of [`pack`]ed panels.
    pub fn packed(data: &[f32], rows: usize) -> Self {
        Self { ptr: data.as_ptr(), row: LANES, panel: rows * LANES }
    }

    /// Rows where they lie: no padding, so that their length is a multiple of [`LANES`].
    pub fn in_place(ptr: *const f32, row: usize) -> Self {
        Self { ptr, row, panel: LANES }
    }
}

/// Result: first element, packed columns, distance of rows.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub ptr: *mut f32,
    pub row: usize,
}

/// `c [m, n] = factor * a [m, k] b [k, n]`, added to `c` where `add`.
///
/// # Safety
/// All elements of `a` and `c` are valid, and nobody else touches those of `c`; the panels are
/// valid for `k` rows and `n` columns, padded to whole panels.
pub(super) unsafe fn product(sizes: [usize; 3], a: Left, b: Panels, c: Target, factor: f32, add: bool) {
    pulp::Arch::new().dispatch(Product { sizes, a, b, c, factor, add });
}

/// The operands of [`product`], whose promise stands behind every use of their memory.
struct Product {
    sizes: [usize; 3],
    a: Left,
    b: Panels,
    c: Target,
    factor: f32,
    add: bool,
}

impl WithSimd for Product {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // How many registers hold a row of a panel.
        match LANES / S::F32_LANES {
            1 => self.columns::<S, 1>(simd),
            2 => self.columns::<S, 2>(simd),
            4 => self.columns::<S, 4>(simd),
            _ => self.columns::<S, LANES>(simd),
        }
    }
}

impl Product {
    #[inline(always)]
    fn columns<S: Simd, const V: usize>(&self, simd: S) {
        let [m, n, _] = self.sizes;
        for column in (0..n).step_by(LANES) {
            let panel = self.b.ptr.wrapping_add(column / LANES * self.b.panel);
            let columns = LANES.min(n - column);
            let mut row = 0;
            while row < m {
                let rows = ROWS.min(m - row);
                match rows {
                    1 => self.tile::<S, 1, V>(simd, panel, row, column, columns),
                    2 => self.tile::<S, 2, V>(simd, panel, row, column, columns),
                    3 => self.tile::<S, 3, V>(simd, panel, row, column, columns),
                    4 => self.tile::<S, 4, V>(simd, panel, row, column, columns),
                    5 => self.tile::<S, 5, V>(simd, panel, row, column, columns),
                    _ => self.tile::<S, ROWS, V>(simd, panel, row, column, columns),
                }
                row += rows;
            }
        }
    }

    /// One tile of the result: `M` rows from `row` on, of which `columns` numbers from `column` on are stored.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &self,
        simd: S,
        panel: *const f32,
        row: usize,
        column: usize,
        columns: usize,
    ) {
        let (a, c) = (self.a, self.c);
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        for p in 0..self.sizes[2] {
            let mut right = [simd.splat_f32s(0.0); V];
            for (v, right) in right.iter_mut().enumerate() {
                // SAFETY: the caller's promise; registers are plain numbers, and `LANES` numbers are V of them.
                *right = unsafe { panel.add(p * self.b.row).cast::<S::f32s>().add(v).read_unaligned() };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let x = simd.splat_f32s(unsafe { *a.ptr.add((row + i) * a.row + p * a.column) });
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_f32s(x, right, *sum);
                }
            }
        }
        let factor = simd.splat_f32s(self.factor);
        // SAFETY: the caller's promise; the tile is inside the result.
        let first = unsafe { c.ptr.add(row * c.row + column) };
        if columns < LANES {
            for (i, sums) in sums.iter().enumerate() {
                let mut all = [0.0f32; LANES];
                for (v, &sum) in sums.iter().enumerate() {
                    // SAFETY: `LANES` numbers are V registers.
                    unsafe { all.as_mut_ptr().cast::<S::f32s>().add(v).write_unaligned(simd.mul_f32s(sum, factor)) };
                }
                // SAFETY: as above.
                let to = unsafe { std::slice::from_raw_parts_mut(first.add(i * c.row), columns) };
                for (to, x) in to.iter_mut().zip(all) {
                    *to = x + if self.add { *to } else { 0.0 };
                }
            }
            return;
        }
        // Loops of constant length with nothing to decide inside, so that the sums stay in registers.
        let at = |i: usize, v: usize| {
            // SAFETY: as above.
            unsafe { first.add(i * c.row).cast::<S::f32s>().add(v) }
        };
        if self.add {
            for i in 0..M {
                for v in 0..V {
                    // SAFETY: as above.
                    unsafe {
                        at(i, v).write_unaligned(simd.mul_add_f32s(sums[i][v], factor, at(i, v).read_unaligned()))
                    };
                }
            }
        } else {
            for i in 0..M {
                for v in 0..V {
                    // SAFETY: as above.
                    unsafe { at(i, v).write_unaligned(simd.mul_f32s(sums[i][v], factor)) };
                }
            }
        }
    }
}

/// Numbers that panels of `rows` rows and `columns` columns take.
pub(super) fn panels_len(rows: usize, columns: usize) -> usize {
    rows * columns.next_multiple_of(LANES)
}

/// Packs rows of `columns` numbers, `row(i)` the first of row `i`, into panels.
///
/// # Safety
/// The rows are valid and nobody writes them.
pub(super) unsafe fn pack(row: impl Fn(usize) -> *const f32, rows: usize, columns: usize, to: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (panel, to) in to[..panels_len(rows, columns)].chunks_exact_mut((rows * LANES).max(1)).enumerate() {
                let (start, len) = (panel * LANES, LANES.min(columns - panel * LANES));
                for (i, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let from = row(i).add(start);
                        if len == LANES {
                            *to = from.cast::<[f32; LANES]>().read();
                        } else {
                            *to = [0.0; LANES];
                            to[..len].copy_from_slice(std::slice::from_raw_parts(from, len));
                        }
                    }
                }
            }
        },
    );
}

/// Packs the transpose of rows of `columns` numbers into panels: `columns` rows, a column for each row, zeros behind them.
///
/// # Safety
/// The rows are valid and nobody writes them.
pub(super) unsafe fn pack_transposed(row: impl Fn(usize) -> *const f32, rows: usize, columns: usize, to: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (panel, to) in to[..panels_len(columns, rows)].chunks_exact_mut((columns * LANES).max(1)).enumerate() {
                let (first, count) = (panel * LANES, LANES.min(rows - panel * LANES));
                let (to, _) = to.as_chunks_mut::<LANES>();
                for (block, to) in to.chunks_mut(LANES).enumerate() {
                    let mut square = [[0.0f32; LANES]; LANES];
                    for (i, square) in square[..count].iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let from = row(first + i).add(block * LANES);
                            if to.len() == LANES {
                                *square = from.cast::<[f32; LANES]>().read();
                            } else {
                                square[..to.len()].copy_from_slice(std::slice::from_raw_parts(from, to.len()));
                            }
                        }
                    }
                    for (j, to) in to.iter_mut().enumerate() {
                        for i in 0..LANES {
                            to[i] = square[i][j];
                        }
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_sizes_around_the_tiles() {
        for (m, n, k) in [(1, 1, 1), (6, 16, 3), (7, 17, 5), (13, 40, 16), (5, 15, 33), (3, 4, 0)] {
            let x = |i: usize| (i % 11) as f32 - 5.0;
            // `a` is stored column by column, `b` in rows with a gap.
            let a: Vec<f32> = (0..m * k).map(x).collect();
            let b: Vec<f32> = (0..k * (n + 2)).map(|i| x(i * 7)).collect();
            let want = |i: usize, j: usize| (0..k).map(|p| a[p * m + i] * b[p * (n + 2) + j]).sum::<f32>();
            let (mut panels, mut again) = (vec![f32::NAN; panels_len(k, n)], vec![f32::NAN; panels_len(k, n)]);
            let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k.max(1) * (n + 2) + i / k.max(1)]).collect();
            // SAFETY: all rows are inside the vectors.
            unsafe {
                pack(|i| b.as_ptr().add(i * (n + 2)), k, n, &mut panels);
                pack_transposed(|i| transposed.as_ptr().add(i * k), n, k, &mut again);
            }
            assert_eq!(panels, again, "{m} {n} {k}");
            let mut c = vec![1.0; m * (n + 1)];
            for (factor, add, keep) in [(2.0, true, 1.0), (-1.0, false, 0.0)] {
                c.fill(1.0);
                let to = Target { ptr: c.as_mut_ptr(), row: n + 1 };
                let from = Left { ptr: a.as_ptr(), row: 1, column: m };
                // SAFETY: all sizes are as the vectors were made.
                unsafe { product([m, n, k], from, Panels::packed(&panels, k), to, factor, add) };
                for i in 0..m {
                    for j in 0..n {
                        assert_eq!(c[i * (n + 1) + j], factor * want(i, j) + keep, "{m} {n} {k} at {i} {j}");
                    }
                    assert_eq!(c[i * (n + 1) + n], 1.0, "beyond row {i}");
                }
            }
        }
    }
}
