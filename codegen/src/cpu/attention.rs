//! Attention and CCA's partitioned attention on the CPU.
//!
//! Both cut their work into tasks of one head and one block of queries ([`super::attention_tile`]) and run them on the
//! current thread pool. Keys and values are read in place, whatever their strides. The same bytes come out for any
//! number of threads.

use std::ops::Range;

use ccl_ir::Operator;
use ccl_ir::ops::{Attention, MergeAttention, PartitionedContextAttention, part_of_keys};
use ccl_ir::partition::Group;
use rayon::prelude::*;

use super::KernelError;
use super::attention_tile::{Block, QUERIES, Segment, attend, nothing};
use super::view::View;

/// Softmax attention per head; operands as [`Attention`] says, `q`, `k` and `v` with packed channels and any other
/// strides, masks and outputs dense.
///
/// # Errors
/// [`KernelError::BadValue`] when the number of keys given at run time is not from 1 to all;
/// [`KernelError::Unsupported`] for channels that are not packed.
///
/// # Safety
/// The views fit the operator, their memory is valid, and nobody else writes inputs or touches outputs meanwhile.
pub unsafe fn attention(op: &Attention, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<(), KernelError> {
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    [q, k, v].iter().try_for_each(|view| check(Attention::NAME, view))?;
    let r = q.ty.rank();
    let (rows, keys) = (q.shape()[r - 3], k.shape()[r - 3]);
    let mut count = keys;
    if op.counted {
        // SAFETY: the operator's last input is an i32 scalar.
        let n = unsafe { *inputs[inputs.len() - 1].ptr.cast::<i32>() };
        count = usize::try_from(n).ok().filter(|n| (1..=keys).contains(n)).ok_or_else(|| KernelError::BadValue {
            op: Attention::NAME,
            reason: format!("is told to use {n} keys, it takes from 1 to {keys}"),
        })?;
    }
    // SAFETY: masks are dense f32.
    let mask = op.masked.then(|| unsafe { inputs[3].f32s() });
    let blocks = blocks(0..rows);
    // The blocks of a head read the same keys.
    for_each_task(&q, blocks.len(), false, |batch, head, index| {
        let (keys_at, values_at) = (Rows::new(&k, batch, head), Rows::new(&v, batch, head));
        let bias = mask.map(|mask| {
            let start = batch * keys % mask.len();
            &mask[start..start + count]
        });
        let segment = keys_at.segment(&values_at, 0..count, bias);
        // SAFETY: the caller's promise; every task has its own rows of the outputs.
        unsafe { attend(&block(&q, outputs[0].ptr, outputs[1].ptr, batch, head, &blocks[index]), &[segment]) };
    });
    Ok(())
}

/// Attention over the context tokens and a group's keys; operands as [`PartitionedContextAttention`] says, inputs with
/// packed channels and any other strides, outputs dense.
///
/// # Errors
/// [`KernelError::Unsupported`] for channels that are not packed.
///
/// # Safety
/// As for [`attention`].
pub unsafe fn partitioned(
    op: &PartitionedContextAttention,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
) -> Result<(), KernelError> {
    inputs.iter().try_for_each(|view| check(PartitionedContextAttention::NAME, view))?;
    let (q, k, v, ck, cv) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
    let context = ck.shape()[0];
    let groups: Vec<_> = op.partition.groups().into_iter().map(|group| (bias(&group), group)).collect();
    let parts = |(_, group): &(Option<Vec<f32>>, Group)| {
        let keys = context + group.keys.len();
        (0..op.splits).map(move |s| (s, part_of_keys(keys, s, op.splits))).collect::<Vec<_>>()
    };
    let mut tasks = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        for (split, keys) in parts(group) {
            tasks.extend(blocks(group.1.queries.clone()).into_iter().map(|part| (i, split, keys.clone(), part)));
        }
    }
    let one = |view: &View<'_>| view.elements() / op.splits * size_of::<f32>();
    let sizes = [one(&outputs[0]), one(&outputs[1])];
    // Groups read different keys, and heads of a key are neighbours in memory: they share pages and are prefetched.
    for_each_task(&q, tasks.len(), true, |batch, head, index| {
        let (group, split, keys, queries) = &tasks[index];
        let (bias, group) = &groups[*group];
        let (from_context, from_window) = (keys.start.min(context)..keys.end.min(context), window_part(keys, context));
        let tokens = Rows::new(&ck, 0, head).segment(&Rows::new(&cv, 0, head), from_context, None);
        let (keys_at, values_at) = (Rows::new(&k, batch, head), Rows::new(&v, batch, head));
        let bias = bias.as_deref().map(|b| &b[from_window.clone()]);
        let window = group.keys.start + from_window.start..group.keys.start + from_window.end;
        let window = keys_at.segment(&values_at, window, bias);
        // The outputs of this split, without their leading dimension.
        let skip = |i: usize| outputs[i].ptr.wrapping_add(split * sizes[i]);
        let block = block(&q, skip(0), skip(1), batch, head, queries);
        // SAFETY: the caller's promise; every task has its own rows of the outputs.
        unsafe { if keys.is_empty() { nothing(&block) } else { attend(&block, &[tokens, window]) } }
    });
    Ok(())
}

