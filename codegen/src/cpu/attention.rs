//! Attention and CCA's partitioned attention on the CPU.
//!
//! Both cut their work into tasks of one head and one block of queries ([`super::attention_tile`]) and run them on the
//! current thread pool. Keys and values are read in place, whatever their strides. The same bytes come out for any
//! number of threads.

use std::ops::Range;

use ccl_ir::Operator;
use ccl_ir::ops::{Attention, PartitionedContextAttention};
use ccl_ir::partition::Group;
use rayon::prelude::*;

use super::KernelError;
use super::attention_tile::{Block, QUERIES, Segment, attend};
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
        unsafe { attend(&block(&q, outputs, batch, head, &blocks[index]), &[segment]) };
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
    let tasks: Vec<_> = groups
        .iter()
        .flat_map(|(bias, group)| blocks(group.queries.clone()).into_iter().map(move |part| (group, bias, part)))
        .collect();
    // Groups read different keys, and heads of a key are neighbours in memory: they share pages and are prefetched.
    for_each_task(&q, tasks.len(), true, |batch, head, index| {
        let (group, bias, queries) = &tasks[index];
        let context = Rows::new(&ck, 0, head).segment(&Rows::new(&cv, 0, head), 0..context, None);
        let (keys_at, values_at) = (Rows::new(&k, batch, head), Rows::new(&v, batch, head));
        let window = keys_at.segment(&values_at, group.keys.clone(), bias.as_deref());
        // SAFETY: the caller's promise; every task has its own rows of the outputs.
        unsafe { attend(&block(&q, outputs, batch, head, queries), &[context, window]) };
    });
    Ok(())
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
fn check(op: &'static str, view: &View<'_>) -> Result<(), KernelError> {
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

/// A block of queries with its part of the outputs.
fn block(q: &View<'_>, outputs: &[View<'_>], batch: usize, head: usize, queries: &Range<usize>) -> Block {
    let r = q.ty.rank();
    let (length, heads) = (q.shape()[r - 3], q.shape()[r - 2]);
    let (from, to) = (Rows::new(q, batch, head), Rows::new(&outputs[0], batch, head));
    let lse = (batch * heads + head) * length + queries.start;
    Block {
        q: from.row(queries.start),
        q_stride: from.stride,
        queries: queries.len(),
        dim: q.ty.last(),
        out: to.row(queries.start),
        out_stride: to.stride,
        lse: outputs[1].ptr.cast::<f32>().wrapping_add(lse),
    }
}
