//! What the product of weights with a window's values leaves for its backward pass, on the CPU: products of each query's row with the values
//! that it sees, and weighted rows summed up at the values.
//!
//! A task has blocks of the result: of a group's queries, or of keys, which add up what their queries have in the queries' order.

use ccl_ir::ops::{WindowDots, WindowSpread};
use ccl_ir::partition::Group;

use super::micro::{Left, Target};
use super::parallel::{Shared, tasks};
use super::product::{Blocks, COLUMNS, Matrix, multiply};
use super::view::View;

/// Most rows of a block of keys, heads counted.
const ROWS: usize = 512;

/// See [`WindowDots`]; rows of any strides, dense values.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn window_dots(op: &WindowDots, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (g, u, out) = (inputs[0], inputs[1], outputs[0]);
    let (&[batch, lq, r, d], &[_, lk, heads, _]) = (g.shape(), u.shape()) else { return };
    let (width, groups) = (out.shape()[3], op.partition.groups());
    // As in `window_mix`: one product for each group, or for each group and row.
    let joined = joined(&g);
    let mut parts: Vec<(&Group, usize, Option<Blocks>, usize)> = Vec::new();
    for group in groups.iter().filter(|group| !group.queries.is_empty()) {
        let rows = if joined { group.queries.len() * r } else { group.queries.len() };
        let columns = group.keys.len() * heads;
        let blocks = (columns > 0).then(|| Blocks::new(rows, columns));
        parts.extend((0..if joined { 1 } else { r }).map(|first| (group, first, blocks, rows)));
    }
    let count = |part: &(&Group, usize, Option<Blocks>, usize)| part.2.map_or(1, |blocks| blocks.count());
    let all: Vec<(usize, usize)> =
        parts.iter().enumerate().flat_map(|(i, part)| (0..count(part)).map(move |block| (i, block))).collect();
    let (g_data, u_data, to) =
        (Shared(g.ptr.cast::<f32>()), Shared(u.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    let (g_row, out_row) = match (joined, r) {
        (false, _) => (g.stride(1), r * width),
        (true, 1) => (g.stride(1), width),
        (true, _) => (g.stride(2), width),
    };
    tasks(batch * all.len(), usize::MAX, |task| {
        let (b, (part, block)) = (task / all.len(), all[task % all.len()]);
        let (group, first, blocks, rows) = &parts[part];
        let seen = group.keys.len() * heads;
        let at = (b * lq + group.queries.start) * r * width + first * width;
        // The first block of a group's columns has the place behind a narrower window too.
        let rest = |row: usize| (at + row * out_row + seen, width - seen);
        let Some(blocks) = blocks else {
            // SAFETY: every part has its own rows.
            (0..*rows).for_each(|row| unsafe { to.slice_mut(rest(row).0, rest(row).1) }.fill(0.0));
            return;
        };
        let block = blocks.get(block);
        if block.column == 0 {
            for row in block.row..block.row + block.rows {
                // SAFETY: blocks of one row of blocks have the same rows, and one of them has the first column.
                unsafe { to.slice_mut(rest(row).0, rest(row).1) }.fill(0.0);
            }
        }
        let g_at = b * g.stride(0) + group.queries.start * g.stride(1) + first * g.stride(2) + block.row * g_row;
        let u_at = ((b * lk + group.keys.start) * heads + block.column) * d;
        // SAFETY: the caller's promise; blocks do not overlap.
        unsafe {
            let result = Target { ptr: to.at(at + block.row * out_row + block.column), row: out_row };
            let rows = Left { ptr: g_data.at(g_at), row: g_row, column: g.stride(3) };
            let values = Matrix { ptr: u_data.at(u_at), row: 1, column: d };
            multiply([block.rows, block.columns, d], result, rows, values, false);
        }
    });
}

/// See [`WindowSpread`]; inputs of any strides.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn window_spread(op: &WindowSpread, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (p, g, out) = (inputs[0], inputs[1], outputs[0]);
    let (&[batch, _, r, _], &[_, lk, heads, d]) = (p.shape(), out.shape()) else { return };
    let groups = op.partition.groups();
    // Queries and rows are one depth where both operands have a common stride for them.
    let joined = joined(&p) && joined(&g);
    let (turns, times) = if joined { (1, r) } else { (r, 1) };
    let step = |view: &View<'_>| if joined && r > 1 { view.stride(2) } else { view.stride(1) };
    let (p_step, g_step) = (step(&p), step(&g));
    let (keys, columns) = ((ROWS / heads).max(1), COLUMNS);
    let (blocks, across) = (lk.div_ceil(keys), d.div_ceil(columns));
    let (p_data, g_data, to) =
        (Shared(p.ptr.cast::<f32>()), Shared(g.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    tasks(batch * blocks * across, usize::MAX, |task| {
        let (b, block, column) = (task / (blocks * across), task / across % blocks, task % across * columns);
        let (from, end, columns) = (block * keys, lk.min((block + 1) * keys), columns.min(d - column));
        let place = |key: usize| (b * lk + key) * heads * d + column;
        for row in 0..(end - from) * heads {
            // SAFETY: every task has its own block of the result.
            unsafe { to.slice_mut(place(from) + row * d, columns) }.fill(0.0);
        }
        for group in &groups {
            let seen = group.keys.start.max(from)..group.keys.end.min(end);
            let depth = group.queries.len() * times;
            if seen.is_empty() || depth == 0 {
                continue;
            }
            for turn in 0..turns {
                let row =
                    |view: &View<'_>| b * view.stride(0) + group.queries.start * view.stride(1) + turn * view.stride(2);
                let p_at = row(&p) + (seen.start - group.keys.start) * heads * p.stride(3);
                // SAFETY: as above, and the caller's promise.
                unsafe {
                    let result = Target { ptr: to.at(place(seen.start)), row: d };
                    let weights = Left { ptr: p_data.at(p_at), row: p.stride(3), column: p_step };
                    let rows =
                        Matrix { ptr: g_data.at(row(&g) + column * g.stride(3)), row: g_step, column: g.stride(3) };
                    multiply([seen.len() * heads, columns, depth], result, weights, rows, true);
                }
            }
        }
    });
}

/// Whether queries and rows of a `[B, Lq, R, n]` operand are one run of rows.
pub(super) fn joined(view: &View<'_>) -> bool {
    let r = view.shape()[2];
    r == 1 || view.stride(1) == r * view.stride(2)
}
