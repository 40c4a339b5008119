//! What training adds beside attention's gradients, on a wgpu device: sums, gradients of norms and activations, the optimiser, padding and
//! scattered windows, at sizes that fill no tile, on views, in mixed types. Needs a Vulkan driver; lavapipe will do.

use crate::checks::{FULL, HALF, check, check_on, check_views, f16, f32};
use crate::common::{Buffer, call, client, partitions, reference, run, target};
use ccl_codegen::gpu::{Target, Tiles};
use ccl_ir::chain::{Arg, Instr};
use ccl_ir::ops::*;
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Chain, DType, Operator, Sample, TensorType};

/// The product of all inputs.
fn product(inputs: u16) -> Chain {
    let steps = (1..inputs).map(|i| {
        let before = if i == 1 { Arg::In(0) } else { Arg::Step(i - 2) };
        Instr::Binary(BinaryKind::Mul, before, Arg::In(i))
    });
    Chain { inputs, steps: steps.collect() }
}

#[test]
fn sums_of_all_shapes() {
    let cases: [(&[usize], &[usize]); 12] = [
        (&[2, 300, 70], &[70]),
        (&[2, 300, 70], &[2, 1, 70]),
        (&[2, 300, 70], &[300, 1]),
        (&[7, 1000], &[7, 1]),
        (&[3, 70, 5], &[3, 70, 1]),
        (&[3, 5, 7, 9], &[5, 1, 9]),
        (&[3, 5, 7, 9], &[3, 1, 7, 1]),
        (&[100, 130], &[]),
        (&[1], &[]),
        (&[5, 1, 3], &[5, 1, 3]),
        (&[2, 1, 40], &[1, 40]),
        (&[33, 65], &[1, 1]),
    ];
    let large = Target { tiles: Tiles::Large, ..target() };
    for (from, to) in cases {
        check(Reduce::to(to), &[f32(from)], FULL);
        check_on(&large, &Sample::new(Reduce::to(to).into(), [f32(from)]), |_| {}, FULL);
    }
    check(Reduce::to([70]), &[f16(&[300, 70])], FULL);
}

#[test]
fn sums_of_products_and_views() {
    let of = |shape: &[usize]| Reduce { chain: Some(product(3)), shape: shape.to_vec() };
    let inputs = [f16(&[2, 37, 16]), f32(&[2, 37, 1]), f32(&[16])];
    // Rows further apart than they are long, behind a first element; a factor per row, and one per column that steps by two.
    let spread = |c: &mut Call| {
        c.inputs[0].offset = 5;
        c.inputs[0].strides = vec![37 * 20 + 3, 20, 1];
        c.inputs[1].offset = 1;
        c.inputs[1].strides = vec![2 * 37, 2, 1];
        c.inputs[2].strides = vec![2];
    };
    for shape in [&[16][..], &[2, 1, 16], &[2, 37, 1], &[]] {
        check_views(of(shape), &inputs, spread, FULL);
    }
    // Columns first, and a row that repeats.
    let turned = |c: &mut Call| c.inputs[0].strides = vec![0, 1, 37];
    check_views(Reduce::to([37, 1]), &[f32(&[2, 37, 16])], turned, FULL);
}

/// Many terms that do not cancel: a sum one after the other would be off by more.
#[test]
fn long_sums_stay_exact() {
    let sample = Sample::new(Reduce { chain: Some(product(2)), shape: vec![] }.into(), vec![f32(&[1 << 21]); 2]);
    let call = call(&sample);
    let number = |i: usize| 1.0 + (i % 7) as f64 / 7.0;
    let numbers: Vec<f64> = (0..1 << 21).map(number).collect();
    let inputs = [Buffer::new(&call.inputs[0], &numbers), Buffer::new(&call.inputs[1], &numbers)];
    let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
    let error = relative_l2(&got[0], &reference(&call, &inputs)[0].data);
    assert!(error <= 2e-6, "{error:e}");
}

