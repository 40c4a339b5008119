//! Attention on a wgpu device beyond the operators' samples: head widths, sizes around the tiles, strides, half precision, masks,
//! numbers of keys given at run time, CCA's groups; and the kernels' text for CUDA.

use std::time::Instant;

use crate::common::{Buffer, call, client, reference, run, target};
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, lower};
use ccl_ir::interp::sample_inputs;
use ccl_ir::ops::{Attention, MergeAttention, NO_KEYS, PartitionedContextAttention};
use ccl_ir::partition::{Edge, Partition};
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Sample, TensorType};

/// Attention of `q [batch, queries, 2, dim]`.
fn full(op: Attention, dtype: DType, batch: usize, queries: usize, keys: usize, dim: usize) -> Sample<Op> {
    let [q, k] = [queries, keys].map(|length| TensorType::new(dtype, [batch, length, 2, dim]));
    Sample::new(op.into(), [q, k.clone(), k])
}

/// CCA with eight context tokens.
fn cca(partition: Partition, splits: usize, dtype: DType, batch: usize, heads: usize, dim: usize) -> Sample<Op> {
    let [q, k] =
        [partition.queries(), partition.keys()].map(|length| TensorType::new(dtype, [batch, length, heads, dim]));
    let c = TensorType::new(dtype, [8, heads, dim]);
    Sample::new(PartitionedContextAttention { partition, splits }.into(), [q, k.clone(), k, c.clone(), c])
}

/// Five frames of 24 video tokens and 38 audio tokens.
fn windows(size: usize, edge: Edge) -> Partition {
    let (frames, length) = (5, 38);
    Partition::Windows {
        frames,
        tokens_per_frame: 24,
        length,
        size,
        scale: 2 * length,
        offset: length,
        divisor: 2 * frames,
        edge,
    }
}

fn nearest() -> Partition {
    Partition::NearestFrame { frames: 5, tokens_per_frame: 24, length: 38 }
}

/// Fills the operands with the sample's numbers, changed by `change(input, element, number)`.
fn buffers(call: &Call, sample: &Sample<Op>, change: impl Fn(usize, usize, f64) -> f64) -> Vec<Buffer> {
    let drawn = sample_inputs(sample, 5);
    let numbers = |i: usize| drawn[i].data.iter().enumerate().map(|(at, &x)| change(i, at, x)).collect::<Vec<_>>();
    call.inputs.iter().enumerate().map(|(i, o)| Buffer::new(o, &numbers(i))).collect()
}

/// Runs and compares.
fn check_call(target: &Target, call: &Call, inputs: &[Buffer], bound: f64) {
    let start = Instant::now();
    let got = run(&client(), target, call, inputs).unwrap().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let none = f64::from(NO_KEYS as f32);
    for (port, (got, want)) in got.iter().zip(reference(call, inputs)).enumerate() {
        let types: Vec<String> = call.inputs.iter().map(|o| o.ty.to_string()).collect();
        let what = format!("{:?} of {} output {port}", call.op, types.join(", "));
        // What stands for no keys would hide all other differences.
        let absent = |x: f64| x == NO_KEYS || x == none;
        assert!(got.iter().zip(&want.data).all(|(&a, &b)| absent(a) == absent(b)), "{what} has keys elsewhere");
        let present = |list: &[f64]| list.iter().map(|&x| if absent(x) { 0.0 } else { x }).collect::<Vec<_>>();
        let error = relative_l2(&present(got), &present(&want.data));
        assert!(error <= bound, "{what} is off by {error:e}");
        println!("{seconds:.2} s, off by {error:.1e}: {what}");
    }
}

fn check(sample: &Sample<Op>, bound: f64) {
    let call = call(sample);
    let inputs = buffers(&call, sample, |_, _, x| x);
    check_call(&target(), &call, &inputs, bound);
}

const SINGLE: f64 = 2e-5;
const HALF: f64 = 2e-3;

#[test]
fn head_widths() {
    for dim in [12, 24, 64, 128, 256] {
        check(&full(Attention::full(), DType::F32, 1, 40, 300, dim), SINGLE);
    }
}

#[test]
fn sizes_around_the_tiles() {
    for (queries, keys, dim) in [(1, 1, 2), (8, 16, 8), (7, 17, 6), (9, 15, 3)] {
        check(&full(Attention::full(), DType::F32, 2, queries, keys, dim), SINGLE);
    }
}

#[test]
fn half_precision() {
    check(&full(Attention::full(), DType::F16, 2, 40, 300, 64), HALF);
    check(&cca(nearest(), 1, DType::F16, 1, 2, 24), HALF);
    check(&cca(nearest(), 2, DType::F16, 1, 2, 24), HALF);
}

