//! One task of attention: a block of queries of one head against a list of key segments.
//!
//! Flash-style: tiles of keys are scored, softmaxed online and multiplied with their values while everything is in
//! cache. Scores are kept as `[keys, queries]`, queries side by side, so that maximum, exponential and sum of many
//! queries run in vector lanes without sideways sums. The order of arithmetic depends on the shapes only.

use std::cell::RefCell;

use super::micro::{self, Left, Onto, Panels, Target, pack, pack_transposed, panels_len, product};
use super::simd::vectorised;
use super::softmax_math::{LANES, Running, scale};

/// Most queries of a task.
pub(super) const QUERIES: usize = 192;
/// Queries so few that packing a tile's values costs more than it saves.
pub(super) const FEW: usize = 16;
/// Most keys of a tile: with [`QUERIES`] a tile of scores is 144 KiB, as are keys and values of 192 channels.
const KEYS: usize = 192;

/// Keys and values of one head, one row per key, both with packed channels.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    /// First key.
    pub k: *const f32,
    /// Distance of keys in elements.
    pub k_stride: usize,
    /// First value.
    pub v: *const f32,
    /// Distance of values in elements.
    pub v_stride: usize,
    /// Number of keys.
    pub rows: usize,
    /// A term for each key's scores, if any.
    pub bias: Option<&'a [f32]>,
}

impl<'a> Segment<'a> {
    /// `count` keys from `start` on.
    fn part(&self, start: usize, count: usize) -> Segment<'a> {
        Segment {
            k: self.k.wrapping_add(start * self.k_stride),
            v: self.v.wrapping_add(start * self.v_stride),
            rows: count,
            bias: self.bias.map(|bias| &bias[start..start + count]),
            ..*self
        }
    }
}

/// The queries of a task and where their results go.
pub(super) struct Block {
    /// First query, packed channels.
    pub q: *const f32,
    /// Distance of queries in elements.
    pub q_stride: usize,
    /// Number of queries, at most [`QUERIES`].
    pub queries: usize,
    /// Channels.
    pub dim: usize,
    /// First row of the result, packed channels.
    pub out: *mut f32,
    /// Distance of rows of the result in elements.
    pub out_stride: usize,
    /// The log-sum-exp of the first query; those of the others follow.
    pub lse: *mut f32,
}

/// What a task needs besides its operands; one per thread, reused.
#[derive(Default)]
struct Scratch {
    /// Queries, transposed, in panels.
    q: Vec<f32>,
    /// Values of a tile in panels.
    v: Vec<f32>,
    /// Scores, then weights, as `[keys, width]`.
    scores: Vec<f32>,
    /// Unnormalised result `[queries, dim]`.
    acc: Vec<f32>,
    running: Running,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attends the block's queries to the keys of all segments.
///
/// # Safety
/// The pointers are valid for the sizes and strides given, and nobody else touches the block's results meanwhile.
pub(super) unsafe fn attend(block: &Block, segments: &[Segment<'_>]) {
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the caller's promise.
        unsafe { scratch.start(block) };
        let mut tile = Vec::with_capacity(segments.len());
        let (mut filled, mut first) = (0, true);
        for segment in segments {
            let mut at = 0;
            while at < segment.rows {
                let count = (segment.rows - at).min(KEYS - filled);
                tile.push(segment.part(at, count));
                at += count;
                filled += count;
                if filled == KEYS {
                    // SAFETY: the caller's promise; parts stay inside their segments.
                    unsafe { scratch.tile(block, &tile, filled, first) };
                    tile.clear();
                    (filled, first) = (0, false);
                }
            }
        }
        if filled > 0 {
            // SAFETY: as above.
            unsafe { scratch.tile(block, &tile, filled, first) };
        }
        // SAFETY: the caller's promise.
        unsafe { scratch.finish(block) };
    });
}

