//! Blocks of a matrix product on one thread, and the cut of a product into blocks.

use gemm::Parallelism;

/// Most rows of a block: enough that bringing a weight's columns into the right order costs a few percent of
/// multiplying them.
const ROWS: usize = 512;

/// Most columns of a block: the result is still in the second-level cache when an epilogue reads it.
pub(super) const COLUMNS: usize = 128;

/// Blocks that keep many cores busy; a result with fewer is cut into blocks of half the rows.
const ENOUGH: usize = 64;

/// A matrix in memory: its first element and the distance between rows and between columns in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub ptr: *mut f32,
    pub row: usize,
    pub column: usize,
}

/// `out = a b`, or `out += a b`, on this thread: `a` is `[m, k]`, `b` is `[k, n]`.
///
/// # Safety
/// All elements are valid; those of `out` are distinct and belong to nobody else meanwhile.
pub(super) unsafe fn multiply([m, n, k]: [usize; 3], out: Matrix, a: Matrix, b: Matrix, add: bool) {
    let keep = if add { 1.0 } else { 0.0 };
    // SAFETY: the caller's promise. Distances fit `isize` because the elements are in memory.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.ptr,
            out.column as isize,
            out.row as isize,
            add,
            a.ptr,
            a.column as isize,
            a.row as isize,
            b.ptr,
            b.column as isize,
            b.row as isize,
            keep,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The cut of an `[m, n]` result into blocks of nearly equal size, by `m` and `n` alone.
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
    /// Cuts an `[m, n]` result, both above zero.
    pub fn new(m: usize, n: usize) -> Self {
        let columns = share(n, COLUMNS, 16);
        let most = if m.div_ceil(ROWS) * n.div_ceil(columns) < ENOUGH { ROWS / 2 } else { ROWS };
        Self { m, n, rows: share(m, most, 1), columns }
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
            let blocks = Blocks::new(m, n);
            let mut seen = vec![0; m * n];
            for block in (0..blocks.count()).map(|i| blocks.get(i)) {
                assert!(block.rows <= ROWS && block.columns <= COLUMNS, "{block:?}");
                for r in block.row..block.row + block.rows {
                    for c in block.column..block.column + block.columns {
                        seen[r * n + c] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&s| s == 1), "{m} x {n}");
        }
    }
}
