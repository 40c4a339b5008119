//! Gradients of attention beyond the operators' samples: sizes around the tiles, masks, numbers of keys given at run time,
//! CCA's groups, and gradients of what the forward kernels left.

use crate::common::{Layout, Memory, check, check_layouts, inputs, run};
use ccl_codegen::cpu::KernelError;
use ccl_ir::ops::{Attention, AttentionGrad, PartitionedContextAttention, PartitionedContextAttentionGrad};
use ccl_ir::partition::{Edge, Partition};
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Sample, Tensor, TensorType, Tolerance};

/// The gradient of full attention of `q [batch, queries, heads, dim]` over `keys` keys.
fn full(batch: usize, queries: usize, keys: usize, heads: usize, dim: usize) -> Sample<Op> {
    let [q, k] = [queries, keys].map(|length| TensorType::f32([batch, length, heads, dim]));
    let lse = TensorType::f32([batch, heads, queries]);
    let op = AttentionGrad { masked: false, counted: false };
    Sample::new(op.into(), [q.clone(), k.clone(), k, q.clone(), q, lse])
}

/// The gradient of CCA's attention with `context` context tokens.
fn partitioned(partition: Partition, batch: usize, heads: usize, dim: usize, context: usize) -> Sample<Op> {
    let [q, k] = [partition.queries(), partition.keys()].map(|length| TensorType::f32([batch, length, heads, dim]));
    let (c, lse) = (TensorType::f32([context, heads, dim]), TensorType::f32([batch, heads, partition.queries()]));
    let op = PartitionedContextAttentionGrad { partition };
    Sample::new(op.into(), [q.clone(), k.clone(), k, c.clone(), c, q.clone(), q, lse])
}

/// Runs a gradient on given inputs and returns its results with their relative errors.
fn errors(op: &Op, values: &[Memory], types: &[TensorType]) -> Vec<(Memory, f64)> {
    let outputs = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
    let tensors: Vec<Tensor<f64>> =
        types.iter().zip(values).map(|(ty, m)| Tensor::new(ty.shape.clone(), m.values()).unwrap()).collect();
    let want = op.eval(&tensors.iter().collect::<Vec<_>>()).unwrap();
    let got = run(op, values, &outputs, None, 2).unwrap();
    got.into_iter().zip(want).map(|(got, want)| (got.clone(), relative_l2(&got.values(), &want.data))).collect()
}

/// Puts the forward kernel's own result and log-sum-exp behind the first inputs of a gradient, `g` between them.
fn with_forward(forward: &Op, mut values: Vec<Memory>, types: &[TensorType], at: usize) -> Vec<Memory> {
    let operands: Vec<usize> = (0..at).chain(at + 3..types.len()).collect();
    let taken: Vec<&TensorType> = operands.iter().map(|&i| &types[i]).collect();
    let given: Vec<Memory> = operands.iter().map(|&i| values[i].clone()).collect();
    let outputs = run(forward, &given, &forward.infer(&taken).unwrap(), None, 2).unwrap();
    values[at] = outputs[0].clone();
    values[at + 2] = outputs[1].clone();
    values
}

#[test]
fn sizes_around_the_tiles() {
    for (queries, keys, dim) in
        [(1, 1, 1), (1, 129, 3), (8, 128, 12), (16, 300, 24), (127, 256, 16), (129, 127, 8), (257, 134, 20), (5, 6, 17)]
    {
        check(&full(2, queries, keys, 2, dim));
    }
    check(&full(1, 300, 520, 2, 128));
}

#[test]
fn no_queries() {
    check(&full(2, 0, 5, 2, 8));
    check(&full(0, 3, 5, 2, 8));
}

#[test]
fn the_world_of_training() {
    for (heads, keys) in [(4, 128), (3, 128), (4, 4)] {
        check(&full(3, 128, keys, heads, 16));
    }
    let windows = Partition::Windows {
        frames: 16,
        tokens_per_frame: 8,
        length: 128,
        size: 24,
        scale: 8,
        offset: 4,
        divisor: 1,
        edge: Edge::Mask,
    };
    check(&partitioned(windows, 3, 4, 16, 4));
    check(&partitioned(Partition::NearestFrame { frames: 16, tokens_per_frame: 8, length: 128 }, 3, 3, 16, 8));
}

#[test]
fn all_operands_may_be_strided_at_once() {
    for layout in [Layout::Padded, Layout::Repeated] {
        let dense = |last: usize| move |i: usize| if i < last { layout } else { Layout::Dense };
        check_layouts(&full(2, 140, 200, 3, 16), dense(5));
        let partition = Partition::NearestFrame { frames: 3, tokens_per_frame: 150, length: 22 };
        check_layouts(&partitioned(partition, 2, 2, 16, 8), dense(7));
    }
}

#[test]
fn windows_in_and_outside_the_clip() {
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        for (length, scale, size) in [(1, 5, 7), (2, 5, 7), (9, 5, 7), (38, 7, 21)] {
            let (frames, tokens_per_frame) = (5, 40);
            let partition =
                Partition::Windows { frames, tokens_per_frame, length, size, scale, offset: 3, divisor: 1, edge };
            check(&partitioned(partition, 2, 2, 12, 3));
        }
    }
    // Some frames are seen by no query: their gradients are 0.
    check(&partitioned(Partition::NearestFrame { frames: 7, tokens_per_frame: 20, length: 3 }, 2, 2, 8, 1));
    check(&partitioned(Partition::NearestFrame { frames: 2, tokens_per_frame: 20, length: 3 }, 0, 2, 8, 4));
}

