//! One task of attention's gradient: a block of queries of one head against a list of key segments.
//!
//! As in [`super::attention_tile`], scores are `[keys, queries]`, queries side by side: probabilities and the gradients of the
//! scores of a tile of keys are made in cache and used at once. The order of arithmetic depends on the shapes only.

use std::cell::RefCell;
use std::ops::Range;

use super::attention::Rows;
use super::attention_tile::{QUERIES, multiply};
use super::softmax_math::{LANES, exp, vectorised};

/// Most keys of a tile.
const KEYS: usize = 128;

/// Keys and values of one head with their gradients, one row per key, all with packed channels.
#[derive(Clone)]
pub(super) struct Keys<'a> {
    pub k: Rows,
    pub v: Rows,
    pub dk: Rows,
    pub dv: Rows,
    /// Which rows.
    pub rows: Range<usize>,
    /// A term for the scores of each of the rows, if any.
    pub bias: Option<&'a [f32]>,
}

impl Keys<'_> {
    /// Sets the gradients of some rows to 0.
    ///
    /// # Safety
    /// The rows of the gradients are valid and nobody else touches them.
    pub unsafe fn clear(&self, rows: Range<usize>, dim: usize) {
        for row in rows {
            for to in [&self.dk, &self.dv] {
                // SAFETY: the caller's promise.
                unsafe { std::slice::from_raw_parts_mut(to.row(row), dim) }.fill(0.0);
            }
        }
    }
}

/// The queries of a task, their results and gradients, one row per query, all with packed channels.
pub(super) struct Queries {
    pub q: Rows,
    /// The result of attention.
    pub o: Rows,
    /// The result's gradient.
    pub g: Rows,
    /// The log-sum-exp of query 0; those of the others follow.
    pub lse: *const f32,
    /// Where the queries' gradients go.
    pub dq: Rows,
    /// Which rows; at most [`QUERIES`].
    pub rows: Range<usize>,
    /// Channels.
    pub dim: usize,
}

/// What a task needs besides its operands; one per thread, reused.
#[derive(Default)]
struct Scratch {
    /// Queries as `[dim, width]`.
    q: Vec<f32>,
    /// Gradients of the results as `[dim, width]`.
    g: Vec<f32>,
    /// Probabilities as `[keys, width]`.
    p: Vec<f32>,
    /// Gradients of the scores as `[keys, width]`.
    ds: Vec<f32>,
    /// Log-sum-exp.
    lse: Vec<f32>,
    /// Sum of result times gradient.
    delta: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Writes the gradients of a block of queries, and adds to those of the keys and values of all segments.
///
/// # Safety
/// All rows are valid, and nobody else touches the gradients meanwhile.
pub(super) unsafe fn backward(block: &Queries, segments: &[Keys<'_>]) {
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the caller's promise.
        unsafe { scratch.start(block) };
        let mut first = true;
        for segment in segments {
            for start in segment.rows.clone().step_by(KEYS) {
                let rows = start..segment.rows.end.min(start + KEYS);
                let bias = segment.bias.map(|bias| &bias[rows.start - segment.rows.start..][..rows.len()]);
                // SAFETY: as above.
                unsafe { scratch.tile(block, segment, rows, bias, !first) };
                first = false;
            }
        }
    });
}

impl Scratch {
    /// Lays the queries out for the block.
    ///
    /// # Safety
    /// As for [`backward`].
    unsafe fn start(&mut self, block: &Queries) {
        let (count, dim) = (block.rows.len(), block.dim);
        let width = count.next_multiple_of(LANES);
        for (list, len) in [
            (&mut self.q, dim * width),
            (&mut self.g, dim * width),
            (&mut self.p, KEYS * width),
            (&mut self.ds, KEYS * width),
            (&mut self.lse, width),
            (&mut self.delta, width),
        ] {
            list.clear();
            list.resize(len, 0.0);
        }
        debug_assert!(count <= QUERIES);
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in block.rows.clone().enumerate() {
                    // SAFETY: the caller's promise.
                    let [q, o, g] = [&block.q, &block.o, &block.g]
                        .map(|rows| unsafe { std::slice::from_raw_parts(rows.row(row).cast_const(), dim) });
                    for c in 0..dim {
                        self.q[c * width + i] = q[c];
                        self.g[c * width + i] = g[c];
                    }
                    self.delta[i] = super::math::sum_pairs(o, g, |o, g| o * g);
                    // SAFETY: as above.
                    self.lse[i] = unsafe { *block.lse.add(row) };
                }
            },
        );
    }

    /// Takes in one tile of keys; the queries' gradients are added to where `add`.
    ///
    /// # Safety
    /// As for [`backward`].
    unsafe fn tile(
        &mut self,
        block: &Queries,
        segment: &Keys<'_>,
        rows: Range<usize>,
        bias: Option<&[f32]>,
        add: bool,
    ) {
        let (count, dim, keys) = (block.rows.len(), block.dim, rows.len());
        let width = self.lse.len();
        let scale = 1.0 / (dim as f32).sqrt();
        let row = |rows: &Rows, at: usize| (rows.row(at), rows.stride);
        let ((k, k_stride), (v, v_stride)) = (row(&segment.k, rows.start), row(&segment.v, rows.start));
        let ((dk, dk_stride), (dv, dv_stride)) = (row(&segment.dk, rows.start), row(&segment.dv, rows.start));
        let ((q, q_stride), (g, g_stride)) = (row(&block.q, block.rows.start), row(&block.g, block.rows.start));
        let (dq, dq_stride) = row(&block.dq, block.rows.start);
        let (p, ds) = (self.p.as_mut_ptr(), self.ds.as_mut_ptr());
        // SAFETY: `p` and `ds` are [keys, width], `q` and `g` of the scratch are [dim, width]; the caller's promise.
        unsafe {
            let sizes = [keys, width, dim];
            multiply(sizes, (p, width, 1), (k, k_stride, 1), (self.q.as_ptr(), width, 1), scale, false);
            multiply(sizes, (ds, width, 1), (v, v_stride, 1), (self.g.as_ptr(), width, 1), 1.0, false);
        }
        self.scores(keys, bias, scale);
        // SAFETY: as above.
        unsafe {
            let sizes = [keys, dim, count];
            multiply(sizes, (dv, dv_stride, 1), (p, width, 1), (g, g_stride, 1), 1.0, true);
            multiply(sizes, (dk, dk_stride, 1), (ds, width, 1), (q, q_stride, 1), 1.0, true);
            let sizes = [count, dim, keys];
            multiply(sizes, (dq, dq_stride, 1), (ds, 1, width), (k, k_stride, 1), 1.0, add);
        }
    }

    /// Turns the tile's scores into probabilities, and their gradients into those of the scores before scaling.
    fn scores(&mut self, keys: usize, bias: Option<&[f32]>, scale: f32) {
        let width = self.lse.len();
        let rows = self.p.chunks_exact_mut(width).zip(self.ds.chunks_exact_mut(width)).take(keys);
        vectorised(
            #[inline(always)]
            || {
                for (i, (p, ds)) in rows.enumerate() {
                    let bias = bias.map_or(0.0, |bias| bias[i]);
                    for (((p, ds), lse), delta) in p.iter_mut().zip(ds).zip(&self.lse).zip(&self.delta) {
                        *p = exp(*p + bias - lse);
                        *ds = *p * (*ds - delta) * scale;
                    }
                }
            },
        );
    }
}
