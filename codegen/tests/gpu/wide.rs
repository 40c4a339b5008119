//! Kernels that move sixteen bytes at a time agree with the reference on softcuda's interpreter of PTX, read a row once, and waste no bytes.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::{Buffer, call, reference};
use crate::nvrtc::{ARCHITECTURES, Nvrtc};
use crate::soft::Soft;
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Kernel, Lowered, Target, lower};
use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::interp::sample_inputs;
use ccl_ir::ops::{
    AdamW, Binary, BinaryKind, Fused, LayerNorm, NormGrad, NormModulate, RmsNorm, RmsNormRope, Transpose, UnaryKind,
};
use ccl_ir::plan::{Call, Place};
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Operator, Sample, TensorType};
use softcuda::Stats;

const HALVES: [DType; 2] = [DType::Bf16, DType::F16];

fn target() -> Target {
    Target::cuda("cuda", 90)
}

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

fn f32(shape: &[usize]) -> TensorType {
    TensorType::f32(shape)
}

/// Whether a kernel is one of those that are looked at here.
fn is_wide(kernel: &Kernel) -> bool {
    matches!(
        kernel,
        Kernel::WideAdamW(_)
            | Kernel::WideElementwise(_)
            | Kernel::WideNorm(_)
            | Kernel::WideNormGrad(_)
            | Kernel::WideNormRope(_)
    )
}

/// Runs a call, which has to be one wide kernel, and holds it against the reference; returns the bytes that it loaded.
fn agrees(soft: &Soft, call: &Call, sample: &Sample<Op>) -> u64 {
    let name = format!("{:?} on {:?}", call.op, sample.inputs);
    let drawn = sample_inputs(sample, 11);
    let inputs: Vec<Buffer> = call.inputs.iter().zip(&drawn).map(|(o, t)| Buffer::new(o, &t.data)).collect();
    let (outputs, done) = soft.run(&target(), call, &inputs).unwrap();
    for ((got, want), to) in outputs.iter().zip(reference(call, &inputs)).zip(&call.outputs) {
        let error = relative_l2(got, &want.data);
        // Results are rounded once.
        let bound = match to.ty.dtype {
            DType::Bf16 => 3e-3,
            DType::F16 => 4e-4,
            _ => 2e-6,
        };
        assert!(error <= bound, "{name}: {error:e} > {bound:e}");
    }
    let [(launch, stats)] = done.as_slice() else { panic!("{name}: {} launches", done.len()) };
    assert!(is_wide(&launch.blueprint.kernel), "{name}: {:?}", launch.blueprint.kernel);
    // Numbers of single precision take two requests, each of half of a sector: the second finds it in the cache.
    let single = call.inputs.iter().chain(&call.outputs).any(|o| o.ty.dtype == DType::F32);
    assert!(single || stats.sectors == stats.sectors_needed, "{name}: bytes are moved that nobody asked for");
    stats.global_load_bytes
}

fn check(soft: &Soft, op: impl Into<Op>, inputs: &[TensorType], view: impl Fn(&mut Call)) -> u64 {
    let sample = Sample::new(op.into(), inputs.iter().cloned());
    let mut call = call(&sample);
    view(&mut call);
    agrees(soft, &call, &sample)
}

#[test]
fn normalisations() {
    let soft = Soft::new();
    // From half a warp of eights to the longest row that registers hold.
    for (half, d) in HALVES.into_iter().flat_map(|half| [128, 136, 1536, 5120, 16384].map(|d| (half, d))) {
        let (x, m, w) = (ty(half, &[2, 3, d]), f32(&[2, 1, d]), f32(&[d]));
        check(&soft, LayerNorm { eps: 1e-6, affine: false }, std::slice::from_ref(&x), |_| {});
        check(&soft, LayerNorm { eps: 1e-5, affine: true }, &[x.clone(), ty(half, &[d]), w.clone()], |_| {});
        check(&soft, RmsNorm { eps: 1e-6 }, &[x.clone(), w.clone()], |_| {});
        let loaded = check(&soft, NormModulate { eps: 1e-6 }, &[x.clone(), m.clone(), m], |_| {});
        assert_eq!(loaded, 6 * d as u64 * (2 + 4 + 4), "a row is read once");
    }
    check(&soft, LayerNorm { eps: 1e-6, affine: false }, &[f32(&[3, 640])], |_| {});
}