/// The result of attention over no keys: zeros, and a log-sum-exp that merging passes over.
///
/// # Safety
/// As for [`attend`].
pub(super) unsafe fn nothing(block: &Block) {
    for i in 0..block.queries {
        // SAFETY: the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(block.out.add(i * block.out_stride), block.dim).fill(0.0);
            *block.lse.add(i) = ccl_ir::ops::NO_KEYS as f32;
        }
    }
}

impl Scratch {
    /// Lays the queries out for the block.
    ///
    /// # Safety
    /// As for [`attend`].
    unsafe fn start(&mut self, block: &Block) {
        let width = block.queries.next_multiple_of(LANES);
        self.running.reset(width);
        self.acc.resize(block.queries * block.dim, 0.0);
        self.q.resize(panels_len(block.dim, block.queries), 0.0);
        self.v.resize(panels_len(KEYS, block.dim), 0.0);
        self.scores.resize(KEYS * width, 0.0);
        let row = |i| block.q.wrapping_add(i * block.q_stride);
        // SAFETY: the caller's promise.
        unsafe { pack_transposed(row, block.queries, block.dim, &mut self.q) };
    }

    /// Takes in one tile of `keys` keys. `first` says that `acc` holds nothing yet.
    ///
    /// # Safety
    /// As for [`attend`].
    unsafe fn tile(&mut self, block: &Block, tile: &[Segment<'_>], keys: usize, first: bool) {
        let Block { queries, dim, .. } = *block;
        let width = self.running.max.len();
        let factor = 1.0 / (dim as f32).sqrt();
        let mut scores = &mut self.scores[..keys * width];
        for part in tile {
            let (mine, rest) = std::mem::take(&mut scores).split_at_mut(part.rows * width);
            scores = rest;
            let (k, to) = (Left { ptr: part.k, row: part.k_stride, column: 1 }, mine.as_mut_ptr());
            let q = Panels::packed(&self.q, dim);
            // SAFETY: `mine` is [rows, width]; the caller's promise.
            unsafe { product([part.rows, width, dim], k, q, Target { ptr: to, row: width }, factor, Onto::Nothing) };
            for (row, &bias) in mine.chunks_exact_mut(width).zip(part.bias.unwrap_or_default()) {
                if bias != 0.0 {
                    row.iter_mut().for_each(|s| *s += bias);
                }
            }
        }
        let scores = &mut self.scores[..keys * width];
        self.running.step(scores);
        if !first {
            for (row, &keep) in self.acc.chunks_exact_mut(dim).zip(&self.running.keep) {
                if keep != 1.0 {
                    scale(row, keep);
                }
            }
        }
        let mut start = 0;
        for (i, part) in tile.iter().enumerate() {
            let weights = Left { ptr: scores[start..].as_ptr(), row: 1, column: width };
            let to = Target { ptr: self.acc.as_mut_ptr(), row: dim };
            // SAFETY: `acc` is [queries, dim], the weights are [rows, width]; the caller's promise.
            unsafe {
                let v = if dim.is_multiple_of(micro::LANES) && queries <= FEW {
                    Panels::in_place(part.v, part.v_stride)
                } else {
                    pack(|j| part.v.wrapping_add(j * part.v_stride), part.rows, dim, &mut self.v);
                    Panels::packed(&self.v, part.rows)
                };
                product([queries, dim, part.rows], weights, v, to, 1.0, Onto::result(!first || i > 0));
            }
            start += part.rows * width;
        }
    }

    /// Writes the results.
    ///
    /// # Safety
    /// As for [`attend`].
    unsafe fn finish(&mut self, block: &Block) {
        for (i, row) in self.acc.chunks_exact(block.dim).enumerate() {
            let (max, sum) = (self.running.max[i], self.running.sum[i]);
            // SAFETY: row `i` of the result and its log-sum-exp belong to this task alone.
            let out = unsafe {
                *block.lse.add(i) = max + sum.ln();
                std::slice::from_raw_parts_mut(block.out.add(i * block.out_stride), block.dim)
            };
            let factor = 1.0 / sum;
            vectorised(
                #[inline(always)]
                || {
                    for (o, x) in out.iter_mut().zip(row) {
                        *o = x * factor;
                    }
                },
            );
        }
    }
}