#[test]
fn operands_are_read_in_place() {
    let sample = full(Attention::full(), DType::F32, 3, 40, 70, 24);
    let mut call = call(&sample);
    // Queries out of a wider row behind 5 other elements, keys shared by the batch, values with heads outside positions.
    call.inputs[0].offset = 5;
    call.inputs[0].strides = vec![40 * 150, 150, 26, 1];
    call.inputs[1].strides = vec![0, 48, 24, 1];
    call.inputs[2].offset = 1;
    call.inputs[2].strides = vec![2 * 70 * 24, 24, 70 * 24, 1];
    check_call(&target(), &call, &buffers(&call, &sample, |_, _, x| x), SINGLE);

    let sample = cca(windows(21, Edge::Mask), 2, DType::F32, 2, 2, 24);
    let mut call = crate::common::call(&sample);
    call.inputs[1].strides = vec![0, 24, 38 * 24, 1];
    call.inputs[2].offset = 7;
    call.inputs[3].offset = 3;
    call.inputs[3].strides = vec![50, 25, 1];
    call.inputs[4].strides = vec![24, 8 * 24, 1];
    check_call(&target(), &call, &buffers(&call, &sample, |_, _, x| x), SINGLE);
}

#[test]
fn several_leading_dimensions() {
    let [q, k] = [9, 20].map(|length| TensorType::f32([2, 3, length, 2, 8]));
    let sample = Sample::new(Attention::full().into(), [q, k.clone(), k]);
    let mut call = call(&sample);
    call.inputs[1].strides[1] = 0;
    call.inputs[2].strides[0] = 0;
    check_call(&target(), &call, &buffers(&call, &sample, |_, _, x| x), SINGLE);
}

#[test]
fn keys_past_the_count_are_not_read() {
    for count in [1, 16, 17, 250, 300] {
        let op = Attention { masked: false, counted: true };
        let mut sample = full(op, DType::F32, 1, 40, 300, 24).with_integers([count]);
        sample.inputs.push(TensorType::new(DType::I32, []));
        let call = call(&sample);
        let unread = |i: usize, at: usize| (i == 1 || i == 2) && at >= count as usize * 2 * 24;
        check_call(
            &target(),
            &call,
            &buffers(&call, &sample, |i, at, x| if unread(i, at) { f64::NAN } else { x }),
            SINGLE,
        );
    }
}

#[test]
fn impossible_counts_stay_within_the_keys() {
    let run = |count: i32| {
        let op = Attention { masked: false, counted: true };
        let mut sample = full(op, DType::F32, 1, 5, 20, 8).with_integers([count]);
        sample.inputs.push(TensorType::new(DType::I32, []));
        let call = call(&sample);
        run(&client(), &target(), &call, &buffers(&call, &sample, |_, _, x| x)).unwrap().unwrap()
    };
    assert_eq!(run(i32::MAX), run(20));
    for count in [0, -1, i32::MIN] {
        assert!(run(count)[0].iter().all(|&x| x == 0.0));
    }
}

/// The tiles for GPUs: whole heads, as far as a software adapter's shared memory goes, and heads in chunks.
#[test]
fn large_tiles() {
    let large = Target { shared_bytes: 32 * 1024, ..Target::wgpu() };
    for (target, dims) in [(large, [24, 40, 24, 64]), (Target::wgpu(), [128, 72, 160, 128])] {
        for sample in [
            full(Attention::full(), DType::F32, 1, 40, 100, dims[0]),
            full(Attention::full(), DType::F32, 1, 12, 70, dims[1]),
            cca(windows(21, Edge::Mask), 2, DType::F32, 1, 2, dims[2]),
            cca(nearest(), 1, DType::F32, 1, 1, dims[3]),
        ] {
            let call = call(&sample);
            check_call(&target, &call, &buffers(&call, &sample, |_, _, x| x), SINGLE);
        }
    }
}

#[test]
fn masked_keys() {
    let (keys, op) = (100, Attention { masked: true, counted: false });
    let mut sample = full(op, DType::F32, 3, 20, keys, 24);
    sample.inputs.push(TensorType::f32([3, keys]));
    let call = call(&sample);
    // More than two tiles at the start, all but the last key, and every third key; terms on the others.
    let hidden = |at: usize| match (at / keys, at % keys) {
        (0, key) => key < 39,
        (1, key) => key + 1 < keys,
        (_, key) => key.is_multiple_of(3),
    };
    let inputs = buffers(&call, &sample, |i, at, x| if i == 3 && hidden(at) { f64::NEG_INFINITY } else { x });
    check_call(&target(), &call, &inputs, SINGLE);
}

#[test]
fn a_row_without_keys_gives_nothing() {
    let mut sample = full(Attention { masked: true, counted: false }, DType::F32, 1, 3, 20, 8);
    sample.inputs.push(TensorType::f32([20]));
    let call = call(&sample);
    let inputs = buffers(&call, &sample, |i, _, x| if i == 3 { f64::NEG_INFINITY } else { x });
    let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
    assert!(got[0].iter().all(|&x| x == 0.0));
    assert!(got[1].iter().all(|&x| x == f64::from(NO_KEYS as f32)));
}