/// So many rows that each cube's units have several times eight numbers, and read what belongs to them late.
#[test]
fn normalisations_of_many_rows() {
    let soft = Soft::new();
    let (half, d) = (DType::Bf16, 768);
    let (x, w, m) = (ty(half, &[2, 600, d]), f32(&[d]), f32(&[2, 1, d]));
    check(&soft, NormModulate { eps: 1e-6 }, &[x.clone(), m.clone(), m.clone()], |_| {});
    check(&soft, RmsNorm { eps: 1e-6 }, &[x.clone(), w.clone()], |_| {});
    check(&soft, RmsNormRope { heads: 6, eps: 1e-6 }, &[x.clone(), w, f32(&[600, 64, 2])], |_| {});
    let gradient = NormGrad { eps: 1e-6, centered: true, scaled: true, one_plus: true };
    check(&soft, gradient, &[x.clone(), x, m], |_| {});
}

#[test]
fn normalisations_of_views() {
    let soft = Soft::new();
    // Every second row of a wider tensor; shift and scale are two of six rows of a modulation.
    let spread = |c: &mut Call| {
        c.inputs[0].offset = 8;
        c.inputs[0].strides = vec![3000, 2 * 256 + 16, 1];
        for (i, row) in [(1, 0), (2, 4)] {
            c.inputs[i].offset = row * 256;
            c.inputs[i].strides = vec![6 * 256, 256, 1];
        }
    };
    let m = f32(&[2, 1, 256]);
    check(&soft, NormModulate { eps: 1e-6 }, &[ty(DType::Bf16, &[2, 5, 256]), m.clone(), m], spread);
    // Four dimensions that do not join.
    let heads = |c: &mut Call| c.inputs[0].strides = vec![4000, 160, 160 * 3 + 8, 1];
    check(&soft, RmsNorm { eps: 1e-6 }, &[ty(DType::F16, &[2, 3, 5, 128]), f32(&[128])], heads);
}

#[test]
fn gradients_of_normalisations() {
    let soft = Soft::new();
    for (half, d) in HALVES.into_iter().flat_map(|half| [136, 1536, 5120].map(|d| (half, d))) {
        let (x, w) = (ty(half, &[2, 3, d]), f32(&[d]));
        for (centered, scaled, one_plus) in [(true, true, true), (true, false, false), (false, true, false)] {
            let factor = scaled.then(|| if one_plus { f32(&[2, 1, d]) } else { w.clone() });
            let inputs: Vec<_> = [x.clone(), x.clone()].into_iter().chain(factor).collect();
            check(&soft, NormGrad { eps: 1e-6, centered, scaled, one_plus }, &inputs, |_| {});
        }
    }
}

/// The longest rows need the most registers, and the optimiser with an average.
#[test]
fn no_kernel_spills_registers() {
    let nvrtc = Nvrtc::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|e| panic!("{e}"));
    let mut texts = BTreeSet::new();
    for (rows, d) in [(4, 5120), (4, 16384), (2000, 5120)] {
        let (x, m) = (ty(DType::Bf16, &[1, rows, d]), f32(&[1, 1, d]));
        let gradient = NormGrad { eps: 1e-6, centered: true, scaled: true, one_plus: true };
        let rotation = [x.clone(), f32(&[d]), f32(&[rows, 64, 2])];
        for (op, inputs) in [
            (Op::from(NormModulate { eps: 1e-6 }), vec![x.clone(), m.clone(), m.clone()]),
            (gradient.into(), vec![x.clone(), x.clone(), m]),
            (RmsNormRope { heads: d / 128, eps: 1e-6 }.into(), rotation.to_vec()),
            (residual(DType::Bf16).into(), vec![x.clone(), f32(&[1, 1, d]), x]),
        ] {
            let Lowered::Device(launches) = lower(&call(&Sample::new(op, inputs)), &target()).unwrap() else {
                panic!()
            };
            assert!(is_wide(&launches[0].blueprint.kernel));
            texts.insert(emit(&launches[0], &target()).unwrap().text);
        }
    }
    for gradient in [DType::F32, DType::Bf16] {
        let Lowered::Device(launches) = lower(&step(&ADAM, gradient, 4096, [0; 5], true), &target()).unwrap() else {
            panic!()
        };
        assert!(is_wide(&launches[0].blueprint.kernel));
        texts.insert(emit(&launches[0], &target()).unwrap().text);
    }
    assert_eq!(texts.len(), 12, "one text of the chain, three of each norm and two of the optimiser");
    for (text, (architecture, _)) in texts.iter().flat_map(|text| ARCHITECTURES.map(|a| (text, a))) {
        let log = nvrtc.assembled(text, architecture).unwrap_or_else(|e| panic!("{architecture}: {e}\n{text}"));
        assert!(log.contains(" 0 bytes spill stores, 0 bytes spill loads"), "{architecture}: {log}\n{text}");
    }
}

