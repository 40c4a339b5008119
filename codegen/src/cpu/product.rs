//! Blocks of a matrix product on one thread, and the cut of a product into blocks.

use std::cell::RefCell;

use super::micro::{LANES, Left, Lines, Onto, Panels, Target, pack, pack_any, pack_transposed, panels_len, product};

/// Most terms of a sum that are added one to the other; longer sums are sums of nearly equal parts. That many rows of a tile's
/// columns stay in the first-level cache, or close to it.
pub(super) const DEPTH: usize = 512;

/// Most columns whose part of the right operand is packed at a time: 128 KiB with [`DEPTH`].
pub(super) const STRIP: usize = 64;

/// Most rows of a block whose right operand has to be packed for it: enough that packing costs a few percent of multiplying.
const TALL: usize = 512;

/// Most rows of a block whose right operand lies in panels: [`DEPTH`] columns of them are a small part of the second-level cache.
const ROWS: usize = 96;

/// Least rows of a block, unless there are no more.
const FEW_ROWS: usize = 48;

/// Most columns of a block of fixed size.
pub(super) const COLUMNS: usize = 128;

/// Blocks that keep many cores busy; a result with fewer is cut into blocks of half the rows.
const ENOUGH: usize = 64;

thread_local! {
    /// A part of a right operand, in panels. No task waits for another one while it holds it.
    static PART: RefCell<Lines> = RefCell::default();
}

/// A matrix in memory: its first element and the distance between rows and between columns in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub ptr: *const f32,
    pub row: usize,
    pub column: usize,
}

/// `out = a b`, or `out += a b`, on this thread: `a` is `[m, k]`, `b` is `[k, n]`.
///
/// # Safety
/// All elements are valid; those of `out` are distinct and belong to nobody else meanwhile.
pub(super) unsafe fn multiply([m, n, k]: [usize; 3], out: Target, a: Left, b: Matrix, add: bool) {
    PART.with_borrow_mut(|part| {
        let part = part.get(STRIP * DEPTH);
        for column in (0..n).step_by(STRIP) {
            let columns = STRIP.min(n - column);
            let to = Target { ptr: out.ptr.wrapping_add(column), ..out };
            for (start, len) in parts(k) {
                let at = |row: usize, column: usize| b.ptr.wrapping_add(row * b.row + column * b.column);
                let left = Left { ptr: a.ptr.wrapping_add(start * a.column), ..a };
                // SAFETY: the caller's promise.
                unsafe {
                    match (b.row, b.column) {
                        (_, 1) => pack(|i| at(start + i, column), len, columns, part),
                        (1, _) => pack_transposed(|j| at(start, column + j), columns, len, part),
                        _ => pack_any(|i, j| at(start + i, column + j), len, columns, part),
                    }
                    let onto = Onto::result(add || start > 0);
                    product([m, columns, len], left, Panels::packed(part, len), to, 1.0, onto);
                }
            }
        }
    });
}

/// The parts of a sum of `k` terms, as (start, length). A sum of no terms has one empty part.
pub(super) fn parts(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let len = share(k.max(1), DEPTH, 1);
    (0..k.max(1)).step_by(len).map(move |start| (start, len.min(k - start)))
}

/// Calls `f` with columns `column .. column + columns` of a right operand in panels, of which `write` fills a part of memory.
pub(super) fn with_part<R>(
    columns: usize,
    rows: usize,
    write: impl FnOnce(&mut [f32]),
    f: impl FnOnce(Panels) -> R,
) -> R {
    PART.with_borrow_mut(|part| {
        let part = part.get(panels_len(rows, columns));
        write(part);
        f(Panels::packed(part, rows))
    })
}

/// The cut of an `[m, n]` result into blocks of nearly equal size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

/// Rows and columns `start .. start + len` of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
}

impl Blocks {
    /// Cuts an `[m, n]` result, both above zero, by `m` and `n` alone.
    pub fn new(m: usize, n: usize) -> Self {
        let columns = share(n, COLUMNS, LANES);
        let most = if m.div_ceil(TALL) * n.div_ceil(columns) < ENOUGH { TALL / 2 } else { TALL };
        Self { m, n, rows: share(m, most, 1), columns }
    }