#[test]
fn nan_is_not_lost() {
    let sample = full(Attention::full(), DType::F32, 1, 9, 20, 8);
    let call = call(&sample);
    for operand in 0..3 {
        let inputs = buffers(&call, &sample, |i, at, x| if (i, at) == (operand, 0) { f64::NAN } else { x });
        let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
        // Head 0 of the first query meets it, head 1 does not.
        assert!(got[0][0].is_nan() && got[0][8].is_finite(), "operand {operand}");
    }
}

#[test]
fn scores_of_any_magnitude() {
    // Small whole numbers times a power of two keep every score exact, so that only the softmax is tested. Keys grow along the clip.
    let sample = full(Attention::full(), DType::F32, 1, 10, 100, 16);
    let call = call(&sample);
    for size in [1.0, 64.0, 4096.0, -4096.0] {
        let whole = |i: usize, at: usize| match i {
            0 => ((at / 3 * 7) % 15) as f64 - 7.0,
            1 => size * (((at / 5 * 11) % 15) as f64 - 7.0) * (1 + at / 1000) as f64,
            _ => ((at / 2 * 13) % 15) as f64 - 6.5,
        };
        check_call(&target(), &call, &buffers(&call, &sample, |i, at, _| whole(i, at)), SINGLE);
    }
}

#[test]
fn groups_of_both_directions() {
    for splits in [1, 2, 5] {
        check(&cca(windows(21, Edge::Mask), splits, DType::F32, 1, 1, 128), SINGLE);
        check(&cca(nearest(), splits, DType::F32, 1, 1, 128), SINGLE);
    }
}

#[test]
fn clip_ends() {
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        for size in [7, 21, 60] {
            check(&cca(windows(size, edge), 1, DType::F32, 2, 2, 12), SINGLE);
        }
        // Windows that lie wholly outside, and parts without keys.
        let (frames, tokens_per_frame, size, scale) = (6, 5, 7, 5);
        for (length, splits) in [(1, 1), (9, 4)] {
            let p = Partition::Windows { frames, tokens_per_frame, length, size, scale, offset: 0, divisor: 1, edge };
            check(&cca(p, splits, DType::F32, 1, 2, 8), SINGLE);
        }
    }
}

#[test]
fn parts_merge_to_the_whole() {
    for out in [None, Some(DType::F16)] {
        let parts = TensorType::f32([5, 2, 21, 3, 24]);
        let sums = TensorType::f32([5, 2, 3, 21]);
        let sample = Sample::new(MergeAttention { out }.into(), [parts, sums]);
        let call = call(&sample);
        let absent = |i: usize, at: usize| i == 1 && at / 126 == 3;
        let inputs = buffers(&call, &sample, |i, at, x| if absent(i, at) { NO_KEYS } else { 3.0 * x });
        check_call(&target(), &call, &inputs, if out.is_some() { HALF } else { SINGLE });
    }
}

#[test]
fn heads_too_wide_are_refused() {
    let call = call(&full(Attention::full(), DType::F32, 1, 4, 4, 258));
    let error = lower(&call, &target()).unwrap_err().to_string();
    assert!(error.contains("258 channels"), "{error}");
}

#[test]
fn channels_that_are_not_packed_are_refused() {
    let mut call = call(&cca(nearest(), 1, DType::F32, 1, 2, 8));
    call.inputs[4].strides = vec![1, 64, 8];
    let error = lower(&call, &target()).unwrap_err().to_string();
    assert!(error.contains("input 4"), "{error}");
}

#[test]
fn kernels_have_text_for_every_target() {
    let targets = [Target::cuda("cuda:sm_90a", 90), Target::wgpu(), target()];
    for target in targets {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            if dtype != DType::F32 && !target.halves.contains(&dtype) {
                continue;
            }
            for dim in [24, 64, 128, 256] {
                for sample in [
                    full(Attention::full(), dtype, 1, 300, 300, dim),
                    cca(windows(21, Edge::Replicate), 1, dtype, 1, 2, dim),
                    cca(nearest(), 4, dtype, 1, 2, dim),
                ] {
                    let Lowered::Device(launches) = lower(&call(&sample), &target).unwrap() else { panic!() };
                    let text = emit(&launches[0], &target).unwrap();
                    assert!(text.text.lines().count() > 100);
                    println!(
                        "{} {:?} {dtype} {} D={dim}: {} lines, {} bytes of shared memory, units {:?}",
                        target.name,
                        target.tiles,
                        sample.op.name(),
                        text.text.lines().count(),
                        text.shared_bytes,
                        text.units
                    );
                    if text.language == "wgsl" {
                        crate::common::validate(&text.text);
                    }
                }
            }
        }
    }
}
