//! Products of a few rows with a weight: bound by reading the weight, which dot products do in order.

use super::math::vectorised;
use super::product::DEPTH;
use super::weight::Weight;

/// Most rows for which dot products beat a matrix product that first transposes the weight.
pub(super) const SKINNY: usize = 8;

/// Rows that share one pass over a part of the weight's row.
const GROUP: usize = 4;

/// Partial sums side by side.
const LANES: usize = 16;

/// Dot products of row `column` of the weight with every row of `x`, at most [`SKINNY`], into the first `sums`.
///
/// # Safety
/// The weight's memory is valid and nobody writes it.
pub(super) unsafe fn dots(weight: &Weight, column: usize, x: &[&[f32]], sums: &mut [f32; SKINNY]) {
    sums.fill(0.0);
    for start in (0..weight.k).step_by(DEPTH) {
        let len = DEPTH.min(weight.k - start);
        let add = |w: &[f32]| {
            vectorised(
                #[inline(always)]
                || {
                    let (groups, single) = x.as_chunks::<GROUP>();
                    let (sums, rest) = sums.split_at_mut(groups.len() * GROUP);
                    for (x, sums) in groups.iter().zip(sums.as_chunks_mut::<GROUP>().0) {
                        let part = group_dots(w, x.map(|row| &row[start..start + len]));
                        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                    for (row, sum) in single.iter().zip(rest) {
                        *sum += group_dots(w, [&row[start..start + len]])[0];
                    }
                },
            );
        };
        // SAFETY: the caller's promise.
        unsafe { weight.row(column, start, len, add) };
    }
}

/// Dot products of `w` with each of a group of rows of its length.
#[inline(always)]
fn group_dots<const ROWS: usize>(w: &[f32], x: [&[f32]; ROWS]) -> [f32; ROWS] {
    // Only constant indices into the sums, so that they stay in registers.
    let mut lanes = [[0.0f32; LANES]; ROWS];
    let (blocks, tail) = w.as_chunks::<LANES>();
    let x_blocks = x.map(|x| &x.as_chunks::<LANES>().0[..blocks.len()]);
    for (i, w) in blocks.iter().enumerate() {
        for g in 0..ROWS {
            add_product(&mut lanes[g], w, &x_blocks[g][i]);
        }
    }
    let (rest, whole) = (padded(tail), w.len() - tail.len());
    for g in 0..ROWS {
        add_product(&mut lanes[g], &rest, &padded(&x[g][whole..]));
    }
    lanes.map(|mut lanes| {
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    })
}

#[inline(always)]
fn add_product(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for i in 0..LANES {
        sums[i] = a[i].mul_add(b[i], sums[i]);
    }
}

/// A few numbers, then zeros.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; LANES] {
    let mut block = [0.0; LANES];
    block[..x.len()].copy_from_slice(x);
    block
}
