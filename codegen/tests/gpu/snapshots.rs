//! The text of telling kernels, to be read: what a change to a kernel does to it shows in the review of `snapshots/`.
//! `INSTA_UPDATE=always` accepts new texts.

use crate::common::call;
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, Tiles, lower};
use ccl_ir::chain::{Arg, Instr};
use ccl_ir::ops::{BinaryKind, Fused, PartitionedContextAttention, PartitionedContextAttentionGrad};
use ccl_ir::partition::Edge;
use ccl_ir::{Chain, DType, Op, Partition, Sample, TensorType};

/// The texts of a call's kernels.
fn texts(target: &Target, op: impl Into<Op>, inputs: &[TensorType]) -> Vec<String> {
    let call = call(&Sample::new(op.into(), inputs.to_vec()));
    let Lowered::Device(launches) = lower(&call, target).unwrap() else {
        panic!("{} runs on the host", call.op.name())
    };
    let text = |launch| {
        let text = emit(launch, target).unwrap().text;
        // The entry's name ends in a hash over everything that made the text, where CubeCL made it.
        let Some((before, name)) = text.split_once("universal_e_") else { return text };
        let (_, after) = name.split_once('(').unwrap();
        format!("{before}universal({after}")
    };
    launches.iter().map(text).collect()
}

/// The text of the only kernel of a call.
fn text(target: &Target, op: impl Into<Op>, inputs: &[TensorType]) -> String {
    let [text] = <[String; 1]>::try_from(texts(target, op, inputs)).unwrap();
    text
}

fn of(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

/// `x + y * gate`: the gate repeats over tokens and is single precision, as modulation is.
#[test]
fn gated_residual() {
    let chain = Chain {
        inputs: 3,
        steps: vec![
            Instr::Binary(BinaryKind::Mul, Arg::In(1), Arg::In(2)),
            Instr::Binary(BinaryKind::Add, Arg::In(0), Arg::Step(0)),
        ],
    };
    let types = |half| [of(half, &[2, 30, 16]), of(half, &[2, 30, 16]), of(DType::F32, &[2, 1, 16])];
    let fused = |half| Fused { chain: chain.clone(), out: Some(half) };
    let wgpu = text(&Target::wgpu(), fused(DType::F16), &types(DType::F16));
    insta::assert_snapshot!("gated_residual_wgpu_f16", wgpu);
    let cuda = text(&Target::cuda("cuda:sm_90a", 90), fused(DType::Bf16), &types(DType::Bf16));
    insta::assert_snapshot!("gated_residual_cuda_bf16", cuda);
}

/// Both directions of the context cross attention: no gathered keys, the context tokens first, windows computed in place.
#[test]
fn context_attention() {
    // Small tiles and heads: the same code with fewer unrolled lines.
    let target = Target { tiles: Tiles::Small, ..Target::wgpu() };
    let text = |partition: Partition| {
        let (h, d, n) = (2, 8, 4);
        let q = of(DType::F32, &[1, partition.queries(), h, d]);
        let k = of(DType::F32, &[1, partition.keys(), h, d]);
        let c = of(DType::F32, &[n, h, d]);
        text(&target, PartitionedContextAttention::new(partition), &[q, k.clone(), k, c.clone(), c])
    };
    let windows = Partition::Windows {
        frames: 5,
        tokens_per_frame: 12,
        length: 29,
        size: 15,
        scale: 58,
        offset: 29,
        divisor: 10,
        edge: Edge::Mask,
    };
    insta::assert_snapshot!("context_attention_audio_to_video_wgpu", text(windows));
    let frames = Partition::NearestFrame { frames: 5, tokens_per_frame: 12, length: 29 };
    insta::assert_snapshot!("context_attention_video_to_audio_wgpu", text(frames));
}

/// Gradients of the audio's keys and values: a block of keys walks through the queries of the frames whose windows overlap it.
#[test]
fn context_attention_gradient() {
    let target = Target { tiles: Tiles::Small, ..Target::wgpu() };
    let (frames, tokens_per_frame, length, size, edge) = (5, 12, 29, 15, Edge::Mask);
    let partition =
        Partition::Windows { frames, tokens_per_frame, length, size, scale: 58, offset: 29, divisor: 10, edge };
    let [q, k] = [partition.queries(), length].map(|n| of(DType::F32, &[1, n, 2, 8]));
    let (c, lse) = (of(DType::F32, &[4, 2, 8]), of(DType::F32, &[1, 2, partition.queries()]));
    let inputs = [q.clone(), k.clone(), k, c.clone(), c, q.clone(), q, lse];
    let texts = texts(&target, PartitionedContextAttentionGrad { partition }, &inputs);
    assert_eq!(texts.len(), 3);
    insta::assert_snapshot!("context_attention_gradient_of_keys_wgpu", texts[1]);
}
