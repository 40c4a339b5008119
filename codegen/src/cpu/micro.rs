//! Matrix products on one thread, from registers outwards.
//!
//! The right operand is read in *panels* of [`LANES`] columns, the left one may have any strides: reading it costs nothing
//! where rows or columns are packed, because a number of it is used for all columns of a tile. There is no packing
//! inside and no threshold below which it does not pay: products of a few rows and columns, as gradients of short heads and
//! narrow windows have them, run at nearly the rate of large ones. Callers pack what is read often enough, and cut what does
//! not stay in cache.
//!
//! A number of the result is summed in the order of the inner dimension, whatever tile it falls into.

use pulp::{Simd, WithSimd};

use super::simd::{dispatch, vectorised};

/// Columns of a panel.
pub(super) const LANES: usize = 16;

/// Numbers that panels start cache lines with: memory of one thread that is used again and again.
#[derive(Default)]
pub(super) struct Lines(Vec<Line>);

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

impl Lines {
    /// `len` numbers, whatever they are; what the last call left behind stays where it does not grow.
    pub fn get(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(LANES);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LANES]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

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
    pub ptr: *const f32,
    pub row: usize,
    pub panel: usize,
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

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Onto {
    /// Nothing: the result is overwritten.
    Nothing,
    /// What the result holds.
    Result,
    /// One number for each column, the first of them here.
    Columns(*const f32),
}

impl Onto {
    /// The result where `add`.
    pub fn result(add: bool) -> Self {
        if add { Self::Result } else { Self::Nothing }
    }
}

/// `c [m, n] = factor * a [m, k] b [k, n] + onto`.
///
/// # Safety
/// All elements of `a` and `c` are valid, and nobody else touches those of `c`; the panels are
/// valid for `k` rows and `n` columns, padded to whole panels; `onto` has `n` columns.
pub(super) unsafe fn product(sizes: [usize; 3], a: Left, b: Panels, c: Target, factor: f32, onto: Onto) {
    dispatch(Product { sizes, a, b, c, factor, onto });
}

/// The operands of [`product`], whose promise stands behind every use of their memory.
struct Product {
    sizes: [usize; 3],
    a: Left,
    b: Panels,
    c: Target,
    factor: f32,
    onto: Onto,
}

impl WithSimd for Product {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Rows and panels of a tile, and the registers that hold a row of a panel. The sums take 24 of 32 registers with 16
        // lanes (and with the 4 of NEON), 12 of 16 with 8.
        match S::F32_LANES {
            16 => self.panels::<S, 12, 2, 1>(simd),
            8 => self.panels::<S, 6, 1, 2>(simd),
            4 => self.panels::<S, 6, 1, 4>(simd),
            _ => self.panels::<S, 2, 1, LANES>(simd),
        }
    }
}

impl Product {
    #[inline(always)]
    fn panels<S: Simd, const M: usize, const P: usize, const V: usize>(&self, simd: S) {
        let n = self.sizes[1];
        let mut column = 0;
        while column < n {
            if n - column > (P - 1) * LANES {
                self.rows::<S, M, P, V>(simd, column);
                column += P * LANES;
            } else {
                self.rows::<S, M, 1, V>(simd, column);
                column += LANES;
            }
        }
    }