#[test]
fn gradients_of_norms() {
    for d in [5, 33, 512, 1536] {
        for (dtype, bound) in [(DType::F32, FULL), (DType::F16, HALF)] {
            let x = TensorType::new(dtype, [2, 3, d]);
            let of = |centered, scaled, one_plus| NormGrad { eps: 1e-6, centered, scaled, one_plus };
            check(of(true, true, true), &[x.clone(), x.clone(), f32(&[2, 1, d])], bound);
            check(of(false, true, false), &[x.clone(), f32(&[2, 3, d]), f32(&[d])], bound);
            check(of(false, false, false), &[x.clone(), x.clone()], bound);
        }
    }
}

#[test]
fn gradients_of_norms_on_views() {
    // Every second row of a wider tensor, a gradient that all rows share, a factor that is one of six rows of a modulation.
    let spread = |c: &mut Call| {
        c.inputs[0].offset = 3;
        c.inputs[0].strides = vec![1000, 2 * 37, 1];
        c.inputs[1].strides = vec![37, 0, 1];
        c.inputs[2].offset = 4 * 37;
        c.inputs[2].strides = vec![6 * 37, 37, 1];
    };
    let op = NormGrad { eps: 1e-6, centered: true, scaled: true, one_plus: true };
    check_views(op, &[f32(&[2, 5, 37]), f32(&[2, 5, 37]), f32(&[2, 1, 37])], spread, FULL);
    let large = Target { tiles: Tiles::Large, ..target() };
    let op = NormGrad { eps: 1e-5, centered: true, scaled: false, one_plus: false };
    check_on(&large, &Sample::new(op.into(), vec![f32(&[3, 600]); 2]), |_| {}, FULL);
}

#[test]
fn derivatives_of_activations() {
    let numbers: Vec<f64> = (-400..=400).map(|i| f64::from(i) / 20.0).chain([-1e4, -90.0, 90.0, 1e4]).collect();
    for kind in [UnaryKind::SiluGrad, UnaryKind::GeluTanhGrad, UnaryKind::GeluErfGrad] {
        let call = call(&Sample::new(Unary { kind }.into(), [f32(&[numbers.len()])]));
        let inputs = [Buffer::new(&call.inputs[0], &numbers)];
        let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
        for ((&x, got), want) in numbers.iter().zip(&got[0]).zip(&reference(&call, &inputs)[0].data) {
            assert!((got - want).abs() <= 2e-6, "{}({x}) is {want}, not {got}", kind.name());
        }
        // As a step among others, and behind a product.
        let steps = vec![Instr::Unary(kind, Arg::In(1)), Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::Step(0))];
        let chain = Chain { inputs: 2, steps };
        check(Fused { chain: chain.clone(), out: None }, &[f16(&[3, 37]), f16(&[3, 37])], HALF);
        let linear = Linear { bias: false, epilogue: Some(chain), out: None };
        check(linear, &[f32(&[9, 20]), f32(&[7, 20]), f32(&[9, 7])], FULL);
    }
}

#[test]
fn rotations_are_undone() {
    let table = f32(&[9, 16, 2]);
    check(Rope { inverse: true }, &[f16(&[2, 9, 3, 32]), table.clone()], HALF);
    let part = |c: &mut Call| {
        c.inputs[0].offset = 96;
        c.inputs[0].strides = vec![9 * 288, 288, 32, 1];
        c.inputs[1].offset = 2;
    };
    check_views(Rope { inverse: true }, &[f32(&[2, 9, 3, 32]), table], part, FULL);
}

#[test]
fn padding_of_views() {
    let swapped = |c: &mut Call| {
        c.inputs[0].offset = 7;
        c.inputs[0].strides = vec![5, 1, 40];
    };
    for ty in [f32(&[3, 4, 5]), f16(&[3, 4, 5])] {
        for (axis, before, after) in [(0, 2, 1), (1, 0, 3), (2, 4, 0), (1, 0, 0)] {
            check_views(Pad { axis, before, after }, std::slice::from_ref(&ty), swapped, 0.0);
        }
        check_views(Detach {}, &[ty], swapped, 0.0);
    }
}

