//! Gradients of attention on a wgpu device beyond the operators' samples: head widths, sizes around the tiles, strides, half precision,
//! masks, counts, CCA's groups with every edge, batches; and the kernels' text for every target. Needs a Vulkan driver; lavapipe will do.
//!
//! Results and log-sum-exp are the forward pass's own, so that probabilities are.

use crate::common::{Buffer, call, client, reference, run, target};
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, lower};
use ccl_ir::interp::sample_inputs;
use ccl_ir::ops::{
    Attention, AttentionGrad, NO_KEYS, PartitionedContextAttention, PartitionedContextAttentionGrad, WindowDots,
    WindowSpread,
};
use ccl_ir::partition::{Edge, Partition};
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Sample, Tensor, TensorType};

const SINGLE: f64 = 2e-5;
const HALF: f64 = 2e-3;

/// The gradient of an attention, and that attention's inputs by position among the gradient's.
struct Gradient {
    sample: Sample<Op>,
    forward: Op,
    /// Number of the forward pass's inputs that come first; the others come behind `l`.
    first: usize,
}

/// Attention of `q [lead.., queries, 2, dim]`.
fn full(op: Attention, dtype: DType, lead: &[usize], queries: usize, keys: usize, dim: usize) -> Gradient {
    let [q, k] = [queries, keys].map(|n| TensorType::new(dtype, [lead, &[n, 2, dim]].concat()));
    let lse = TensorType::f32([lead, &[2, queries]].concat());
    let mut inputs = vec![q.clone(), k.clone(), k, q.clone(), q, lse];
    let mut integers = Vec::new();
    if op.masked {
        inputs.push(TensorType::f32([lead, &[keys]].concat()));
    }
    if op.counted {
        inputs.push(TensorType::new(DType::I32, []));
        integers.push(keys as i32);
    }
    let grad = AttentionGrad { masked: op.masked, counted: op.counted };
    Gradient { sample: Sample::new(grad.into(), inputs).with_integers(integers), forward: op.into(), first: 3 }
}

/// CCA with eleven context tokens.
fn cca(partition: Partition, dtype: DType, batch: usize, heads: usize, dim: usize) -> Gradient {
    let [q, k] = [partition.queries(), partition.keys()].map(|n| TensorType::new(dtype, [batch, n, heads, dim]));
    let c = TensorType::new(dtype, [11, heads, dim]);
    let lse = TensorType::f32([batch, heads, partition.queries()]);
    let inputs = [q.clone(), k.clone(), k, c.clone(), c, q.clone(), q, lse];
    let forward = PartitionedContextAttention::new(partition).into();
    Gradient { sample: Sample::new(PartitionedContextAttentionGrad { partition }.into(), inputs), forward, first: 5 }
}

/// Windows of audio for five frames of video.
fn windows(per: usize, length: usize, size: usize, edge: Edge) -> Partition {
    let (frames, tokens_per_frame) = (5, per);
    let (scale, offset, divisor) = (2 * length, length, 2 * frames);
    Partition::Windows { frames, tokens_per_frame, length, size, scale, offset, divisor, edge }
}

fn nearest(frames: usize, tokens_per_frame: usize, length: usize) -> Partition {
    Partition::NearestFrame { frames, tokens_per_frame, length }
}

/// Fills the operands: numbers changed by `change(input, element, number)`, then the forward pass's results of them.
fn buffers(call: &Call, gradient: &Gradient, change: impl Fn(usize, usize, f64) -> f64) -> Vec<Buffer> {
    let drawn = sample_inputs(&gradient.sample, 5);
    let numbers = |i: usize| drawn[i].data.iter().enumerate().map(|(at, &x)| change(i, at, x)).collect::<Vec<_>>();
    let mut buffers: Vec<Buffer> = call.inputs.iter().enumerate().map(|(i, o)| Buffer::new(o, &numbers(i))).collect();
    let (first, lse) = (gradient.first, gradient.first + 2);
    let given: Vec<Tensor<f64>> = (0..first)
        .chain(lse + 1..call.inputs.len())
        .map(|i| {
            // What is not there takes part in no sum of the evaluation either.
            let numbers = buffers[i].numbers().into_iter().map(|x| if x.is_nan() { 0.0 } else { x }).collect();
            Tensor::new(call.inputs[i].ty.shape.clone(), numbers).unwrap()
        })
        .collect();
    let results = gradient.forward.eval(&given.iter().collect::<Vec<_>>()).unwrap();
    for (at, result) in [(first, &results[0]), (lse, &results[1])] {
        buffers[at] = Buffer::new(&call.inputs[at], &result.data);
    }
    buffers
}