#[test]
fn normalisation_with_rotation() {
    let soft = Soft::new();
    for (half, [heads, dim]) in HALVES.into_iter().flat_map(|half| [[1, 128], [3, 64], [40, 128]].map(|s| (half, s))) {
        let d = heads * dim;
        let inputs = [ty(half, &[2, 5, d]), f32(&[d]), f32(&[5, dim / 2, 2])];
        check(&soft, RmsNormRope { heads, eps: 1e-6 }, &inputs, |_| {});
        let behind = |c: &mut Call| c.inputs[1].offset = 16;
        check(&soft, RmsNormRope { heads, eps: 1e-6 }, &inputs, behind);
    }
}

/// `r + gelu(y) g` for a gate `g` and a residual `r`.
fn residual(half: DType) -> Fused {
    let steps = vec![
        Instr::Unary(UnaryKind::GeluTanh, Arg::In(0)),
        Instr::Binary(BinaryKind::Mul, Arg::Step(0), Arg::In(1)),
        Instr::Binary(BinaryKind::Add, Arg::Step(1), Arg::In(2)),
    ];
    Fused { chain: Chain { inputs: 3, steps }, out: Some(half) }
}

#[test]
fn elementwise() {
    let soft = Soft::new();
    for half in HALVES {
        for d in [8, 136, 5120] {
            let x = ty(half, &[2, 7, d]);
            // A gate that repeats over tokens, and one that repeats over channels.
            check(&soft, residual(half), &[x.clone(), f32(&[2, 1, d]), x.clone()], |_| {});
            check(&soft, residual(half), &[x.clone(), f32(&[2, 7, 1]), x.clone()], |_| {});
            check(&soft, Binary { kind: BinaryKind::Mul }, &[x.clone(), x.clone()], |_| {});
        }
        // Heads swapped with tokens, copied in order; a residual that is a view.
        check(&soft, Transpose { perm: vec![0, 2, 1, 3] }, &[ty(half, &[2, 5, 3, 16])], |_| {});
        let x = ty(half, &[2, 9, 24]);
        let view = |c: &mut Call| {
            c.inputs[2].offset = 16;
            c.inputs[2].strides = vec![1000, 40, 1];
        };
        check(&soft, residual(half), &[x.clone(), f32(&[2, 1, 24]), x], view);
    }
}