    /// All rows of some panels.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const P: usize, const V: usize>(&self, simd: S, column: usize) {
        // Rows side by side are one place and constants apart.
        if self.a.row == 1 {
            self.tiles::<S, M, P, V, true>(simd, column);
        } else {
            self.tiles::<S, M, P, V, false>(simd, column);
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const M: usize, const P: usize, const V: usize, const SIDE: bool>(&self, simd: S, column: usize) {
        let m = self.sizes[0];
        let mut row = 0;
        while row < m {
            row += match m - row {
                left if left >= M => self.tile::<S, M, P, V, SIDE>(simd, row, column),
                8.. => self.tile::<S, 8, P, V, SIDE>(simd, row, column),
                4.. => self.tile::<S, 4, P, V, SIDE>(simd, row, column),
                2.. => self.tile::<S, 2, P, V, SIDE>(simd, row, column),
                _ => self.tile::<S, 1, P, V, SIDE>(simd, row, column),
            };
        }
    }

    /// One tile of the result: `M` rows from `row` on, and what there is of `P` panels from `column` on. Returns `M`.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const P: usize, const V: usize, const SIDE: bool>(
        &self,
        simd: S,
        row: usize,
        column: usize,
    ) -> usize {
        let (a, b, c) = (self.a, self.b, self.c);
        let next = if SIDE { 1 } else { a.row };
        let mut sums = [[[simd.splat_f32s(0.0); V]; P]; M];
        let mut left = a.ptr.wrapping_add(row * next);
        let mut panel = b.ptr.wrapping_add(column / LANES * b.panel);
        for _ in 0..self.sizes[2] {
            let mut right = [[simd.splat_f32s(0.0); V]; P];
            for (p, right) in right.iter_mut().enumerate() {
                for (v, right) in right.iter_mut().enumerate() {
                    // SAFETY: the caller's promise; registers are plain numbers, and `LANES` numbers are V of them.
                    *right = unsafe { panel.add(p * b.panel).cast::<S::f32s>().add(v).read_unaligned() };
                }
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let x = simd.splat_f32s(unsafe { *left.add(i * next) });
                for (sum, right) in sums.as_flattened_mut().iter_mut().zip(right.as_flattened()) {
                    *sum = simd.mul_add_f32s(x, *right, *sum);
                }
            }
            left = left.wrapping_add(a.column);
            panel = panel.wrapping_add(b.row);
        }
        let factor = simd.splat_f32s(self.factor);
        let columns = (P * LANES).min(self.sizes[1] - column);
        // SAFETY: the caller's promise; the tile is inside the result.
        let first = unsafe { c.ptr.add(row * c.row + column) };
        if columns < P * LANES {
            for (i, sums) in sums.iter().enumerate() {
                // Through memory of whole panels. Multiplied and added in one, as whole tiles are.
                let mut all = [[0.0f32; LANES]; P];
                let all = all.as_flattened_mut();
                // SAFETY: as above; `onto` has a number for each column.
                let to = unsafe { std::slice::from_raw_parts_mut(first.add(i * c.row), columns) };
                match self.onto {
                    Onto::Nothing => {}
                    Onto::Result => all[..columns].copy_from_slice(to),
                    // SAFETY: as above.
                    Onto::Columns(x) => unsafe { all.as_mut_ptr().copy_from_nonoverlapping(x.add(column), columns) },
                }
                for (v, &sum) in sums.as_flattened().iter().enumerate() {
                    // SAFETY: `P * LANES` numbers are P * V registers.
                    unsafe {
                        let at = all.as_mut_ptr().cast::<S::f32s>().add(v);
                        at.write_unaligned(simd.mul_add_f32s(sum, factor, at.read_unaligned()));
                    }
                }
                to.copy_from_slice(&all[..columns]);
            }
            return M;
        }
        // Loops of constant length with nothing to decide inside, so that the sums stay in registers.
        let at = |i: usize, v: usize| {
            // SAFETY: as above.
            unsafe { first.add(i * c.row).cast::<S::f32s>().add(v) }
        };
        match self.onto {
            Onto::Nothing => {
                for (i, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.as_flattened().iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { at(i, v).write_unaligned(simd.mul_f32s(sum, factor)) };
                    }
                }
            }
            Onto::Result => {
                for (i, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.as_flattened().iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { at(i, v).write_unaligned(simd.mul_add_f32s(sum, factor, at(i, v).read_unaligned())) };
                    }
                }
            }
            Onto::Columns(x) => {
                for (i, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.as_flattened().iter().enumerate() {
                        // SAFETY: as above; whole panels have a number for each column.
                        unsafe {
                            let x = x.add(column).cast::<S::f32s>().add(v).read_unaligned();
                            at(i, v).write_unaligned(simd.mul_add_f32s(sum, factor, x));
                        }
                    }
                }
            }
        }
        M
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
pub(super) unsafe fn pack_transposed<T: Copy + Default>(
    row: impl Fn(usize) -> *const T,
    rows: usize,
    columns: usize,
    to: &mut [T],
) {
    vectorised(
        #[inline(always)]
        || {
            for (panel, to) in to[..panels_len(columns, rows)].chunks_exact_mut((columns * LANES).max(1)).enumerate() {
                let (first, count) = (panel * LANES, LANES.min(rows - panel * LANES));
                let (to, _) = to.as_chunks_mut::<LANES>();
                for (block, to) in to.chunks_mut(LANES).enumerate() {
                    let mut square = [[T::default(); LANES]; LANES];
                    for (i, square) in square[..count].iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        unsafe {
                            let from = row(first + i).add(block * LANES);
                            if to.len() == LANES {
                                *square = from.cast::<[T; LANES]>().read();
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

/// Packs rows of `columns` numbers into panels, wherever each number is.
///
/// # Safety
/// The numbers are valid and nobody writes them.
pub(super) unsafe fn pack_any(at: impl Fn(usize, usize) -> *const f32, rows: usize, columns: usize, to: &mut [f32]) {
    for (i, to) in to[..panels_len(rows, columns)].iter_mut().enumerate() {
        let (panel, row, lane) = (i / (rows * LANES), i / LANES % rows, i % LANES);
        let column = panel * LANES + lane;
        // SAFETY: the caller's promise.
        *to = if column < columns { unsafe { *at(row, column) } } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_sizes_around_the_tiles() {
        for (m, n, k) in
            [(1, 1, 1), (6, 16, 3), (7, 17, 5), (13, 40, 16), (5, 15, 33), (3, 4, 0), (25, 64, 20), (23, 49, 9)]
        {
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
            let columns: Vec<f32> = (0..n).map(|j| j as f32).collect();
            let onto = [(2.0, Onto::Result), (-1.0, Onto::Nothing), (0.5, Onto::Columns(columns.as_ptr()))];
            for (factor, onto) in onto {
                c.fill(1.0);
                let to = Target { ptr: c.as_mut_ptr(), row: n + 1 };
                let from = Left { ptr: a.as_ptr(), row: 1, column: m };
                // SAFETY: all sizes are as the vectors were made.
                unsafe { product([m, n, k], from, Panels::packed(&panels, k), to, factor, onto) };
                for i in 0..m {
                    for j in 0..n {
                        let base = match onto {
                            Onto::Nothing => 0.0,
                            Onto::Result => 1.0,
                            Onto::Columns(_) => columns[j],
                        };
                        assert_eq!(c[i * (n + 1) + j], factor * want(i, j) + base, "{m} {n} {k} at {i} {j}");
                    }
                    assert_eq!(c[i * (n + 1) + n], 1.0, "beyond row {i}");
                }
            }
        }
    }
}