    /// Cuts an `[m, n]` result for a number of threads: for results whose numbers do not depend on the cut.
    ///
    /// Where the right operand lies in panels, blocks are rows, a whole number of blocks for each thread; otherwise they are as
    /// tall as packing wants. Results too low to give every thread its blocks are cut into columns too.
    pub fn for_threads(m: usize, n: usize, threads: usize, panels: bool) -> Self {
        let across = if !panels {
            m.div_ceil(TALL)
        } else if m <= ROWS {
            1
        } else {
            (threads * m.div_ceil(threads * ROWS)).min(m.div_ceil(FEW_ROWS))
        };
        let rows = share(m, m.div_ceil(across), 4);
        let down = if across >= 2 * threads { 1 } else { (4 * threads).div_ceil(across) };
        Self { m, n, rows, columns: n.div_ceil(down).next_multiple_of(2 * LANES) }
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.columns)
    }

    /// Block `i`; neighbours share rows of the left operand.
    pub fn get(&self, i: usize) -> Block {
        let across = self.n.div_ceil(self.columns);
        let (row, column) = (i / across * self.rows, i % across * self.columns);
        Block { row, rows: self.rows.min(self.m - row), column, columns: self.columns.min(self.n - column) }
    }
}

/// The smallest multiple of `unit` that covers `size` in as few shares of at most `most` as possible.
fn share(size: usize, most: usize, unit: usize) -> usize {
    size.div_ceil(size.div_ceil(most)).next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_result_once() {
        for (m, n) in [(1, 1), (1, 5000), (257, 257), (600, 130), (1000, 3), (513, 4 * COLUMNS + 1), (9000, 600)] {
            let threads = [1, 2, 8, 64].into_iter();
            let cuts = threads.flat_map(|t| [true, false].map(|panels| Blocks::for_threads(m, n, t, panels)));
            for blocks in cuts.chain([Blocks::new(m, n)]) {
                let mut seen = vec![0; m * n];
                for block in (0..blocks.count()).map(|i| blocks.get(i)) {
                    assert!(block.rows <= TALL && block.column.is_multiple_of(LANES), "{block:?}");
                    for r in block.row..block.row + block.rows {
                        for c in block.column..block.column + block.columns {
                            seen[r * n + c] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&s| s == 1), "{m} x {n}: {blocks:?}");
            }
        }
    }

    #[test]
    fn parts_cover_a_sum_once() {
        for k in [0, 1, DEPTH, DEPTH + 1, 1792, 13824] {
            let mut end = 0;
            for (start, len) in parts(k) {
                assert!(start == end && len <= DEPTH, "{k}: {start} {len}");
                end += len;
            }
            assert_eq!((end, parts(k).count()), (k, k.div_ceil(DEPTH).max(1)), "{k}");
        }
    }

    #[test]
    fn products_of_any_strides_agree() {
        let (m, n, k) = (5, STRIP + 19, DEPTH + 3);
        let numbers = |len: usize, step: usize| (0..len).map(|i| (i * step % 7) as f32 - 3.0).collect::<Vec<_>>();
        let (a, b) = (numbers(m * k, 5), numbers(2 * k * n, 3));
        for (row, column) in [(n, 1), (1, k), (2 * n, 2)] {
            for add in [false, true] {
                let mut out = vec![2.0; m * n];
                // SAFETY: all sizes are as the vectors were made.
                unsafe {
                    let to = Target { ptr: out.as_mut_ptr(), row: n };
                    let left = Left { ptr: a.as_ptr(), row: k, column: 1 };
                    multiply([m, n, k], to, left, Matrix { ptr: b.as_ptr(), row, column }, add);
                }
                for (at, got) in out.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let sum: f32 = (0..k).map(|p| a[i * k + p] * b[p * row + j * column]).sum();
                    assert_eq!(*got, sum + if add { 2.0 } else { 0.0 }, "{row} {column} {add} at {i} {j}");
                }
            }
        }
    }
}