/// Runs and compares.
fn check_call(target: &Target, call: &Call, inputs: &[Buffer], bound: f64) -> Vec<Vec<f64>> {
    let got = run(&client(), target, call, inputs).unwrap().unwrap();
    for (port, (got, want)) in got.iter().zip(reference(call, inputs)).enumerate() {
        let types: Vec<String> = call.inputs.iter().map(|o| o.ty.to_string()).collect();
        let error = relative_l2(got, &want.data);
        assert!(error <= bound, "{:?} of {} output {port} is off by {error:e}", call.op, types.join(", "));
    }
    got
}

fn check(gradient: &Gradient, bound: f64) {
    check_views(gradient, |_| {}, bound);
}

fn check_views(gradient: &Gradient, view: impl Fn(&mut Call), bound: f64) {
    let mut call = call(&gradient.sample);
    view(&mut call);
    check_call(&target(), &call, &buffers(&call, gradient, |_, _, x| x), bound);
}

#[test]
fn head_widths_and_sizes_around_the_tiles() {
    for (queries, keys, dim) in [(1, 1, 2), (17, 7, 6), (8, 16, 8), (9, 33, 64), (20, 30, 128)] {
        check(&full(Attention::full(), DType::F32, &[1], queries, keys, dim), SINGLE);
    }
}

#[test]
fn operands_are_read_in_place() {
    let spread = |c: &mut Call| {
        // Queries out of a wider row behind 5 other elements, keys shared by the batch, values with heads outside positions, a
        // gradient that all positions share.
        c.inputs[0].offset = 5;
        c.inputs[0].strides = vec![40 * 150, 150, 26, 1];
        c.inputs[1].strides = vec![0, 48, 24, 1];
        c.inputs[2].offset = 1;
        c.inputs[2].strides = vec![2 * 30 * 24, 24, 30 * 24, 1];
        c.inputs[3].offset = 2;
        c.inputs[3].strides = vec![12 * 50, 50, 25, 1];
        c.inputs[4].strides = vec![48, 0, 24, 1];
        c.inputs[5].offset = 3;
    };
    check_views(&full(Attention::full(), DType::F32, &[3], 12, 30, 24), spread, SINGLE);
    let leading = |c: &mut Call| {
        c.inputs[1].strides[1] = 0;
        c.inputs[2].strides[0] = 0;
        c.inputs[4].strides[1] = 0;
    };
    check_views(&full(Attention::full(), DType::F32, &[2, 3], 9, 11, 8), leading, SINGLE);
    let context = |c: &mut Call| {
        c.inputs[1].strides = vec![0, 24, 38 * 24, 1];
        c.inputs[2].offset = 7;
        c.inputs[3].offset = 3;
        c.inputs[3].strides = vec![50, 25, 1];
        c.inputs[4].strides = vec![24, 11 * 24, 1];
        c.inputs[6].offset = 9;
        c.inputs[6].strides = vec![60 * 100, 100, 31, 1];
    };
    check_views(&cca(windows(12, 38, 21, Edge::Mask), DType::F32, 2, 2, 24), context, SINGLE);
}

#[test]
fn half_precision() {
    check(&full(Attention::full(), DType::F16, &[2], 20, 40, 8), HALF);
    check(&cca(windows(12, 38, 21, Edge::Mask), DType::F16, 1, 2, 8), HALF);
    check(&cca(nearest(5, 12, 38), DType::F16, 1, 2, 8), HALF);
}

#[test]
fn keys_past_the_count_are_not_read() {
    let gradient = full(Attention { masked: false, counted: true }, DType::F32, &[1], 10, 40, 8);
    for count in [1, 16, 17, 40] {
        let call = call(&gradient.sample);
        let present = |at: usize| at < count as usize * 2 * 8;
        let change = |i: usize, at: usize, x: f64| match i {
            1 | 2 if !present(at) => f64::NAN,
            6 => f64::from(count),
            _ => x,
        };
        let got = check_call(&target(), &call, &buffers(&call, &gradient, change), SINGLE);
        assert!(got[1..].iter().all(|g| g.iter().enumerate().all(|(at, &x)| present(at) || x == 0.0)));
    }
    // No count reaches beyond the keys.
    let of = |count: f64| {
        let call = call(&gradient.sample);
        let inputs = buffers(&call, &gradient, |_, _, x| x);
        let numbers = Buffer::new(&call.inputs[6], &[count]);
        let inputs = inputs.into_iter().take(6).chain([numbers]).collect::<Vec<_>>();
        run(&client(), &target(), &call, &inputs).unwrap().unwrap()
    };
    assert_eq!(of(i32::MAX.into()), of(40.0));
    for count in [0, -1, i32::MIN] {
        assert!(of(count.into()).iter().flatten().all(|&x| x == 0.0));
    }
}