#[test]
fn gradients_of_what_the_forward_kernels_left() {
    let sample = full(2, 70, 150, 2, 16);
    let values = with_forward(&Attention::full().into(), inputs(&sample, |_| Layout::Dense), &sample.inputs, 3);
    for (_, error) in errors(&sample.op, &values, &sample.inputs) {
        assert!(error <= Tolerance::Reduction.f32(), "off by {error:e}");
    }
    let partition = Partition::NearestFrame { frames: 5, tokens_per_frame: 24, length: 38 };
    let sample = partitioned(partition, 2, 2, 16, 8);
    let forward = PartitionedContextAttention::new(partition).into();
    let values = with_forward(&forward, inputs(&sample, |_| Layout::Dense), &sample.inputs, 5);
    for (_, error) in errors(&sample.op, &values, &sample.inputs) {
        assert!(error <= Tolerance::Reduction.f32(), "off by {error:e}");
    }
}

#[test]
fn masked_keys_have_no_gradient() {
    let (batch, keys) = (3, 300);
    let mut sample = full(batch, 20, keys, 2, 16);
    sample.op = AttentionGrad { masked: true, counted: false }.into();
    let mask = TensorType::f32([batch, keys]);
    // More than a tile at the start, all but the last key, and every third key.
    let hidden = |batch: usize, key: usize| match batch {
        0 => key < 230,
        1 => key + 1 < keys,
        _ => key.is_multiple_of(3),
    };
    let numbers = (0..batch * keys).map(|i| if hidden(i / keys, i % keys) { f64::NEG_INFINITY } else { 0.0 });
    let mut values = inputs(&sample, |_| Layout::Dense);
    values.push(Memory::store(&mask, Layout::Dense, &numbers.collect::<Vec<_>>()));
    sample.inputs.push(mask);
    let forward = Attention { masked: true, counted: false };
    let values = with_forward(&forward.into(), values, &sample.inputs, 3);
    let results = errors(&sample.op, &values, &sample.inputs);
    for (_, error) in &results {
        assert!(*error <= Tolerance::Reduction.f32(), "off by {error:e}");
    }
    for (memory, _) in &results[1..] {
        for (i, x) in memory.values().into_iter().enumerate() {
            assert!(x == 0.0 || !hidden(i / (keys * 32), i / 32 % keys), "a hidden key has a gradient at {i}: {x}");
        }
    }
}

#[test]
fn keys_past_the_count_are_not_read() {
    let sample = full(1, 20, 300, 2, 8);
    for count in [1usize, 17, 128, 129, 300] {
        let mut values = inputs(&sample, |_| Layout::Dense);
        for i in [1, 2] {
            let mut numbers = values[i].values();
            numbers[count * 2 * 8..].fill(f64::NAN);
            values[i] = Memory::store(&sample.inputs[i], Layout::Dense, &numbers);
        }
        let scalar = TensorType::new(DType::I32, []);
        values.push(Memory::store(&scalar, Layout::Dense, &[count as f64]));
        let types: Vec<TensorType> = sample.inputs.iter().cloned().chain([scalar]).collect();
        let op = AttentionGrad { masked: false, counted: true }.into();
        for (memory, error) in errors(&op, &values, &types) {
            assert!(error <= Tolerance::Reduction.f32(), "{count} keys: off by {error:e}");
            let rest = memory.values().split_off((count * 16).min(memory.values().len()));
            assert!(memory.values().len() != 300 * 16 || rest.iter().all(|x| *x == 0.0), "past {count} keys");
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let op = Op::from(AttentionGrad { masked: false, counted: true });
    let mut sample = full(1, 4, 6, 2, 8);
    sample.inputs.push(TensorType::new(DType::I32, []));
    for count in [0, -1, 7, i32::MAX] {
        let sample = Sample::new(op.clone(), sample.inputs.clone()).with_integers([count]);
        let outputs = op.infer(&sample.inputs.iter().collect::<Vec<_>>()).unwrap();
        let error = run(&op, &inputs(&sample, |_| Layout::Dense), &outputs, None, 1).unwrap_err();
        assert!(matches!(error, KernelError::BadValue { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{count} keys")), "{error}");
    }
    let partition = Partition::NearestFrame { frames: 2, tokens_per_frame: 3, length: 4 };
    for (sample, strided) in [(full(1, 4, 6, 2, 8), 5), (partitioned(partition, 1, 2, 8, 2), 7)] {
        let outputs = sample.op.infer(&sample.inputs.iter().collect::<Vec<_>>()).unwrap();
        for i in 0..strided {
            let values = inputs(&sample, |j| if i == j { Layout::Reversed } else { Layout::Dense });
            let error = run(&sample.op, &values, &outputs, None, 1).unwrap_err();
            assert!(matches!(error, KernelError::Unsupported { .. }), "{error:?}");
        }
    }
}
