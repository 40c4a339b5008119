//! Attention kernels beyond the operators' samples: sizes around the tiles, masks, extreme scores, numbers of keys
//! given at run time, and CCA's groups in the proportions of the paper.

use crate::common::{Layout, Memory, check, check_layouts, inputs, run};
use ccl_codegen::cpu::KernelError;
use ccl_ir::ops::{Attention, PartitionedContextAttention};
use ccl_ir::partition::{Edge, Partition};
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Sample, Tensor, TensorType, Tolerance};

/// Attention of `q [batch, queries, heads, dim]` over all keys.
fn full(batch: usize, queries: usize, keys: usize, heads: usize, dim: usize) -> Sample<Op> {
    let [q, k] = [queries, keys].map(|length| TensorType::f32([batch, length, heads, dim]));
    Sample::new(Attention::full().into(), [q, k.clone(), k])
}

/// CCA of `heads` heads with `context` context tokens.
fn partitioned(partition: Partition, batch: usize, heads: usize, dim: usize, context: usize) -> Sample<Op> {
    let [q, k] = [partition.queries(), partition.keys()].map(|length| TensorType::f32([batch, length, heads, dim]));
    let c = TensorType::f32([context, heads, dim]);
    Sample::new(PartitionedContextAttention::new(partition).into(), [q, k.clone(), k, c.clone(), c])
}

/// Runs on given inputs and returns the relative errors of the result and its log-sum-exp.
fn errors(op: &Op, values: &[Memory], types: &[TensorType]) -> Vec<f64> {
    let outputs = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
    let tensors: Vec<Tensor<f64>> =
        types.iter().zip(values).map(|(ty, m)| Tensor::new(ty.shape.clone(), m.values()).unwrap()).collect();
    let want = op.eval(&tensors.iter().collect::<Vec<_>>()).unwrap();
    let got = run(op, values, &outputs, None, 2).unwrap();
    want.iter().zip(&got).map(|(want, got)| relative_l2(&got.values(), &want.data)).collect()
}

#[test]
fn sizes_around_the_tiles() {
    for (queries, keys, dim) in
        [(1, 1, 1), (1, 257, 3), (8, 256, 12), (16, 300, 24), (127, 256, 16), (129, 255, 8), (257, 513, 20)]
    {
        check(&full(2, queries, keys, 2, dim));
    }
}

#[test]
fn a_clip_of_a_thousand_tokens() {
    check(&full(1, 1008, 1008, 2, 128));
}

#[test]
fn no_queries() {
    check(&full(2, 0, 5, 2, 8));
    check(&full(0, 3, 5, 2, 8));
}

#[test]
fn all_operands_may_be_strided_at_once() {
    for layout in [Layout::Padded, Layout::Repeated] {
        check_layouts(&full(2, 140, 300, 3, 16), |_| layout);
        let partition = Partition::NearestFrame { frames: 3, tokens_per_frame: 270, length: 22 };
        check_layouts(&partitioned(partition, 2, 2, 16, 8), |_| layout);
    }
}

#[test]
fn audio_to_video_groups() {
    // A frame of 240 queries, windows of three audio tokens' worth around its centre, eight context tokens.
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        for (scale, offset, divisor) in [(7, 3, 1), (2 * 38, 38, 2 * 5)] {
            let (tokens_per_frame, size) = (240, 21);
            let partition =
                Partition::Windows { frames: 5, tokens_per_frame, length: 38, size, scale, offset, divisor, edge };
            check(&partitioned(partition, 2, 3, 32, 8));
        }
    }
}

#[test]
fn video_to_audio_groups() {
    // Seven or eight audio tokens share the 900 video tokens of a frame: several tiles, the first with the context.
    let partition = Partition::NearestFrame { frames: 5, tokens_per_frame: 900, length: 38 };
    check(&partitioned(partition, 1, 3, 64, 8));
    // Fewer audio tokens than frames: some frames have no query.
    let partition = Partition::NearestFrame { frames: 7, tokens_per_frame: 20, length: 3 };
    check(&partitioned(partition, 2, 2, 8, 1));
}

#[test]
fn windows_outside_the_clip() {
    // Centres run far past the end: windows are empty, moved inside, or one key that counts many times.
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        for length in [1, 2, 9] {
            let partition = Partition::Windows {
                frames: 6,
                tokens_per_frame: 5,
                length,
                size: 7,
                scale: 5,
                offset: 0,
                divisor: 1,
                edge,
            };
            check(&partitioned(partition, 2, 2, 8, 3));
        }
    }
}

