//! Every tile of plain arithmetic that may be chosen, on a wgpu device and against the f64 evaluation, at sizes that fill none. Needs a Vulkan driver;
//! lavapipe will do.

use std::collections::BTreeSet;

use crate::cases::End;
use crate::cases::{attention, backward, gradient, inputs_of, launches, linear, mat_mul};
use crate::checks::{FULL, HALF};
use crate::common::{Buffer, call, client, reference, run, target};
use ccl_codegen::gpu::tiles::{Problem, ProblemTile};
use ccl_codegen::gpu::{Kernel, Target, Tiles};
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Sample};

/// Runs a call with every tile of its kernels, as many times as the one with the most tiles has, and compares every output. The tiles that were taken.
fn every_tile(target: &Target, call: &Call, inputs: &[Buffer], bound: f64) -> BTreeSet<String> {
    let problems: Vec<Problem> = launches(call, target).iter().filter_map(Problem::of).collect();
    let tiles: Vec<_> = problems.iter().map(|p| p.tiles(target)).collect();
    assert!(!problems.is_empty() && problems.iter().all(|p| p.plain), "{problems:?}");
    let want = reference(call, inputs);
    let mut taken = BTreeSet::new();
    for turn in 0..tiles.iter().map(Vec::len).max().unwrap_or(0) {
        let mut target = target.clone();
        for (problem, tiles) in problems.iter().zip(&tiles) {
            target.choices.choose(problem, tiles[turn % tiles.len()]);
        }
        for launch in launches(call, &target) {
            let (tile, problem) = (tile_of(&launch.blueprint.kernel), Problem::of(&launch).unwrap());
            assert_eq!(target.choices.tiles.get(&problem.key()), Some(&tile), "the choice was not taken");
            taken.insert(format!("{tile:?}"));
        }
        let got = run(&client(), &target, call, inputs).unwrap().unwrap();
        for (port, (got, want)) in got.iter().zip(&want).enumerate() {
            let error = relative_l2(got, &want.data);
            assert!(error <= bound, "{:?} output {port}: {error:e} > {bound:e} with {:?}", call.op, target.choices);
        }
    }
    taken
}

/// The tile of a kernel.
fn tile_of(kernel: &Kernel) -> ProblemTile {
    match kernel {
        Kernel::Product(p) => ProblemTile::PlainProduct(p.tile),
        Kernel::Attention(a) => ProblemTile::PlainAttention(a.tile),
        Kernel::AttentionGrad(a) => ProblemTile::PlainGradient(a.tile),
        other => panic!("{other:?}"),
    }
}

/// The target as GPUs have it: those of software are tried everywhere else.
fn large() -> Target {
    Target { tiles: Tiles::Large, ..target() }
}

#[test]
fn of_products() {
    let mut taken = BTreeSet::new();
    for (sample, turned, bound) in [
        (linear(DType::F32, [137, 75, 61], End::GeluGate), false, FULL),
        (mat_mul(DType::F16, [2, 70, 133, 37], false, None), true, HALF),
    ] {
        let mut call = call(&sample);
        if turned {
            // Column by column, as tokens lie for the gradient of a weight.
            let o = &mut call.inputs[0];
            o.strides = vec![(o.ty.shape[1] * o.ty.shape[2]) as u64, 1, o.ty.shape[1] as u64];
        }
        taken.extend(every_tile(&target(), &call, &inputs_of(&sample, &call, 3), bound));
    }
    assert_eq!(taken.len(), 8, "{taken:?}");
}

/// Heads whose channels fill no row of units, in a cube of either width.
fn forward() -> Sample<Op> {
    attention(DType::F32, [1, 37, 45, 1, 40], true, false)
}

#[test]
fn of_attention() {
    let call = call(&forward());
    let taken = every_tile(&large(), &call, &inputs_of(&forward(), &call, 5), FULL);
    assert!(taken.len() >= 9, "{taken:?}");
}

#[test]
fn of_gradients() {
    let call = call(&gradient(&forward()));
    let taken = every_tile(&large(), &call, &backward(&forward(), &call, 7), FULL);
    assert!(taken.len() >= 6, "{taken:?}");
}

/// What a device has no room for is not among its tiles.
#[test]
fn small_devices_have_fewer() {
    let problem = Problem::of(&launches(&call(&linear(DType::F32, [64, 64, 64], End::Plain)), &target())[0]).unwrap();
    let count = |units: u32, bytes: u32| {
        problem.tiles(&Target { max_units: units, shared_bytes: bytes, ..Target::wgpu() }).len()
    };
    assert_eq!((count(256, 16384), count(256, 8192), count(64, 16384)), (8, 6, 4));
    // A tile that is not the target's is not taken.
    let mut small = Target { max_units: 64, ..target() };
    let wide = problem.tiles(&target()).into_iter().find(|t| !problem.tiles(&small).contains(t)).unwrap();
    small.choices.choose(&problem, wide);
    let sample = linear(DType::F32, [64, 64, 64], End::Plain);
    assert_eq!(launches(&call(&sample), &small)[0].blueprint.units, [64, 1, 1]);
}