/// What the width does not fit takes the kernels without it.
#[test]
fn what_is_not_whole_by_eights_is_left_to_others() {
    let kernel = |op: Op, inputs: &[TensorType], view: &dyn Fn(&mut Call), target: &Target| {
        let mut call = call(&Sample::new(op, inputs.iter().cloned()));
        view(&mut call);
        match lower(&call, target).unwrap() {
            Lowered::Device(launches) => launches[0].blueprint.kernel.clone(),
            Lowered::Host => panic!("{} runs on the host", call.op.name()),
        }
    };
    let norm = || Op::from(RmsNorm { eps: 1e-6 });
    let of = |d: usize| [ty(DType::F16, &[2, 3, d]), f32(&[d])];
    let as_is: &dyn Fn(&mut Call) = &|_| {};
    assert!(is_wide(&kernel(norm(), &of(256), as_is, &target())));
    assert!(!is_wide(&kernel(norm(), &of(256), as_is, &Target::wgpu())));
    assert!(!is_wide(&kernel(norm(), &of(260), as_is, &target())));
    assert!(!is_wide(&kernel(norm(), &of(256), &|c| c.inputs[1].offset = 4, &target())));
    assert!(!is_wide(&kernel(norm(), &of(256), &|c| c.inputs[0].strides = vec![900, 260, 1], &target())));
    let swap = || Op::from(Transpose { perm: vec![0, 2, 1] });
    assert!(!is_wide(&kernel(swap(), &of(256)[..1], as_is, &target())));
    let neg = || Op::from(Fused { chain: Chain::unary(UnaryKind::Neg), out: None });
    assert!(is_wide(&kernel(neg(), &of(8)[..1], as_is, &target())));
    assert!(!is_wide(&kernel(neg(), &[f32(&[2, 8])], as_is, &target())));
    // Heads of twelve: eight neighbours are not one head's.
    let turned = [ty(DType::F16, &[1, 2, 240]), f32(&[240]), f32(&[2, 6, 2])];
    assert!(!is_wide(&kernel(RmsNormRope { heads: 20, eps: 1e-6 }.into(), &turned, as_is, &target())));
}

const ADAM: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, group: 1 };

/// A step of the optimiser in place: parameter, moments, gradient and average have their first elements at `firsts`.
fn step(op: &AdamW, gradient: DType, elements: usize, firsts: [u64; 5], average: bool) -> Call {
    let (x, number) = (f32(&[elements]), f32(&[]));
    let mut inputs = vec![x.clone(), x.clone(), x.clone(), number.clone(), ty(gradient, &[elements]), f32(&[2])];
    inputs.push(number.clone());
    if average {
        inputs.extend([x, number]);
    }
    let mut call = call(&Sample::new(op.clone().into(), inputs));
    let Call { inputs, outputs, .. } = &mut call;
    for (i, first) in [0, 1, 2, 4, 7].into_iter().zip(firsts).take(if average { 5 } else { 4 }) {
        inputs[i].offset = first;
    }
    for (o, to) in outputs.iter_mut().enumerate() {
        let from = &inputs[op.updates(o).unwrap()];
        (to.place, to.offset) = (from.place, from.offset);
    }
    call
}

/// Runs a step, which has to be one wide kernel, and holds it against the reference; returns what the kernel did.
fn optimised(soft: &Soft, target: &Target, call: &Call) -> Stats {
    let draw = |i: usize, n: usize| match i {
        3 => vec![42.0],
        5 => vec![0.5, 0.01],
        6 => vec![0.25],
        8 => vec![0.2],
        _ => {
            let number = |at: usize| (at * [5, 7, 13, 0, 11, 0, 0, 17][i] % 97) as f64 / 40.0 - 1.2;
            (0..n).map(number).map(|x| if i == 2 { x.abs() } else { x }).collect()
        }
    };
    let inputs = call.inputs.iter().enumerate();
    let inputs: Vec<Buffer> = inputs.map(|(i, o)| Buffer::new(o, &draw(i, o.ty.elements() as usize))).collect();
    let (outputs, done) = soft.run(target, call, &inputs).unwrap();
    for (port, (got, want)) in outputs.iter().zip(reference(call, &inputs)).enumerate() {
        let error = relative_l2(got, &want.data);
        assert!(error <= 2e-7, "output {port} of {:?}: {error:e}", call.inputs[0].ty);
    }
    let [(launch, stats)] = done.as_slice() else { panic!("{} launches", done.len()) };
    assert!(matches!(launch.blueprint.kernel, Kernel::WideAdamW(_)), "{:?}", launch.blueprint.kernel);
    stats.clone()
}