#[test]
fn masked_keys() {
    let keys = 40;
    let gradient = full(Attention { masked: true, counted: false }, DType::F32, &[3], 10, keys, 8);
    let call = call(&gradient.sample);
    // More than two tiles at the start, all but the last key, and every third key; terms on the others.
    let hidden = |at: usize| match (at / keys, at % keys) {
        (0, key) => key < 19,
        (1, key) => key + 1 < keys,
        (_, key) => key.is_multiple_of(3),
    };
    let inputs = buffers(&call, &gradient, |i, at, x| if i == 6 && hidden(at) { f64::NEG_INFINITY } else { x });
    let got = check_call(&target(), &call, &inputs, SINGLE);
    // Gradients to values: those to keys vanish where a query sees one key only.
    assert!(got[2].iter().enumerate().all(|(at, &x)| (x == 0.0) == hidden(at / 16)));
    // A query without keys, as the forward kernel leaves it: no result, and the log-sum-exp of nothing.
    let mut inputs = buffers(&call, &gradient, |i, _, x| if i == 6 { f64::NEG_INFINITY } else { x });
    for (i, number) in [(3, 0.0), (5, NO_KEYS)] {
        let count = call.inputs[i].ty.elements() as usize;
        inputs[i] = Buffer::new(&call.inputs[i], &vec![number; count]);
    }
    let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
    assert!(got.iter().flatten().all(|&x| x == 0.0));
}

#[test]
fn nan_is_not_lost() {
    let gradient = full(Attention::full(), DType::F32, &[1], 9, 20, 8);
    let call = call(&gradient.sample);
    for operand in [0, 1, 2, 4] {
        let inputs = buffers(&call, &gradient, |i, at, x| if (i, at) == (operand, 0) { f64::NAN } else { x });
        let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
        // Head 0 meets it, head 1 does not.
        assert!(got[..2].iter().all(|g| g[0].is_nan() && g[8].is_finite()), "operand {operand}");
    }
}

#[test]
fn windows_of_every_edge() {
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        // Fewer queries in a frame than a tile has, and more; windows that overlap, that leave gaps, that are the whole clip.
        for (per, size) in [(3, 21), (20, 5), (11, 60)] {
            check(&cca(windows(per, 38, size, edge), DType::F32, 2, 2, 8), SINGLE);
        }
        // Windows that lie wholly outside.
        let (frames, tokens_per_frame, size, scale, offset, divisor) = (6, 5, 7, 5, 0, 1);
        for length in [1, 9] {
            let p = Partition::Windows { frames, tokens_per_frame, length, size, scale, offset, divisor, edge };
            check(&cca(p, DType::F32, 1, 2, 8), SINGLE);
        }
    }
}

#[test]
fn keys_that_no_window_sees_have_no_gradient() {
    let p = windows(4, 50, 3, Edge::Mask);
    let gradient = cca(p, DType::F32, 1, 1, 8);
    let call = call(&gradient.sample);
    let got = check_call(&target(), &call, &buffers(&call, &gradient, |_, _, x| x), SINGLE);
    let seen = |key: usize| p.groups().iter().any(|g| g.keys.contains(&key));
    for g in &got[1..3] {
        assert!(g.iter().enumerate().all(|(at, &x)| (x != 0.0) == seen(at / 8)));
    }
}

#[test]
fn nearest_frames() {
    // Frames with one audio token, with several, with none; blocks of keys across frames.
    for (frames, per, length) in [(5, 12, 38), (6, 7, 4), (1, 20, 9), (9, 3, 9), (4, 1, 21)] {
        check(&cca(nearest(frames, per, length), DType::F32, 2, 2, 8), SINGLE);
    }
}

