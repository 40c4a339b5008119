//! Kernels of training beyond the operators' samples: sums over many blocks, products as gradients have them, gradients of
//! norms over many rows, the optimiser over many chunks and steps.

use crate::common::{Layout, Memory, check, check_layouts, inputs, run, run_over};
use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::ops::{AdamW, BinaryKind, MatMul, NormGrad, Pad, Reduce, Rope, Unary, UnaryKind, WindowScatter};
use ccl_ir::partition::{Edge, Partition};
use ccl_ir::{DType, Op, Operator, Sample, TensorType};

/// A sample of `f32` inputs.
fn sample(op: impl Into<Op>, shapes: &[&[usize]]) -> Sample<Op> {
    Sample::new(op.into(), shapes.iter().map(|s| TensorType::f32(*s)))
}

/// `g (x - mean) r`.
fn centered() -> Chain {
    let steps = vec![
        Instr::Binary(BinaryKind::Sub, Arg::In(1), Arg::In(2)),
        Instr::Binary(BinaryKind::Mul, Arg::Step(0), Arg::In(3)),
        Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::Step(1)),
    ];
    Chain { inputs: 4, steps }
}

#[test]
fn sums_over_many_blocks() {
    let cases: &[(&[usize], &[usize])] = &[
        (&[3000, 70], &[70]),
        (&[9000, 3], &[3]),
        (&[3, 50, 1030], &[3, 1, 1030]),
        (&[16, 128, 64], &[16, 1, 64]),
        (&[100_000], &[]),
        (&[100_000], &[1]),
        (&[7, 20_000], &[7, 1]),
        (&[2000, 33], &[2000, 1]),
        (&[40, 5, 100, 3], &[1, 5, 1, 3]),
        (&[6, 40, 9, 31, 2], &[40, 1, 31, 1]),
        (&[5, 3000], &[5, 3000]),
        (&[5, 3000], &[3000]),
        (&[64, 1, 2048], &[1, 1]),
    ];
    for (from, to) in cases {
        let plain = sample(Reduce::to(*to), &[from]);
        check(&plain);
        for layout in [Layout::Padded, Layout::Repeated, Layout::Reversed] {
            check_layouts(&plain, |_| layout);
        }
        // The same with a chain whose other operands repeat along the last dimension and along the first.
        let mut row = from.to_vec();
        *row.last_mut().unwrap() = 1;
        let chain = Reduce { chain: Some(centered()), shape: to.to_vec() };
        check(&sample(chain, &[from, from, &row, &from[from.len() - 1..]]));
    }
}

#[test]
fn long_sums_of_one_sign_do_not_drift() {
    let square = Chain { inputs: 1, steps: vec![Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::In(0))] };
    check(&sample(Reduce { chain: Some(square.clone()), shape: vec![] }, &[&[700_000]]));
    check(&sample(Reduce { chain: Some(square), shape: vec![5] }, &[&[140_000, 5]]));
}

#[test]
fn products_as_gradients_have_them() {
    // A weight's gradient: both operands by columns, few results, many terms; an input's: a weight as it lies.
    for (m, n, k) in [(2048, 64, 48), (1030, 17, 5), (513, 1, 1), (1300, 130, 200)] {
        let weight = sample(MatMul { transpose_b: false, out: None }, &[&[n, m], &[m, k]]);
        for layout in [Layout::Dense, Layout::Reversed] {
            check_layouts(&weight, |i| if i == 0 { layout } else { Layout::Dense });
            check_layouts(&weight, |_| layout);
        }
        check(&sample(MatMul { transpose_b: false, out: None }, &[&[m, n], &[n, k]]));
        check(&sample(MatMul { transpose_b: true, out: None }, &[&[3, n, m], &[3, k, m]]));
    }
}

#[test]
fn norms_over_many_rows() {
    for centered in [true, false] {
        for (shape, factor) in [
            (vec![16, 128, 64], Some(vec![16, 1, 64])),
            (vec![16, 128, 48], Some(vec![48])),
            (vec![3, 40, 1500], Some(vec![1, 40, 1500])),
            (vec![70, 333], None),
        ] {
            let mut shapes = vec![shape.clone(), shape];
            shapes.extend(factor.clone());
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            let op = NormGrad { eps: 1e-6, centered, scaled: factor.is_some(), one_plus: centered };
            check_layouts(&sample(op.clone(), &shapes), |_| Layout::Padded);
            check(&sample(op, &shapes));
        }
    }
}