#[test]
fn windows_are_scattered() {
    for partition in partitions() {
        let (rows, seen) = partition.row_shape();
        let spread = |c: &mut Call| {
            c.inputs[0].offset = 9;
            c.inputs[0].strides = vec![(rows * seen) as u64 * 50, seen as u64 * 50, 50, 3, 1];
        };
        check_views(WindowScatter { partition }, &[f16(&[2, rows, seen, 2, 3])], spread, HALF);
    }
}

/// A parameter's step; the outputs over their inputs where `in_place`. The numbers are those of the inputs.
fn optimise(op: &AdamW, inputs: &[&[f64]], in_place: bool) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let ty = |(i, x): (usize, &&[f64])| if [3, 6, 8].contains(&i) { f32(&[]) } else { f32(&[x.len()]) };
    let mut call = call(&Sample::new(op.clone().into(), inputs.iter().enumerate().map(ty)));
    if in_place {
        let Call { inputs, outputs, .. } = &mut call;
        outputs.iter_mut().enumerate().for_each(|(o, to)| to.place = inputs[op.updates(o).unwrap()].place);
    }
    let buffers: Vec<Buffer> = call.inputs.iter().zip(inputs).map(|(o, x)| Buffer::new(o, x)).collect();
    let got = run(&client(), &target(), &call, &buffers).unwrap().unwrap();
    (got, reference(&call, &buffers).into_iter().map(|t| t.data).collect())
}

#[test]
fn the_optimiser_updates_in_place() {
    let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, group: 1 };
    // More than one cube.
    let of = |seed: usize| (0..301).map(|i| ((i * seed % 97) as f64 - 48.0) / 40.0).collect::<Vec<f64>>();
    let (p, m, g) = (of(5), of(7), of(11));
    let v: Vec<f64> = of(13).iter().map(|x| x.abs()).collect();
    let average = of(17);
    let inputs: [&[f64]; 9] = [&p, &m, &v, &[42.0], &g, &[0.5, 0.01], &[0.25], &average, &[0.2]];
    let mut before = Vec::new();
    for inputs in [&inputs[..7], &inputs] {
        let (apart, want) = optimise(&op, inputs, false);
        assert_eq!(apart.len(), if inputs.len() == 9 { 4 } else { 3 });
        for (port, (got, want)) in apart.iter().zip(&want).enumerate() {
            let error = relative_l2(got, want);
            assert!(error <= 1e-6, "output {port}: {error:e}");
        }
        assert_eq!(optimise(&op, inputs, true).0, apart);
        assert!(apart.starts_with(&before), "an average changes nothing else");
        before = apart;
    }
}

/// A step of moments 1 from 0 is `-sqrt(1 - b2^t) / (1 - b1^t)`: the corrections, which lose all digits if they are computed as written.
#[test]
fn the_optimisers_corrections_are_exact() {
    for (beta1, beta2) in [(0.9, 0.999), (0.5, 0.95), (0.99, 0.9999), (0.9999, 0.99999)] {
        let op = AdamW { beta1, beta2, eps: 1e-30, decay: 0.0, group: 0 };
        for t in [1.0, 2.0, 3.0, 9.0, 10.0, 11.0, 100.0, 1000.0, 1e4, 1e5, 1e6, 16_000_000.0] {
            let inputs: [&[f64]; 7] = [&[0.0], &[1.0 / beta1], &[1.0 / beta2], &[t], &[0.0], &[1.0], &[1.0]];
            let (got, want) = optimise(&op, &inputs, true);
            let error = (got[0][0] / want[0][0] - 1.0).abs();
            assert!(error <= 1e-6, "betas {beta1} {beta2}, step {t}: off by {error:e}");
        }
    }
}