/// Products over windows: rows with values, and weights with rows; the queries' operands with rows outside of queries, and in half precision.
#[test]
fn products_over_windows() {
    let outside = |c: &mut Call, i: usize| {
        let &[_, lq, rows, n] = c.inputs[i].ty.shape.as_slice() else { panic!("no rows of queries") };
        c.inputs[i].strides = [rows * lq * n, n, lq * n, 1].map(|s| s as u64).to_vec();
    };
    let edges = [Edge::Mask, Edge::Shift, Edge::Replicate].map(|edge| windows(7, 38, 21, edge));
    for partition in edges.into_iter().chain([nearest(5, 12, 38), nearest(6, 7, 4), windows(4, 50, 3, Edge::Mask)]) {
        let (lq, lk, s) = (partition.queries(), partition.keys(), partition.widest());
        for (dtype, bound) in [(DType::F32, SINGLE), (DType::F16, HALF)] {
            for (rows, heads, d) in [(1, 3, 20), (5, 1, 9), (2, 2, 33)] {
                let ty = |shape: [usize; 4]| TensorType::new(dtype, shape);
                let (g, u, p) = (ty([2, lq, rows, d]), ty([2, lk, heads, d]), ty([2, lq, rows, s * heads]));
                let dots = Sample::new(Op::from(WindowDots { partition }), [g.clone(), u]);
                let spread = Sample::new(Op::from(WindowSpread { partition }), [p, g]);
                for (sample, views) in [(&dots, &[0][..]), (&spread, &[0, 1])] {
                    for viewed in [false, true] {
                        let mut call = call(sample);
                        views.iter().filter(|_| viewed).for_each(|&i| outside(&mut call, i));
                        let drawn = sample_inputs(sample, 5);
                        let inputs: Vec<Buffer> =
                            call.inputs.iter().zip(&drawn).map(|(o, t)| Buffer::new(o, &t.data)).collect();
                        check_call(&target(), &call, &inputs, bound);
                    }
                }
            }
        }
    }
}

/// The tiles for GPUs, and heads in chunks.
#[test]
fn large_tiles() {
    let large = Target { shared_bytes: 32 * 1024, ..Target::wgpu() };
    for (target, gradient) in [
        (large, cca(windows(12, 38, 21, Edge::Mask), DType::F32, 1, 1, 24)),
        (Target::wgpu(), full(Attention::full(), DType::F32, &[1], 20, 40, 128)),
        (Target::wgpu(), full(Attention::full(), DType::F32, &[1], 9, 17, 72)),
        (Target::wgpu(), full(Attention::full(), DType::F32, &[1], 9, 17, 160)),
    ] {
        let call = call(&gradient.sample);
        check_call(&target, &call, &buffers(&call, &gradient, |_, _, x| x), SINGLE);
    }
}

#[test]
fn every_run_gives_the_same_bytes() {
    let gradient = cca(windows(20, 38, 21, Edge::Mask), DType::F32, 2, 2, 8);
    let call = call(&gradient.sample);
    let inputs = buffers(&call, &gradient, |_, _, x| x);
    let once = || run(&client(), &target(), &call, &inputs).unwrap().unwrap();
    assert_eq!(once(), once());
}

#[test]
fn heads_too_wide_are_refused() {
    let call = call(&full(Attention::full(), DType::F32, &[1], 4, 4, 258).sample);
    let error = lower(&call, &target()).unwrap_err().to_string();
    assert!(error.contains("258 channels"), "{error}");
}

#[test]
fn kernels_have_text_for_every_target() {
    for target in [Target::cuda("cuda:sm_90a", 90), Target::wgpu(), target()] {
        for dtype in [DType::F32, target.halves[0], *target.halves.last().unwrap()] {
            for dim in [8, 64, 128] {
                for gradient in [
                    full(Attention { masked: true, counted: true }, dtype, &[1], 300, 300, dim),
                    cca(windows(24, 38, 21, Edge::Replicate), dtype, 1, 2, dim),
                    cca(nearest(5, 24, 38), dtype, 1, 2, dim),
                ] {
                    let Lowered::Device(launches) = lower(&call(&gradient.sample), &target).unwrap() else { panic!() };
                    for launch in launches {
                        let text = emit(&launch, &target).unwrap();
                        assert!(text.shared_bytes <= target.shared_bytes as usize);
                        if text.language == "wgsl" {
                            crate::common::validate(&text.text);
                        }
                    }
                }
            }
        }
    }
}
