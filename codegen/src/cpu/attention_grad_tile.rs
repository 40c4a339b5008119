//! One task of attention's gradient: a block of queries of one head against a list of key segments.
//!
//! As in [`super::attention_tile`], scores are `[keys, queries]`, queries side by side: probabilities and the gradients of the
//! scores of a tile of keys are made in cache and used at once. The order of arithmetic depends on the shapes only.

use std::cell::RefCell;
use std::ops::Range;

use super::attention::Rows;
use super::attention_tile::{FEW, QUERIES};
use super::math::{exp, sum_pairs, vectorised};
use super::micro::{LANES, Left, Onto, Panels, Target, pack, pack_transposed, panels_len, product};

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

/// Whether queries, their gradients and keys are multiplied where they lie: channels need no padding, and queries are few.
fn in_place(queries: usize, dim: usize) -> bool {
    dim.is_multiple_of(LANES) && queries <= FEW
}

/// What a task needs besides its operands; one per thread, reused. Widths are numbers of queries, padded.
#[derive(Default)]
struct Scratch {
    /// Queries and gradients of the results, in panels.
    q: Vec<f32>,
    g: Vec<f32>,
    /// The same transposed: panels of queries.
    q_transposed: Vec<f32>,
    g_transposed: Vec<f32>,
    /// Keys of a tile in panels.
    k: Vec<f32>,
    /// Probabilities as `[keys, step]`.
    p: Vec<f32>,
    /// Gradients of the scores as `[keys, step]`.
    ds: Vec<f32>,
    /// Distance of the rows of `p` and `ds`: an odd number of cache lines, so that columns do not share cache sets.
    step: usize,
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
        debug_assert!(count <= QUERIES);
        let width = count.next_multiple_of(LANES);
        self.step = (width / LANES | 1) * LANES;
        for (list, len) in [
            (&mut self.q, panels_len(count, dim)),
            (&mut self.g, panels_len(count, dim)),
            (&mut self.q_transposed, panels_len(dim, count)),
            (&mut self.g_transposed, panels_len(dim, count)),
            (&mut self.k, panels_len(KEYS, dim)),
            (&mut self.p, KEYS * self.step),
            (&mut self.ds, KEYS * self.step),
            (&mut self.lse, width),
            (&mut self.delta, width),
        ] {
            list.resize(len, 0.0);
        }
        let first = block.rows.start;
        let row = |rows: Rows| move |i: usize| rows.row(first + i).cast_const();
        // SAFETY: the caller's promise.
        unsafe {
            if !in_place(count, dim) {
                pack(row(block.q), count, dim, &mut self.q);
                pack(row(block.g), count, dim, &mut self.g);
            }
            pack_transposed(row(block.q), count, dim, &mut self.q_transposed);
            pack_transposed(row(block.g), count, dim, &mut self.g_transposed);
        }
        self.lse[count..].fill(0.0);
        self.delta[count..].fill(0.0);
        vectorised(
            #[inline(always)]
            || {
                for i in 0..count {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let [o, g] = [block.o, block.g].map(|rows| std::slice::from_raw_parts(row(rows)(i), dim));
                        self.delta[i] = sum_pairs(o, g, |o, g| o * g);
                        self.lse[i] = *block.lse.add(first + i);
                    }
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
        let (count, dim, keys, step) = (block.rows.len(), block.dim, rows.len(), self.step);
        let width = self.lse.len();
        let scale = 1.0 / (dim as f32).sqrt();
        let left = |of: Rows| Left { ptr: of.row(rows.start).cast_const(), row: of.stride, column: 1 };
        let target = |of: Rows, row: usize| Target { ptr: of.row(row), row: of.stride };
        let (p, ds) = (self.p.as_mut_ptr(), self.ds.as_mut_ptr());
        // SAFETY: `p` and `ds` are [keys, step]; the caller's promise.
        unsafe {
            let sizes = [keys, width, dim];
            let [q, g] = [&self.q_transposed, &self.g_transposed].map(|data| Panels::packed(data, dim));
            product(sizes, left(segment.k), q, Target { ptr: p, row: step }, scale, Onto::Nothing);
            product(sizes, left(segment.v), g, Target { ptr: ds, row: step }, 1.0, Onto::Nothing);
        }
        self.scores(keys, bias, scale);
        // SAFETY: as above.
        unsafe {
            let [p, ds] = [p, ds].map(|of| Left { ptr: of.cast_const(), row: step, column: 1 });
            let sizes = [keys, dim, count];
            let in_place = in_place(count, dim);
            let [q, g] = [(&self.q, block.q), (&self.g, block.g)].map(|(data, of)| match in_place {
                true => Panels::in_place(of.row(block.rows.start), of.stride),
                false => Panels::packed(data, count),
            });
            product(sizes, p, g, target(segment.dv, rows.start), 1.0, Onto::Result);
            product(sizes, ds, q, target(segment.dk, rows.start), 1.0, Onto::Result);
            let ds = Left { row: 1, column: step, ..ds };
            let k = if in_place {
                Panels::in_place(segment.k.row(rows.start), segment.k.stride)
            } else {
                pack(|i| segment.k.row(rows.start + i).cast_const(), keys, dim, &mut self.k);
                Panels::packed(&self.k, keys)
            };
            product([count, dim, keys], ds, k, target(block.dq, block.rows.start), 1.0, Onto::result(add));
        }
    }

    /// Turns the tile's scores into probabilities, and their gradients into those of the scores before scaling.
    fn scores(&mut self, keys: usize, bias: Option<&[f32]>, scale: f32) {
        let rows = self.p.chunks_exact_mut(self.step).zip(self.ds.chunks_exact_mut(self.step)).take(keys);
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
