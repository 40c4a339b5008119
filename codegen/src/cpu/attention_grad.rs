//! Gradients of attention and of CCA's partitioned attention on the CPU.
//!
//! A task has one batch element and one head: the gradients of its queries, keys and values are its own, so that nothing is
//! shared or locked. The context tokens of the partitioned form are read by every batch element; their gradients are sums
//! of the tasks' parts in the order of the batch.

use ccl_ir::Operator;
use ccl_ir::ops::{AttentionGrad, PartitionedContextAttentionGrad};

use super::KernelError;
use super::attention::{Rows, bias, blocks, check, for_each_task, key_count};
use super::attention_grad_tile::{Keys, Queries, backward};
use super::math::vectorised;
use super::parallel::{Shared, with_sums};
use super::view::View;

/// See [`AttentionGrad`]: the log-sum-exp, masks and outputs are dense, all else has packed channels and any other strides.
///
/// # Errors
/// [`KernelError::BadValue`] when the number of keys given at run time is not from 1 to all;
/// [`KernelError::Unsupported`] for channels that are not packed.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn attention(
    op: &AttentionGrad,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
) -> Result<(), KernelError> {
    inputs[..5].iter().try_for_each(|view| check(AttentionGrad::NAME, view))?;
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    let r = q.ty.rank();
    let (rows, keys) = (q.shape()[r - 3], k.shape()[r - 3]);
    // SAFETY: the caller's promise.
    let count = if op.counted { unsafe { key_count(AttentionGrad::NAME, inputs, keys) }? } else { keys };
    // SAFETY: masks are dense f32.
    let mask = op.masked.then(|| unsafe { inputs[6].f32s() });
    let blocks = blocks(0..rows);
    for_each_task(&q, 1, true, |batch, head, _| {
        let [keys_at, values_at] = [k, v].map(|view| Rows::new(&view, batch, head));
        let [dk, dv] = [1, 2].map(|i| Rows::new(&outputs[i], batch, head));
        let all = Keys {
            k: keys_at,
            v: values_at,
            dk,
            dv,
            rows: 0..count,
            bias: mask.map(|mask| &mask[batch * keys % mask.len()..][..count]),
        };
        // SAFETY: the caller's promise; this batch element and head of the outputs are the task's.
        unsafe {
            all.clear(0..keys, q.ty.last());
            for block in &blocks {
                backward(&queries(inputs, 3, &outputs[0], batch, head, block.clone()), std::slice::from_ref(&all));
            }
        }
    });
    Ok(())
}

/// See [`PartitionedContextAttentionGrad`]: the log-sum-exp and outputs are dense, all else has packed channels and any other
/// strides.
///
/// # Errors
/// [`KernelError::Unsupported`] for channels that are not packed.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn partitioned(
    op: &PartitionedContextAttentionGrad,
    inputs: &[View<'_>],
    outputs: &[View<'_>],
) -> Result<(), KernelError> {
    inputs[..7].iter().try_for_each(|view| check(PartitionedContextAttentionGrad::NAME, view))?;
    let (q, k, v, ck, cv) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
    let (batch, heads, dim, keys, context) = (q.shape()[0], q.shape()[2], q.ty.last(), k.shape()[1], ck.shape()[0]);
    let groups: Vec<_> = op.partition.groups().into_iter().map(|group| (bias(&group), group)).collect();
    // The context's gradients by batch element; the first one's are where the sums go.
    let size = context * heads * dim;
    with_sums(2 * size * batch.saturating_sub(1), |parts| {
        let (parts_at, sums) = (Shared(parts.as_mut_ptr()), [3, 4].map(|i| Shared(outputs[i].ptr.cast::<f32>())));
        for_each_task(&q, 1, true, |batch, head, _| {
            let [dck, dcv] = [0, 1].map(|i| {
                // SAFETY: inside the parts.
                let all =
                    if batch == 0 { sums[i] } else { unsafe { Shared(parts_at.at((2 * (batch - 1) + i) * size)) } };
                Rows { ptr: all.0.wrapping_add(head * dim), stride: heads * dim }
            });
            let [ck, cv] = [ck, cv].map(|view| Rows::new(&view, 0, head));
            let tokens = Keys { k: ck, v: cv, dk: dck, dv: dcv, rows: 0..context, bias: None };
            let [k, v] = [k, v].map(|view| Rows::new(&view, batch, head));
            let [dk, dv] = [1, 2].map(|i| Rows::new(&outputs[i], batch, head));
            let window = Keys { k, v, dk, dv, rows: 0..0, bias: None };
            // SAFETY: the caller's promise; this batch element and head of the outputs and of the parts are the task's.
            unsafe {
                tokens.clear(0..context, dim);
                window.clear(0..keys, dim);
                for (bias, group) in &groups {
                    let segments =
                        [tokens.clone(), Keys { rows: group.keys.clone(), bias: bias.as_deref(), ..window.clone() }];
                    for block in blocks(group.queries.clone()) {
                        backward(&queries(inputs, 5, &outputs[0], batch, head, block), &segments);
                    }
                }
            }
        });
        for (i, sums) in sums.into_iter().enumerate() {
            // SAFETY: the output is dense, and the tasks have ended.
            let sums = unsafe { sums.slice_mut(0, size) };
            if batch == 0 {
                sums.fill(0.0);
            }
            for part in parts.chunks_exact(size.max(1)).skip(i).step_by(2) {
                vectorised(
                    #[inline(always)]
                    || {
                        for (sum, x) in sums.iter_mut().zip(part) {
                            *sum += x;
                        }
                    },
                );
            }
        }
    });
    Ok(())
}

/// A block of queries; `o`, `g` and the log-sum-exp are the inputs from `result` on.
fn queries(
    inputs: &[View<'_>],
    result: usize,
    dq: &View<'_>,
    batch: usize,
    head: usize,
    rows: std::ops::Range<usize>,
) -> Queries {
    let q = &inputs[0];
    let r = q.ty.rank();
    let (length, heads) = (q.shape()[r - 3], q.shape()[r - 2]);
    let [o, g] = [result, result + 1].map(|i| Rows::new(&inputs[i], batch, head));
    let lse = inputs[result + 2].ptr.cast::<f32>().wrapping_add((batch * heads + head) * length);
    Queries { q: Rows::new(q, batch, head), o, g, lse, dq: Rows::new(dq, batch, head), rows, dim: q.ty.last() }
}
