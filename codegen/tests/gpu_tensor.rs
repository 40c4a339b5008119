//! Tensor-core kernels: every tile compiles without spilled registers, and agrees with the reference on softcuda's interpreter of PTX.

mod gpu_common;
#[path = "gpu_common/nvrtc.rs"]
mod nvrtc;
#[path = "gpu_common/soft.rs"]
mod soft;

use std::collections::BTreeSet;
use std::path::Path;

use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::tensor::tiles::{AttentionProblem, Problem, ProblemTile, product_tiles};
use ccl_codegen::gpu::{Kernel, Lowered, Target, TensorCores, lower};
use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::interp::sample_inputs;
use ccl_ir::ops::{self, BinaryKind, UnaryKind};
use ccl_ir::partition::Edge;
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Partition, Sample, TensorType};
use gpu_common::{Buffer, call, reference};
use nvrtc::{ARCHITECTURES, Nvrtc};
use rayon::prelude::*;
use soft::Soft;

fn target(capability: u32) -> Target {
    Target::cuda("cuda", capability)
}

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

/// A linear map of `m` tokens from `k` to `n` channels: with a bias, and for `gate` with gate and residual.
/// What is done with the sums of a linear map, besides a bias.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Plain,
    Gelu,
    /// A gate that all rows share, and a residual.
    Gate,
    /// The same after GELU.
    GeluGate,
}

fn linear(half: DType, [m, n, k]: [usize; 3], end: End) -> Sample<Op> {
    let gelu = Instr::Unary(UnaryKind::GeluTanh, Arg::In(0));
    let gate = |x| Instr::Binary(BinaryKind::Mul, x, Arg::In(2));
    let residual = |step| Instr::Binary(BinaryKind::Add, Arg::In(1), Arg::Step(step));
    let steps = match end {
        End::Plain => Vec::new(),
        End::Gelu => vec![gelu],
        End::Gate => vec![gate(Arg::In(0)), residual(0)],
        End::GeluGate => vec![gelu, gate(Arg::Step(0)), residual(1)],
    };
    let extras = matches!(end, End::Gate | End::GeluGate);
    let rest = if extras { vec![ty(half, &[1, m, n]), ty(DType::F32, &[1, 1, n])] } else { Vec::new() };
    let epilogue = (end != End::Plain).then_some(Chain { inputs: 1 + rest.len() as u16, steps });
    let inputs = [vec![ty(half, &[1, m, k]), ty(half, &[n, k]), ty(half, &[n])], rest].concat();
    Sample::new(Op::from(ops::Linear { bias: true, epilogue, out: None }), inputs)
}

fn mat_mul(half: DType, [b, m, n, k]: [usize; 4], transpose_b: bool, out: Option<DType>) -> Sample<Op> {
    let right = if transpose_b { [b, n, k] } else { [b, k, n] };
    Sample::new(Op::from(ops::MatMul { transpose_b, out }), vec![ty(half, &[b, m, k]), ty(half, &right)])
}

fn attention(half: DType, [b, queries, keys, heads, dim]: [usize; 5], masked: bool, counted: bool) -> Sample<Op> {
    let k = ty(half, &[b, keys, heads, dim]);
    let mut inputs = vec![ty(half, &[b, queries, heads, dim]), k.clone(), k];
    if masked {
        inputs.push(ty(DType::F32, &[b, keys]));
    }
    if counted {
        inputs.push(TensorType::new(DType::I32, []));
    }
    Sample::new(Op::from(ops::Attention { masked, counted }), inputs)
}

fn partitioned(half: DType, p: Partition, [heads, dim, context]: [usize; 3], splits: usize) -> Sample<Op> {
    let (q, k) = (ty(half, &[1, p.queries(), heads, dim]), ty(half, &[1, p.keys(), heads, dim]));
    let token = ty(half, &[context, heads, dim]);
    let op = ops::PartitionedContextAttention { splits, ..ops::PartitionedContextAttention::new(p) };
    Sample::new(Op::from(op), vec![q, k.clone(), k, token.clone(), token])
}

