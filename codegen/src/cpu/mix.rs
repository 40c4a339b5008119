//! CCA's attention in two halves on the CPU: weights of context and window keys, and their product with the window's values.
//!
//! Tasks are blocks of queries of one group, so that keys and values are read in place and the results of a task are one run.

use std::cell::RefCell;
use std::ops::Range;

use ccl_ir::Operator;
use ccl_ir::ops::{ContextProbabilities, WindowMix};
use ccl_ir::partition::Group;

use super::KernelError;
use super::attention::check;
use super::math::{exp, max, sum, vectorised};
use super::micro::{Left, Target};
use super::mix_grad::joined;
use super::parallel::{Shared, tasks};
use super::product::{Blocks, Matrix, multiply};
use super::view::View;

/// Queries of a task.
const QUERIES: usize = 64;

thread_local! {
    /// Scores of a task's queries for one head.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// See [`ContextProbabilities`]; inputs with packed channels and any other strides.
///
/// # Errors
/// [`KernelError::Unsupported`] for channels that are not packed.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn probabilities(
    op: &ContextProbabilities,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
) -> Result<(), KernelError> {
    inputs.iter().try_for_each(|view| check(ContextProbabilities::NAME, view))?;
    let (q, ck, out) = (inputs[0], inputs[1], outputs[0]);
    let &[batch, lq, heads, dim] = q.shape() else { return Ok(()) };
    let (n, width) = (ck.shape()[0], out.shape()[2]);
    let groups = match &op.partition {
        Some(p) => p.groups(),
        None => vec![Group { queries: 0..lq, keys: 0..0, first: 1, last: 1 }],
    };
    let parts: Vec<(&Group, Range<usize>)> = groups.iter().flat_map(|g| blocks(g)).collect();
    let terms: Vec<Vec<f32>> = groups
        .iter()
        .map(|g| (0..g.keys.len()).map(|j| (g.times(g.keys.start + j) as f64).ln() as f32).collect())
        .collect();
    let scale = 1.0 / (dim as f32).sqrt();
    let from = |view: &View<'_>| Shared(view.ptr.cast::<f32>());
    let (q_data, ck_data, to) = (from(&q), from(&ck), from(&out));
    let k = inputs.get(2).copied();
    tasks(batch * parts.len(), usize::MAX, |task| {
        let (b, (group, queries)) = (task / parts.len(), &parts[task % parts.len()]);
        let term = groups.iter().position(|g| g == *group).map_or(&[][..], |g| &terms[g]);
        let (rows, seen) = (queries.len(), group.keys.len());
        let keys = n + seen;
        // SAFETY: every task has its own queries of the output.
        let result = unsafe { to.slice_mut((b * lq + queries.start) * width * heads, rows * width * heads) };
        result.fill(0.0);
        SCORES.with_borrow_mut(|scores| {
            scores.resize(rows * keys, 0.0);
            for head in 0..heads {
                let mut part = |first: usize| Target { ptr: scores.as_mut_ptr().wrapping_add(first), row: keys };
                let (context, window) = (part(0), part(n));
                // SAFETY: the caller's promise; scores are this thread's.
                unsafe {
                    let at = b * q.stride(0) + queries.start * q.stride(1) + head * q.stride(2);
                    let a = Left { ptr: q_data.at(at), row: q.stride(1), column: 1 };
                    let c = Matrix { ptr: ck_data.at(head * ck.stride(1)), row: 1, column: ck.stride(0) };
                    multiply([rows, n, dim], context, a, c, false);
                    if let Some(k) = k.filter(|_| seen > 0) {
                        let at = b * k.stride(0) + group.keys.start * k.stride(1) + head * k.stride(2);
                        let k = Matrix { ptr: from(&k).at(at), row: 1, column: k.stride(1) };
                        multiply([rows, seen, dim], window, a, k, false);
                    }
                }
                for (row, result) in scores.chunks_exact_mut(keys).zip(result.chunks_exact_mut(width * heads)) {
                    weigh(row, n, term, scale);
                    for (p, to) in row.iter().zip(result[head..].iter_mut().step_by(heads)) {
                        *to = *p;
                    }
                }
            }
        });
    });
    Ok(())
}

/// Turns a row of products into weights; `term` is added to the scores behind the first `n`.
fn weigh(row: &mut [f32], n: usize, term: &[f32], scale: f32) {
    vectorised(
        #[inline(always)]
        || {
            row.iter_mut().for_each(|x| *x *= scale);
            for (x, t) in row[n..].iter_mut().zip(term) {
                *x += t;
            }
            let top = max(row);
            row.iter_mut().for_each(|x| *x = exp(*x - top));
            let total = 1.0 / sum(row, |x| x);
            row.iter_mut().for_each(|x| *x *= total);
        },
    );
}

/// See [`WindowMix`]; weights of any strides, dense values.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn window_mix(op: &WindowMix, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (p, u, out) = (inputs[0], inputs[1], outputs[0]);
    let (&[batch, lq, r, _], &[_, lk, heads, d]) = (p.shape(), u.shape()) else { return };
    let groups = op.partition.groups();
    // One product for each group, or for each group and row of weights where queries and rows have no common stride.
    let joined = joined(&p);
    let mut parts: Vec<(&Group, usize, Blocks)> = Vec::new();
    for g in groups.iter().filter(|g| !g.queries.is_empty()) {
        let rows = if joined { g.queries.len() * r } else { g.queries.len() };
        parts.extend((0..if joined { 1 } else { r }).map(|first| (g, first, Blocks::new(rows, d))));
    }
    let all: Vec<(usize, usize)> =
        parts.iter().enumerate().flat_map(|(i, part)| (0..part.2.count()).map(move |block| (i, block))).collect();
    let (p_data, u_data, to) =
        (Shared(p.ptr.cast::<f32>()), Shared(u.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    let (p_row, out_row) = if !joined {
        (p.stride(1), r * d)
    } else if r == 1 {
        (p.stride(1), d)
    } else {
        (p.stride(2), d)
    };
    tasks(batch * all.len(), usize::MAX, |task| {
        let (b, (part, block)) = (task / all.len(), all[task % all.len()]);
        let (group, first, blocks) = &parts[part];
        let block = blocks.get(block);
        let k = group.keys.len() * heads;
        let p_at = b * p.stride(0) + group.queries.start * p.stride(1) + first * p.stride(2) + block.row * p_row;
        let u_at = (b * lk + group.keys.start) * heads * d + block.column;
        let out_at = (b * lq + group.queries.start) * r * d + first * d + block.row * out_row + block.column;
        // SAFETY: the caller's promise; blocks do not overlap. A product over no keys is zero.
        unsafe {
            let result = Target { ptr: to.at(out_at), row: out_row };
            let weights = Left { ptr: p_data.at(p_at), row: p_row, column: p.stride(3) };
            let values = Matrix { ptr: u_data.at(u_at), row: d, column: 1 };
            if k == 0 {
                (0..block.rows).for_each(|i| to.slice_mut(out_at + i * out_row, block.columns).fill(0.0));
            } else {
                multiply([block.rows, block.columns, k], result, weights, values, false);
            }
        }
    });
}

/// A group's queries in blocks that a task takes.
fn blocks(group: &Group) -> impl Iterator<Item = (&Group, Range<usize>)> {
    let end = group.queries.end;
    group.queries.clone().step_by(QUERIES).map(move |start| (group, start..end.min(start + QUERIES)))
}