#[test]
fn the_optimiser() {
    let soft = Soft::new();
    // Less than a warp, a cube to the last unit, one that begins, several.
    for elements in [8, 2048, 2056, 20_000] {
        for (gradient, average) in
            [DType::F32, DType::Bf16, DType::F16].into_iter().flat_map(|g| [(g, false), (g, true)])
        {
            let stats = optimised(&soft, &target(), &step(&ADAM, gradient, elements, [0; 5], average));
            let [arrays, numbers] = if average { [4, 4] } else { [3, 3] };
            let cubes = elements.div_ceil(2048) as u64;
            let moved = elements as u64 * 4 * arrays;
            assert_eq!(stats.global_store_bytes, moved);
            // Every unit reads the numbers that are the same for all.
            assert_eq!(stats.global_load_bytes, moved + elements as u64 * gradient.bytes() + cubes * 256 * 4 * numbers);
            assert_eq!(stats.sectors, stats.sectors_needed, "bytes are moved that nobody asked for");
        }
    }
    // Parts of larger buffers; the grid has a cube too many.
    let parts = step(&ADAM, DType::Bf16, 5000, [8, 48, 0, 16, 4096], true);
    optimised(&soft, &Target { max_cubes: [2, 65535, 65535], ..target() }, &parts);
    // Not in place: what is updated is copied first.
    let mut apart = step(&ADAM, DType::F32, 4000, [16, 0, 0, 0, 0], false);
    apart.outputs = call(&Sample::new(ADAM.into(), apart.inputs.iter().map(|o| o.ty.clone()))).outputs;
    apart.outputs.iter_mut().zip(20..).for_each(|(o, n)| o.place = Place::Buffer(n));
    let Lowered::Device(launches) = lower(&apart, &target()).unwrap() else { panic!() };
    assert!(launches.len() == 4 && is_wide(&launches[3].blueprint.kernel));
}

/// A step of moments 1 from 0, as of the kernel without the width: corrections lose all digits if they are computed as written.
#[test]
fn the_optimisers_corrections_are_exact() {
    let soft = Soft::new();
    for (beta1, beta2) in [(0.9, 0.999), (0.5, 0.95), (0.99, 0.9999), (0.9999, 0.99999)] {
        let call = step(&AdamW { beta1, beta2, eps: 1e-30, decay: 0.0, group: 0 }, DType::F32, 8, [0; 5], false);
        for t in [1.0, 2.0, 3.0, 9.0, 10.0, 11.0, 100.0, 1000.0, 1e4, 1e5, 1e6, 16_000_000.0] {
            let numbers = [
                vec![0.0; 8],
                vec![1.0 / beta1; 8],
                vec![1.0 / beta2; 8],
                vec![t],
                vec![0.0; 8],
                vec![1.0; 2],
                vec![1.0],
            ];
            let inputs: Vec<Buffer> = call.inputs.iter().zip(&numbers).map(|(o, x)| Buffer::new(o, x)).collect();
            let (got, _) = soft.run(&target(), &call, &inputs).unwrap();
            let error = (got[0][7] / reference(&call, &inputs)[0].data[7] - 1.0).abs();
            assert!(error <= 1e-6, "betas {beta1} {beta2}, step {t}: off by {error:e}");
        }
    }
}

#[test]
fn optimisers_that_are_not_whole_by_eights_are_left_to_others() {
    let launch = |elements, firsts, average, target: &Target| match lower(
        &step(&ADAM, DType::F32, elements, firsts, average),
        target,
    )
    .unwrap()
    {
        Lowered::Device(mut launches) => launches.remove(0),
        Lowered::Host => panic!("runs on the host"),
    };
    let is_plain = |elements, firsts, average, target: &Target| {
        matches!(launch(elements, firsts, average, target).blueprint.kernel, Kernel::AdamW(_))
    };
    assert!(!is_plain(48, [8; 5], true, &target()));
    assert!(is_plain(48, [8; 5], true, &Target::wgpu()) && is_plain(44, [8; 5], true, &target()));
    for i in 0..5 {
        let mut firsts = [8; 5];
        firsts[i] = 12;
        assert!(is_plain(48, firsts, true, &target()), "{firsts:?}");
    }
    // Cubes are numbered, not units: 32 bits are enough for as many elements as they number.
    let largest = launch((1 << 32) - 8, [0; 5], false, &target());
    assert!(is_wide(&largest.blueprint.kernel) && largest.cubes == [1 << 21, 1, 1]);
}