/// The gradient of a forward sample; its result and log-sum-exp are put in by [`backward`].
fn gradient(forward: &Sample<Op>) -> Sample<Op> {
    let q = &forward.inputs[0];
    let (heads, queries) = (q.shape[2], q.shape[1]);
    let mut inputs = forward.inputs.clone();
    let rest = [q.clone(), q.clone(), ty(DType::F32, &[q.shape[0], heads, queries])];
    let op: Op = match &forward.op {
        Op::Attention(a) => {
            inputs.splice(3..3, rest);
            ops::AttentionGrad { masked: a.masked, counted: a.counted }.into()
        }
        Op::PartitionedContextAttention(p) => {
            inputs.extend(rest);
            ops::PartitionedContextAttentionGrad { partition: p.partition }.into()
        }
        other => panic!("{other:?}"),
    };
    Sample::new(op, inputs)
}

fn windows(frames: usize, tokens_per_frame: usize, length: usize, size: usize, edge: Edge) -> Partition {
    Partition::Windows {
        frames,
        tokens_per_frame,
        length,
        size,
        scale: length,
        offset: length / 2,
        divisor: frames,
        edge,
    }
}

fn launches(call: &Call, target: &Target) -> Vec<ccl_codegen::gpu::Launch> {
    match lower(call, target).unwrap() {
        Lowered::Device(launches) => launches,
        Lowered::Host => panic!("the host runs {}", call.op.name()),
    }
}

/// Inputs of a call. A count is two thirds of the keys; a mask hides some.
fn inputs_of(sample: &Sample<Op>, call: &Call, seed: u64) -> Vec<Buffer> {
    let drawn = sample_inputs(sample, seed);
    let keys = call.inputs[1].ty.shape.iter().rev().nth(2).copied().unwrap_or(1);
    let inputs = call.inputs.iter().zip(&drawn).enumerate().map(|(i, (o, t))| match o.ty.dtype {
        DType::I32 => Buffer::new(o, &[(keys * 2 / 3) as f64]),
        // A mask hides some keys.
        _ if i == 3 && matches!(call.op, Op::Attention(_)) => Buffer::new(
            o,
            &t.data
                .iter()
                .enumerate()
                .map(|(at, x)| if at % 7 == 2 { f64::NEG_INFINITY } else { *x })
                .collect::<Vec<_>>(),
        ),
        _ => Buffer::new(o, &t.data),
    });
    inputs.collect()
}

/// Inputs of a gradient: what the forward pass was given, what it left, and a gradient of its result.
fn backward(forward: &Sample<Op>, call: &Call, seed: u64) -> Vec<Buffer> {
    let given = inputs_of(forward, &gpu_common::call(forward), seed);
    let left = reference(&gpu_common::call(forward), &given);
    let at = if call.op.name() == "attention_grad" { 3 } else { 5 };
    let drawn = sample_inputs(&gradient(forward), seed + 1);
    let mut given = given.into_iter();
    let mut list = Vec::new();
    for (i, o) in call.inputs.iter().enumerate() {
        list.push(match i.checked_sub(at) {
            Some(0) => Buffer::new(o, &left[0].data),
            Some(1) => Buffer::new(o, &drawn[i].data),
            Some(2) => Buffer::new(o, &left[1].data),
            _ => given.next().unwrap(),
        });
    }
    list
}

/// Runs a call on the interpreter and holds it against the reference.
fn agrees(soft: &Soft, target: &Target, name: &str, call: &Call, inputs: &[Buffer]) -> Vec<Kernel> {
    let (outputs, done) = soft.run(target, call, inputs).unwrap();
    for (port, (got, want)) in outputs.iter().zip(reference(call, inputs)).enumerate() {
        let error = relative_l2(got, &want.data);
        // Attention rounds its weights to half precision, everything its results.
        let bound = match call.inputs[0].ty.dtype {
            DType::Bf16 => 5e-3,
            _ => 1e-3,
        };
        let bound = if call.outputs[port].ty.dtype == DType::F32 && call.op.name() != "attention" {
            bound / 2.0
        } else {
            bound
        };
        assert!(error <= bound, "{name} output {port}: {error:e} > {bound:e}");
    }
    done.into_iter().map(|(launch, _)| launch.blueprint.kernel).collect()
}