/// Puts partial results together; operands as [`MergeAttention`] says, all dense `f32`.
///
/// # Safety
/// As for [`attention`].
pub unsafe fn merge(_: &MergeAttention, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let &[parts, _, length, heads, dim] = inputs[0].shape() else { return };
    // SAFETY: the caller's promise, and no other task has these slices.
    let (o, l, out, lse) =
        unsafe { (inputs[0].f32s(), inputs[1].f32s(), outputs[0].f32s_mut(), outputs[1].f32s_mut()) };
    let (rows, all) = (lse.len(), out.len());
    // Position in the log-sum-exp `[B, H, L]` of row `[b, i, head]` of the result `[B, L, H, D]`.
    let place = |row: usize| {
        let (b, i, head) = (row / (length * heads), row / heads % length, row % heads);
        (b * heads + head) * length + i
    };
    lse.par_iter_mut().enumerate().for_each(|(at, lse)| {
        let max = (0..parts).map(|s| l[s * rows + at]).fold(f32::NEG_INFINITY, f32::max);
        *lse = max + (0..parts).map(|s| (l[s * rows + at] - max).exp()).sum::<f32>().ln();
    });
    out.par_chunks_exact_mut(dim).enumerate().for_each(|(row, out)| {
        out.fill(0.0);
        for s in 0..parts {
            let weight = (l[s * rows + place(row)] - lse[place(row)]).exp();
            for (out, o) in out.iter_mut().zip(&o[s * all + row * dim..]) {
                *out += weight * o;
            }
        }
    });
}

/// The part of a run of keys that lies behind the context tokens, counted from the window's first key.
fn window_part(keys: &Range<usize>, context: usize) -> Range<usize> {
    keys.start.max(context) - context..keys.end.max(context) - context
}

/// The term of each key's scores where a key counts more than once: `ln n` for `n` times.
fn bias(group: &Group) -> Option<Vec<f32>> {
    if group.first + group.last <= 2 {
        return None;
    }
    let mut times = vec![1; group.keys.len()];
    // The first key and the last may be the same.
    if let Some(n) = times.first_mut() {
        *n += group.first - 1;
    }
    if let Some(n) = times.last_mut() {
        *n += group.last - 1;
    }
    Some(times.into_iter().map(|n| (n as f64).ln() as f32).collect())
}

/// Refuses what the kernels cannot read.
pub(super) fn check(op: &'static str, view: &View<'_>) -> Result<(), KernelError> {
    let last = view.ty.rank() - 1;
    if view.shape()[last] > 1 && view.stride(last) != 1 {
        let reason = format!("over {} with channels {} apart: copy it first", view.ty, view.stride(last));
        return Err(KernelError::Unsupported { op, reason });
    }
    Ok(())
}

/// Cuts queries into blocks that a task takes.
fn blocks(queries: Range<usize>) -> Vec<Range<usize>> {
    let end = queries.end;
    queries.step_by(QUERIES).map(|start| start..end.min(start + QUERIES)).collect()
}

/// Calls `task(batch, head, index)` for all batches and heads of `q [..., L, H, D]` and `index < tasks`, in parallel.
/// Tasks that run one after the other should share memory: with `heads_last` they differ in the head first, otherwise
/// in the index.
fn for_each_task(q: &View<'_>, tasks: usize, heads_last: bool, task: impl Fn(usize, usize, usize) + Sync) {
    let r = q.ty.rank();
    let heads = q.shape()[r - 2];
    let batches: usize = q.shape()[..r - 3].iter().product();
    (0..batches * heads * tasks).into_par_iter().for_each(|i| {
        let (batch, i) = (i / (heads * tasks), i % (heads * tasks));
        if heads_last { task(batch, i % heads, i / heads) } else { task(batch, i / tasks, i % tasks) }
    });
}

/// The rows of one batch and head of a view `[..., L, H, D]`.
struct Rows {
    ptr: *mut f32,
    stride: usize,
}

impl Rows {
    fn new(view: &View<'_>, mut batch: usize, head: usize) -> Self {
        let r = view.ty.rank();
        let mut offset = head * view.stride(r - 2);
        for axis in (0..r - 3).rev() {
            offset += batch % view.shape()[axis] * view.stride(axis);
            batch /= view.shape()[axis];
        }
        Self { ptr: view.ptr.cast::<f32>().wrapping_add(offset), stride: view.stride(r - 3) }
    }

    fn row(&self, index: usize) -> *mut f32 {
        self.ptr.wrapping_add(index * self.stride)
    }

    /// Some of these keys with their values.
    fn segment<'a>(&self, values: &Rows, keys: Range<usize>, bias: Option<&'a [f32]>) -> Segment<'a> {
        Segment {
            k: self.row(keys.start),
            k_stride: self.stride,
            v: values.row(keys.start),
            v_stride: values.stride,
            rows: keys.len(),
            bias,
        }
    }
}

/// A block of queries with its part of the outputs: dense `[.., L, H, D]` at `out` and `[.., H, L]` at `lse`.
fn block(q: &View<'_>, out: *mut u8, lse: *mut u8, batch: usize, head: usize, queries: &Range<usize>) -> Block {
    let r = q.ty.rank();
    let (length, heads, dim) = (q.shape()[r - 3], q.shape()[r - 2], q.ty.last());
    let from = Rows::new(q, batch, head);
    Block {
        q: from.row(queries.start),
        q_stride: from.stride,
        queries: queries.len(),
        dim,
        out: out.cast::<f32>().wrapping_add(((batch * length + queries.start) * heads + head) * dim),
        out_stride: heads * dim,
        lse: lse.cast::<f32>().wrapping_add((batch * heads + head) * length + queries.start),
    }
}
