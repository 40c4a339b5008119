//! Attention and its gradient on tensor cores agree with the reference on softcuda's interpreter of PTX.

use std::collections::BTreeSet;

use crate::cases::{
    agrees, attention, backward, changed_inputs_of, gradient, inputs_of, launches, partitioned, target, ty, windows,
};
use crate::common::{Buffer, call};
use crate::soft::Soft;
use ccl_codegen::gpu::tensor::attention::AttentionTile;
use ccl_codegen::gpu::tiles::{AttentionProblem, Problem, ProblemTile};
use ccl_codegen::gpu::{Kernel, Target, TensorCores};
use ccl_ir::ops;
use ccl_ir::partition::Edge;
use ccl_ir::plan::Call;
use ccl_ir::{DType, Op, Partition, Sample};
use rayon::prelude::*;

/// A tile of a call.
struct Tried<'a> {
    sample: &'a Sample<Op>,
    /// Of its kind of half precision.
    at: usize,
    seed: u64,
    call: Call,
    target: Target,
    tile: AttentionTile,
    name: String,
}

impl Tried<'_> {
    /// The tile is taken, and gives what the reference gives: of random inputs, of scores that grow, of a single key.
    fn agrees(&self, soft: &Soft) {
        let Self { sample, call, .. } = self;
        let runs = |name: &str, inputs: &[Buffer]| {
            let name = format!("{name} {:?}", self.tile);
            match agrees(soft, &self.target, &name, call, inputs).remove(0) {
                Kernel::TensorAttention(a) => assert_eq!(a.tile.tile, self.tile, "{name}: the choice was not taken"),
                other => panic!("{name}: {other:?}"),
            }
        };
        runs(&self.name, &inputs_of(sample, call, self.seed));
        if self.at < 3 {
            // Scores that grow from key to key, for every third query so much that earlier weights are nothing beside later ones.
            let shape = &call.inputs[0].ty.shape;
            let [heads, dim] = [shape[2], shape[3]];
            let grow = |i: usize, data: &mut Vec<f64>| {
                let rows = data.len() / (heads * dim);
                for (at, x) in data.iter_mut().enumerate() {
                    match (i, at / (heads * dim)) {
                        (0, query) if query % 3 == 0 => *x *= 4.0,
                        (1, key) => *x *= 1.0 + 4.0 * key as f64 / rows as f64,
                        _ => {}
                    }
                }
            };
            runs(&format!("{} growing", self.name), &changed_inputs_of(sample, call, self.seed, grow));
        }
        if counted(call) {
            let one = |i: usize, data: &mut Vec<f64>| {
                if call.inputs[i].ty.dtype == DType::I32 {
                    data[0] = 1.0;
                }
            };
            runs(&format!("{} one key", self.name), &changed_inputs_of(sample, call, self.seed, one));
        }
    }
}

#[test]
fn attention_agrees_with_the_reference() {
    let nearest = |tokens_per_frame| Partition::NearestFrame { frames: 3, tokens_per_frame, length: 25 };
    let samples = |half| {
        [
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
        ]
    };
    let halves = [DType::Bf16, DType::F16].map(|half| (half, samples(half)));
    let (mut tiles, mut all) = (BTreeSet::new(), Vec::new());
    for (number, (half, samples)) in halves.iter().enumerate() {
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
                    // Those of `wgmma` differ more from one another: each sees every way of finding keys.
                    let new = |t: &AttentionTile| tiles.insert((*t, shape[3], *half)) || t.cores != TensorCores::Mma;
                    list.extend(other.tiles(&target).filter(new));
                }
                list.sort_unstable();
                list.dedup();
                for tile in list {
                    let mut target = target.clone();
                    target.choices.choose(&problem, ProblemTile::Attention(tile));
                    let (call, name, seed) = (call.clone(), name.clone(), (number * 100 + at) as u64);
                    all.push(Tried { sample, at, seed, call, target, tile, name });
                }
            }
        }
    }
    let soft = Soft::new();
    all.par_iter().for_each(|tried| tried.agrees(&soft));
}

fn counted(call: &Call) -> bool {
    call.inputs.iter().any(|o| o.ty.dtype == DType::I32)
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
    let nearest = Partition::NearestFrame { frames: 3, tokens_per_frame: 100, length: 25 };
    let samples = |half| {
        [
            attention(half, [2, 70, 90, 2, 64], false, false),
            attention(half, [1, 90, 150, 1, 128], false, false),
            attention(half, [1, 65, 33, 1, 32], true, true),
            attention(half, [1, 20, 20, 2, 16], false, false),
            partitioned(half, windows(3, 50, 31, 12, Edge::Mask), [2, 128, 5], 1),
            partitioned(half, windows(3, 20, 31, 40, Edge::Replicate), [1, 64, 8], 1),
            partitioned(half, windows(2, 70, 90, 70, Edge::Shift), [1, 64, 20], 1),
            partitioned(half, nearest, [2, 128, 8], 1),
        ]
    };
    let mut all = Vec::new();
    for half in [DType::Bf16, DType::F16] {
        for (at, forward) in samples(half).into_iter().enumerate() {
            // The kinds of half precision differ in nothing that a tile decides: of the one every tile, of the other that which is taken.
            let turns = if half == DType::Bf16 { gradient_tiles(&forward) } else { vec![target(80)] };
            all.extend(turns.into_iter().map(|target| (at, forward.clone(), target)));
        }
    }
    let soft = Soft::new();
    all.par_iter().for_each(|(at, forward, target)| {
        let call = call(&gradient(forward));
        let name = format!("{at} {:?} {:?}", call.op, target.choices.tiles);
        agrees(&soft, target, &name, &call, &backward(forward, &call, *at as u64));
        for launch in launches(&call, target) {
            let Kernel::TensorAttentionGrad(a) = &launch.blueprint.kernel else { panic!("{name}: {launch:?}") };
            let tile = ProblemTile::Gradient(a.tile.tile);
            let chosen = Problem::of(&launch).and_then(|p| target.choices.tiles.get(&p.key()));
            assert!(target.choices.tiles.is_empty() || chosen == Some(&tile), "{name}: the choice was not taken");
        }
    });
}

/// Targets that choose every tile of the kernels of an attention's gradient, as many as the one with the most tiles has.
fn gradient_tiles(forward: &Sample<Op>) -> Vec<Target> {
    let target = target(90);
    let problems: Vec<Problem> = launches(&call(&gradient(forward)), &target).iter().filter_map(Problem::of).collect();
    let most = problems.iter().map(|p| p.tiles(&target).len()).max().unwrap_or(0);
    let turn = |turn: usize| {
        let mut target = target.clone();
        for problem in &problems {
            let tiles = problem.tiles(&target);
            target.choices.choose(problem, tiles[turn % tiles.len()]);
        }
        target
    };
    (0..most).map(turn).collect()
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
            (partitioned(half, windows(2, 257, 300, 270, Edge::Shift), [1, 64, 8], 1), 1),
            (
                partitioned(
                    half,
                    Partition::NearestFrame { frames: 1, tokens_per_frame: 300, length: 260 },
                    [1, 64, 8],
                    1,
                ),
                1,
            ),
            // Short of it on one side.
            (attention(half, [1, 256, 300, 1, 64], false, false), 0),
            (attention(half, [1, 300, 256, 1, 64], false, false), 0),
            (attention(half, [1, 300, 40, 1, 64], false, false), 0),
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