#[test]
fn derivatives_of_many_elements() {
    for kind in [UnaryKind::SiluGrad, UnaryKind::GeluTanhGrad, UnaryKind::GeluErfGrad] {
        check(&sample(Unary { kind }, &[&[60_001]]));
    }
}

#[test]
fn zeros_around_and_sums_behind_windows() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for (axis, before, after) in [(0, 3, 0), (1, 0, 5), (2, 7, 11), (1, 0, 0)] {
            let x = Sample::new(Pad { axis, before, after }.into(), [TensorType::new(dtype, [30, 40, 50])]);
            check(&x);
            check_layouts(&x, |_| Layout::Reversed);
        }
        check(&Sample::new(Pad { axis: 1, before: 2, after: 1 }.into(), [TensorType::new(dtype, [3, 0, 5])]));
    }
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        let partition = Partition::Windows {
            frames: 16,
            tokens_per_frame: 8,
            length: 100,
            size: 24,
            scale: 7,
            offset: 0,
            divisor: 1,
            edge,
        };
        let (rows, s) = partition.row_shape();
        check(&sample(WindowScatter { partition }, &[&[3, rows, s, 4, 16]]));
    }
}

#[test]
fn turning_back_undoes_a_turn() {
    let turn = sample(Rope::default(), &[&[2, 50, 3, 16], &[50, 8, 2]]);
    let mut values = inputs(&turn, |_| Layout::Dense);
    let angles: Vec<f64> = (0..400).flat_map(|i| [f64::from(i).cos(), f64::from(i).sin()]).collect();
    values[1] = Memory::store(&turn.inputs[1], Layout::Dense, &angles);
    let there = run(&turn.op, &values, &turn.inputs[..1], None, 2).unwrap();
    let back = Rope { inverse: true }.into();
    let again = run(&back, &[there[0].clone(), values[1].clone()], &turn.inputs[..1], None, 2).unwrap();
    for (a, b) in values[0].values().into_iter().zip(again[0].values()) {
        assert!((a - b).abs() <= 1e-6, "{a} came back as {b}");
    }
}

/// The optimiser for `n` numbers of group 1, with an average or without.
fn adam_w(n: usize, average: bool) -> Sample<Op> {
    let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, group: 1 };
    let shapes: [&[usize]; 9] = [&[n], &[n], &[n], &[], &[n], &[2], &[], &[n], &[]];
    sample(op, if average { &shapes } else { &shapes[..7] }).positive([2, 3])
}

#[test]
fn the_optimiser_over_many_chunks() {
    for n in [0, 1, 15, 17, 50_000] {
        check(&adam_w(n, false));
        check(&adam_w(n, true));
    }
}

#[test]
fn a_minimum_is_found_in_place() {
    let sample = adam_w(1000, true);
    let types: Vec<&TensorType> = sample.inputs.iter().collect();
    let outputs = sample.op.infer(&types).unwrap();
    let mut values = inputs(&sample, |_| Layout::Dense);
    let store = |i: usize, numbers: &[f64]| Memory::store(&sample.inputs[i], Layout::Dense, numbers);
    let target: Vec<f64> = (0..1000).map(|i| f64::from(i % 7) / 4.0).collect();
    (values[1], values[2]) = (store(1, &[0.0; 1000]), store(2, &[0.0; 1000]));
    (values[5], values[6], values[8]) = (store(5, &[9.0, 0.05]), store(6, &[0.5]), store(8, &[0.1]));
    let (mut slow, steps) = (values.clone(), 300);
    for step in 0..steps {
        // The gradient of half the squared distance.
        for values in [&mut values, &mut slow] {
            let g: Vec<f64> = values[0].values().iter().zip(&target).map(|(p, t)| p - t).collect();
            (values[3], values[4]) = (store(3, &[f64::from(step + 1)]), store(4, &g));
        }
        let all = [(0, 0), (1, 1), (2, 2), (3, 7)];
        for ((_, i), next) in all.into_iter().zip(run_over(&sample.op, &values, &outputs, &all, 3).unwrap()) {
            values[i] = next;
        }
        for ((_, i), next) in all.into_iter().zip(run(&sample.op, &slow, &outputs, None, 1).unwrap()) {
            slow[i] = next;
        }
        assert!(all.iter().all(|&(_, i)| values[i].bytes() == slow[i].bytes()), "step {step} differs in place");
    }
    for (what, i) in [("the parameter", 0), ("its average", 7)] {
        let worst = values[i].values().iter().zip(&target).map(|(p, t)| (p - t).abs()).fold(0.0, f64::max);
        assert!(worst < 0.1, "{what} is {worst} from the minimum");
    }
    assert_eq!(sample.op.name(), AdamW::NAME);
}