#[test]
fn masked_keys() {
    let (lq, lk) = (20, 700);
    let op = Op::from(Attention { masked: true, counted: false });
    let sample = full(3, lq, lk, 2, 16);
    let mask = TensorType::f32([3, lk]);
    // More than two tiles at the start, all but the last key, and every third key.
    let hidden = |batch: usize, key: usize| match batch {
        0 => key < 530,
        1 => key + 1 < lk,
        _ => key.is_multiple_of(3),
    };
    let numbers: Vec<f64> = (0..3 * lk).map(|i| if hidden(i / lk, i % lk) { f64::NEG_INFINITY } else { 0.0 }).collect();
    let mut values = inputs(&sample, |_| Layout::Dense);
    values.push(Memory::store(&mask, Layout::Dense, &numbers));
    let types: Vec<TensorType> = sample.inputs.iter().cloned().chain([mask]).collect();
    for error in errors(&op, &values, &types) {
        assert!(error <= Tolerance::Reduction.f32(), "off by {error:e}");
    }
}

#[test]
fn scores_of_any_magnitude() {
    // Small whole numbers times a power of two keep every score exact, so that only the softmax is tested.
    for size in [1.0, 64.0, 4096.0] {
        for sign in [1.0, -1.0] {
            let sample = full(1, 40, 600, 2, 16);
            let whole = |i: usize, seed: usize| ((i * seed) % 15) as f64 - 7.0;
            let numbers = |n: usize, f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<f64>>();
            let values: Vec<Memory> = sample
                .inputs
                .iter()
                .enumerate()
                .map(|(which, ty)| {
                    let n = ty.elements() as usize;
                    let list = match which {
                        0 => numbers(n, &|i| whole(i / 3, 7) * size),
                        // Keys grow along the clip: the maximum grows (or stays) from tile to tile.
                        1 => numbers(n, &|i| whole(i / 5, 11) * sign * (1 + i * 4 / n) as f64),
                        _ => numbers(n, &|i| whole(i / 2, 13) + 0.5),
                    };
                    Memory::store(ty, Layout::Dense, &list)
                })
                .collect();
            for error in errors(&sample.op, &values, &sample.inputs) {
                assert!(error <= Tolerance::Reduction.f32(), "size {size} {sign}: off by {error:e}");
            }
        }
    }
}

/// `counted` attention over 300 keys, of which those from `real` on are NaN.
fn counted(count: i32, real: usize) -> (Op, Vec<Memory>, Vec<TensorType>) {
    let sample = full(1, 20, 300, 2, 8);
    let mut values = inputs(&sample, |_| Layout::Dense);
    for i in [1, 2] {
        let mut numbers = values[i].values();
        numbers[real * 2 * 8..].fill(f64::NAN);
        values[i] = Memory::store(&sample.inputs[i], Layout::Dense, &numbers);
    }
    let scalar = TensorType::new(DType::I32, []);
    values.push(Memory::store(&scalar, Layout::Dense, &[f64::from(count)]));
    let types = sample.inputs.into_iter().chain([scalar]).collect();
    (Attention { masked: false, counted: true }.into(), values, types)
}

#[test]
fn keys_past_the_count_are_not_read() {
    for count in [1, 17, 256, 257, 299, 300] {
        let (op, values, types) = counted(count, count as usize);
        for error in errors(&op, &values, &types) {
            assert!(error <= Tolerance::Reduction.f32(), "{count} keys: off by {error:e}");
        }
    }
}

#[test]
fn impossible_counts_are_refused() {
    for count in [0, -1, 301, i32::MIN, i32::MAX] {
        let (op, values, types) = counted(count, 300);
        let outputs = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
        let error = run(&op, &values, &outputs, None, 1).unwrap_err();
        assert!(matches!(error, KernelError::BadValue { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{count} keys")), "{error}");
    }
}

#[test]
fn channels_that_are_not_packed_are_refused() {
    let partition = Partition::NearestFrame { frames: 2, tokens_per_frame: 3, length: 4 };
    for sample in [full(1, 4, 6, 2, 8), partitioned(partition, 1, 2, 8, 2)] {
        let outputs = sample.op.infer(&sample.inputs.iter().collect::<Vec<_>>()).unwrap();
        for i in 0..sample.inputs.len() {
            let values = inputs(&sample, |j| if i == j { Layout::Reversed } else { Layout::Dense });
            let error = run(&sample.op, &values, &outputs, None, 1).unwrap_err();
            assert!(matches!(error, KernelError::Unsupported { .. }), "{error:?}");
        }
    }
}