#[test]
fn products_agree_with_the_reference() {
    let soft = Soft::new();
    let mut seen = BTreeSet::new();
    // How the left factor lies: as it is written, column by column, or with its elements apart.
    let (plain, turned, apart) = (0, 1, 3);
    let mut cases = Vec::new();
    for (number, cores) in [(80, TensorCores::Mma), (90, TensorCores::Wgmma)].into_iter().enumerate() {
        let target = target(cores.0);
        let tiles: Vec<_> = product_tiles(&target).filter(|t| t.cores == cores.1).collect();
        for (at, tile) in tiles.iter().enumerate() {
            let half = if (at + number) % 2 == 0 { DType::Bf16 } else { DType::F16 };
            let [bm, bn] = tile.sides.map(|s| s as usize);
            // Beyond a tile on all sides, and neither a whole number of tiles nor of eights.
            let sizes = [bm + 9, bn + 24, 136];
            cases.push((target.clone(), *tile, linear(half, sizes, End::GeluGate), plain));
            cases.push((target.clone(), *tile, linear(half, [bm / 2 + 1, bn - 3, 67], End::GeluGate), plain));
            cases.push((target.clone(), *tile, mat_mul(half, [2, 40, 72, 80], false, Some(DType::F32)), apart));
            cases.push((target.clone(), *tile, mat_mul(half, [1, bm + 8, bn + 8, 200], false, None), turned));
            cases.push((target.clone(), *tile, mat_mul(half, [1, 50, 36, 90], true, None), turned));
        }
    }
    // What the copy engine brings has lines that begin at multiples of 16 bytes. Where there are few cubes each has several tiles.
    for (at, tile) in product_tiles(&target(90)).filter(|t| t.is_bulk()).enumerate() {
        let half = if at % 2 == 0 { DType::Bf16 } else { DType::F16 };
        let [bm, bn] = tile.sides.map(|s| s as usize);
        let few = Target { parallelism: 1, ..target(90) };
        cases.push((target(90), tile, linear(half, [bm + 9, bn + 24, 136], End::GeluGate), plain));
        cases.push((few.clone(), tile, linear(half, [bm + 1, 2 * bn - 3, 328], End::GeluGate), plain));
        cases.push((few.clone(), tile, linear(half, [2 * bm - 7, bn + 8, 72], End::Gelu), plain));
        cases.push((few.clone(), tile, mat_mul(half, [1, bm + 8, bn + 8, 200], false, Some(DType::F32)), turned));
        cases.push((few, tile, mat_mul(half, [1, 56, 40, 88], true, None), turned));
        if tile.slices > 1 {
            // Cubes that have several parts of the depth, not all as many.
            cases.push((
                target(90),
                tile,
                linear(half, [bm + 1, bn + 8, 64 * 2 * tile.slices as usize + 72], End::GeluGate),
                plain,
            ));
        }
    }
    for (number, (mut target, tile, sample, step)) in cases.into_iter().enumerate() {
        let mut call = call(&sample);
        if step > 0 {
            // Column by column, as tokens lie for the gradient of a weight; or heads between, as weights of attention lie.
            let o = &mut call.inputs[0];
            let [m, k] = [o.ty.shape[1], o.ty.shape[2]];
            o.strides = vec![(m * k) as u64 * step, step, m as u64 * step];
        }
        let name = format!("{tile:?} {:?} step {step}", sample.inputs);
        let problem =
            Problem::of(&launches(&call, &target)[0]).unwrap_or_else(|| panic!("{name}: not on tensor cores"));
        target.choices.choose(&problem, ProblemTile::Product(tile));
        match agrees(&soft, &target, &name, &call, &inputs_of(&sample, &call, number as u64)).remove(0) {
            Kernel::TensorProduct(p) => {
                assert_eq!(p.tile, tile, "{name}: the choice was not taken");
                seen.insert((tile, p.a.along, p.b.along));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(seen.len() >= 20, "{seen:?}");
}

/// What is expected of tiles: few tiles of a deep product share their depth, many have a multiprocessor to themselves.
#[test]
fn few_tiles_share_their_depth() {
    let target = target(90);
    let tile =
        |m, n, k| match &launches(&call(&linear(DType::Bf16, [m, n, k], End::Plain)), &target)[0].blueprint.kernel {
            Kernel::TensorProduct(p) => p.tile,
            other => panic!("{other:?}"),
        };
    for tokens in [140, 158, 190] {
        assert!(tile(tokens, 1536, 8960).slices >= 4, "{tokens}");
        assert_eq!(tile(tokens, 8960, 1536).slices, 1, "{tokens}");
    }
    assert_eq!((tile(18480, 5120, 5120).sides, tile(18480, 5120, 5120).slices), ([128, 256], 1));
}

#[test]
fn attention_agrees_with_the_reference() {
    let soft = Soft::new();
    let nearest = |tokens_per_frame| Partition::NearestFrame { frames: 3, tokens_per_frame, length: 25 };
    let mut tiles = BTreeSet::new();
    for (number, half) in [DType::Bf16, DType::F16].into_iter().enumerate() {
        let samples = [
            attention(half, [2, 70, 150, 2, 64], false, false),
            attention(half, [1, 200, 261, 1, 128], false, false),
            attention(half, [1, 140, 130, 1, 64], true, false),
            attention(half, [1, 40, 100, 1, 128], false, true),
            attention(half, [1, 20, 20, 2, 16], false, false),
            attention(half, [1, 65, 33, 1, 32], true, true),
            partitioned(half, windows(3, 50, 31, 12, Edge::Mask), [2, 128, 5], 1),
            partitioned(half, windows(3, 20, 31, 40, Edge::Replicate), [1, 64, 8], 1),
            partitioned(half, windows(2, 130, 90, 70, Edge::Shift), [1, 64, 16], 2),
            partitioned(half, nearest(100), [2, 128, 8], 1),
            partitioned(half, nearest(300), [1, 64, 8], 3),
        ];
        for (at, sample) in samples.iter().enumerate() {
            let call = call(sample);
            for target in [target(80), target(90)] {
                let shape = &call.inputs[0].ty.shape;
                let name = format!("{half:?} {at} {} {:?}", target.name, call.op);
                let launch = &launches(&call, &target)[0];
                let (Kernel::TensorAttention(first), Some(problem)) = (&launch.blueprint.kernel, Problem::of(launch))
                else {
                    panic!("{name}: not on tensor cores")
                };
                // Every tile that some problem of these may take.
                let mut list = vec![first.tile.tile];
                for (queries, keys) in [(16, 16), (16, 500), (50, 500), (500, 30), (500, 60), (100, 500), (500, 500)] {
                    let other = AttentionProblem { dim: shape[3] as u32, queries, keys, cubes: 1 };
                    list.extend(other.tiles(&target).filter(|t| tiles.insert((*t, shape[3], half))));
                }
                for tile in list {
                    let mut target = target.clone();
                    target.choices.choose(&problem, ProblemTile::Attention(tile));
                    let name = format!("{name} {tile:?}");
                    match agrees(&soft, &target, &name, &call, &inputs_of(sample, &call, (number * 100 + at) as u64))
                        .remove(0)
                    {
                        Kernel::TensorAttention(a) => assert_eq!(a.tile.tile, tile, "{name}: the choice was not taken"),
                        other => panic!("{name}: {other:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn probabilities_agree_with_the_reference() {
    let soft = Soft::new();
    let nearest = Partition::NearestFrame { frames: 3, tokens_per_frame: 100, length: 25 };
    for (number, half) in [DType::Bf16, DType::F16].into_iter().enumerate() {
        let partitions = [
            (None, [2, 64, 20]),
            (Some(windows(3, 50, 31, 12, Edge::Mask)), [2, 128, 5]),
            (Some(windows(3, 20, 31, 40, Edge::Shift)), [1, 64, 8]),
            (Some(nearest), [2, 128, 8]),
        ];
        for (at, (partition, [heads, dim, context])) in partitions.into_iter().enumerate() {
            let queries = partition.map_or(70, |p| p.queries());
            let mut inputs = vec![ty(half, &[1, queries, heads, dim]), ty(half, &[context, heads, dim])];
            inputs.extend(partition.map(|p| ty(half, &[1, p.keys(), heads, dim])));
            let sample = Sample::new(Op::from(ops::ContextProbabilities { partition }), inputs);
            let call = call(&sample);
            let name = format!("{half:?} {at} {partition:?}");
            let kernels = agrees(&soft, &target(80), &name, &call, &inputs_of(&sample, &call, number as u64));
            assert!(matches!(kernels[0], Kernel::TensorProbabilities(_)), "{name}: {kernels:?}");
        }
    }
}

#[test]
fn gradients_of_attention_agree_with_the_reference() {
    let soft = Soft::new();
    let target = target(80);
    let nearest = Partition::NearestFrame { frames: 3, tokens_per_frame: 100, length: 25 };
    for (number, half) in [DType::Bf16, DType::F16].into_iter().enumerate() {
        for (at, forward) in [
            attention(half, [2, 70, 90, 2, 64], false, false),
            attention(half, [1, 90, 150, 1, 128], false, false),
            attention(half, [1, 65, 33, 1, 32], true, true),
            attention(half, [1, 20, 20, 2, 16], false, false),
            partitioned(half, windows(3, 50, 31, 12, Edge::Mask), [2, 128, 5], 1),
            partitioned(half, windows(3, 20, 31, 40, Edge::Replicate), [1, 64, 8], 1),
            partitioned(half, windows(2, 70, 90, 70, Edge::Shift), [1, 64, 20], 1),
            partitioned(half, nearest, [2, 128, 8], 1),
        ]
        .iter()
        .enumerate()
        {
            let call = call(&gradient(forward));
            let name = format!("{half:?} {at} {:?}", call.op);
            let kernels = agrees(&soft, &target, &name, &call, &backward(forward, &call, (number * 100 + at) as u64));
            assert!(kernels.iter().all(|k| matches!(k, Kernel::TensorAttentionGrad(_))), "{name}: {kernels:?}");
        }
    }
}

/// With `wgmma`: what has many rows on both sides, seen by all, with masks and counts, and through windows.
#[test]
fn gradients_of_long_attention_agree_with_the_reference() {
    let soft = Soft::new();
    let target = target(90);
    for (number, half) in [DType::Bf16, DType::F16].into_iter().enumerate() {
        // How many of the kernels multiply by `wgmma`: those of queries, and those of keys that all queries may see.
        for (at, (forward, groups)) in [
            (attention(half, [1, 300, 261, 1, 128], false, false), 2),
            (attention(half, [2, 257, 330, 1, 64], true, true), 2),
            (attention(half, [1, 257, 390, 1, 64], false, true), 2),
            (partitioned(half, windows(2, 260, 280, 260, Edge::Mask), [1, 64, 8], 1), 1),
            (partitioned(half, windows(1, 260, 260, 300, Edge::Replicate), [1, 128, 8], 1), 1),
        ]
        .iter()
        .enumerate()
        {
            let call = call(&gradient(forward));
            let name = format!("{half:?} {at} {:?}", call.op);
            let kernels = agrees(&soft, &target, &name, &call, &backward(forward, &call, (number * 100 + at) as u64));
            let group =
                |k: &&Kernel| matches!(k, Kernel::TensorAttentionGrad(a) if a.tile.tile.cores == TensorCores::Wgmma);
            assert_eq!(kernels.iter().filter(group).count(), *groups, "{name}: {kernels:?}");
        }
    }
}

/// Every tile of the problems that tensor cores solve, in both kinds of half precision and with every way of reading.
#[test]
fn no_tile_spills_registers() {
    let nvrtc = Nvrtc::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|e| panic!("{e}"));
    let mut texts = BTreeSet::new();
    for (architecture, capability) in ARCHITECTURES {
        for half in [DType::Bf16, DType::F16] {
            // The kinds of half precision differ in the names of instructions, the newest architecture from the oldest in little: there the
            // tile that is taken will do.
            let all = half == DType::Bf16 && capability <= 90;
            let target = target(capability);
            let mut products = vec![
                (linear(half, [18480, 5120, 5120], End::GeluGate), false),
                (linear(half, [18480, 5120, 13824], End::Gate), false),
                (linear(half, [18480, 13824, 5120], End::Gelu), false),
                (mat_mul(half, [1, 18480, 5120, 13824], false, None), false),
                (mat_mul(half, [1, 5120, 13824, 18480], false, Some(DType::F32)), true),
            ];
            if half == DType::F16 {
                products.truncate(3);
            }
            for (sample, turned) in products {
                let mut call = call(&sample);
                if turned {
                    let o = &mut call.inputs[0];
                    o.strides = vec![(o.ty.shape[1] * o.ty.shape[2]) as u64, 1, o.ty.shape[1] as u64];
                }
                all_tiles(&call, &target, architecture, all, &mut texts);
            }
            let windows = windows(21, 880, 158, 23, Edge::Mask);
            let nearest = Partition::NearestFrame { frames: 21, tokens_per_frame: 880, length: 158 };
            for dim in [64, 128] {
                for sample in [
                    attention(half, [1, 18480, 18480, 40, dim], false, false),
                    attention(half, [1, 18480, 512, 40, dim], false, true),
                    partitioned(half, windows, [40, dim, 8], 1),
                    partitioned(half, nearest, [40, dim, 8], 1),
                ] {
                    all_tiles(&call(&sample), &target, architecture, all, &mut texts);
                    for launch in launches(&call(&gradient(&sample)), &target) {
                        texts.insert((architecture, format!("gradient {dim}"), emit(&launch, &target).unwrap().text));
                    }
                }
            }
        }
    }
    let wrong: Vec<String> = texts
        .par_iter()
        .filter_map(|(architecture, name, text)| {
            let log = nvrtc.assembled(text, architecture).unwrap_or_else(|e| panic!("{name} for {architecture}: {e}"));
            let told = log.contains("bytes spill stores") && log.contains("registers");
            let clean = told
                && log.contains(" 0 bytes spill stores, 0 bytes spill loads")
                && !log.contains("serialized")
                && !log.contains("setmaxnreg");
            (!clean).then(|| format!("{name} for {architecture}: {log}"))
        })
        .collect();
    println!("{} kernels", texts.len());
    assert!(texts.len() > 60 && wrong.is_empty(), "{} kernels:\n{}", texts.len(), wrong.join("\n"));
}

/// The texts of a call's kernel with every tile, or with the one that is taken.
fn all_tiles(
    call: &Call,
    target: &Target,
    architecture: &'static str,
    all: bool,
    texts: &mut BTreeSet<(&'static str, String, String)>,
) {
    let launch = &launches(call, target)[0];
    let problem = Problem::of(launch).unwrap();
    texts.insert((architecture, problem.key(), emit(launch, target).unwrap().text));
    for tile in problem.tiles(target).into_iter().filter(|_| all) {
        let mut target = target.clone();
        target.choices.choose(&problem, tile);
        let launch = &launches(call, &target)[0];
        texts.insert((architecture, format!("{} {tile:?}", problem.key()), emit(launch, &target).unwrap().text));
    }
}
