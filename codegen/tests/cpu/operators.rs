//! Every operator's kernel against the operator's own evaluation in f64, on all of its samples: for every way that an
//! input may lie in memory, for several thread counts, and in place where that is allowed.

use crate::common::{Layout, Memory, check, inputs, run, run_over};
use ccl_codegen::cpu::KernelError;
use ccl_codegen::cpu::weight::takes_panels;
use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::ops::{
    Binary, BinaryKind, Cast, Concat, Constant, Copy, Fused, Index, LayerNorm, Linear, NormModulate, Patchify, Reshape,
    Rope, Route, Slice, Softmax, Transpose, Unary, UnaryKind,
};
use ccl_ir::{Access, DType, Op, Operator, Sample, TensorType};

/// All samples of the operators that are kernels.
fn samples() -> Vec<Sample<Op>> {
    Op::samples().into_iter().filter(|s| !matches!(s.op, Op::Route(_))).collect()
}

#[test]
fn every_sample_agrees_with_its_evaluation() {
    let samples = samples();
    assert!(samples.len() > 60, "{} samples", samples.len());
    for sample in samples {
        check(&sample);
    }
}

#[test]
fn inputs_may_lie_in_memory_as_the_operator_says() {
    for sample in samples() {
        for i in 0..sample.inputs.len() {
            let layouts = match sample.op.access(i) {
                Access::Dense => &[][..],
                Access::Rows => &[Layout::Padded, Layout::Repeated][..],
                Access::Any => &[Layout::Padded, Layout::Repeated, Layout::Reversed][..],
            };
            for &layout in layouts {
                crate::common::check_layouts(&sample, |j| if i == j { layout } else { Layout::Dense });
            }
        }
    }
}

#[test]
fn weights_may_lie_in_panels() {
    let mut checked = 0;
    let large = |m: usize, n: usize, k: usize, dtype: DType| {
        let inputs = vec![TensorType::f32([m, k]), TensorType::new(dtype, [n, k]), TensorType::f32([n])];
        Sample::new(Op::from(Linear::biased()), inputs)
    };
    let products = [DType::F32, DType::F16, DType::Bf16]
        .into_iter()
        .flat_map(|dtype| [(1, 40, 30), (130, 75, 600), (300, 17, 33)].map(|(m, n, k)| large(m, n, k, dtype)));
    for sample in samples().into_iter().chain(products) {
        for i in (0..sample.inputs.len()).filter(|&i| takes_panels(&sample.op, i)) {
            crate::common::check_layouts(&sample, |j| if i == j { Layout::Panels } else { Layout::Dense });
            checked += 1;
        }
    }
    assert!(checked > 12, "{checked} samples");
}

#[test]
fn results_may_overwrite_inputs_where_the_operator_says() {
    let mut checked = 0;
    for sample in samples() {
        for i in 0..sample.inputs.len() {
            let types: Vec<&TensorType> = sample.inputs.iter().collect();
            let outputs = sample.op.infer(&types).unwrap();
            if sample.op.may_overwrite(i) && outputs[0] == sample.inputs[i] {
                let values = inputs(&sample, |_| Layout::Dense);
                let apart = run(&sample.op, &values, &outputs, None, 2).unwrap();
                let within = run(&sample.op, &values, &outputs, Some(i), 2).unwrap();
                assert_eq!(within[0].bytes(), apart[0].bytes(), "{:?} over input {i}", sample.op);
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "{checked} samples work in place");
}

#[test]
fn results_may_update_inputs_where_the_operator_says() {
    let mut checked = 0;
    for sample in samples() {
        let types: Vec<&TensorType> = sample.inputs.iter().collect();
        let outputs = sample.op.infer(&types).unwrap();
        let over: Vec<(usize, usize)> =
            (0..outputs.len()).filter_map(|output| Some((output, sample.op.updates(output)?))).collect();
        let values = inputs(&sample, |_| Layout::Dense);
        let apart = run(&sample.op, &values, &outputs, None, 2).unwrap();
        // Each output alone, and all of them at once.
        for over in over.iter().map(std::slice::from_ref).chain([&over[..]]).filter(|over| !over.is_empty()) {
            let within = run_over(&sample.op, &values, &outputs, over, 2).unwrap();
            for (a, b) in apart.iter().zip(&within) {
                assert_eq!(a.bytes(), b.bytes(), "{:?} over {over:?}", sample.op);
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} updates in place");
}

/// A sample of `f32` inputs.
fn sample(op: impl Into<Op>, shapes: &[&[usize]]) -> Sample<Op> {
    Sample::new(op.into(), shapes.iter().map(|s| TensorType::f32(*s)))
}

/// `gelu(y) * g + x` on the product `y`.
fn epilogue() -> Chain {
    Chain {
        inputs: 3,
        steps: vec![
            Instr::Unary(UnaryKind::GeluTanh, Arg::In(0)),
            Instr::Binary(BinaryKind::Mul, Arg::Step(0), Arg::In(1)),
            Instr::Binary(BinaryKind::Add, Arg::In(2), Arg::Step(1)),
        ],
    }
}

#[test]
fn linear_over_many_blocks() {
    let fused = Linear { bias: true, epilogue: Some(epilogue()), out: None };
    check(&sample(fused.clone(), &[&[2, 300, 130], &[257, 130], &[257], &[2, 1, 257], &[2, 300, 257]]));
    check(&sample(Linear::biased(), &[&[1, 1100], &[700, 1100], &[700]]));
    check(&sample(Linear::biased(), &[&[300, 1], &[40, 1], &[40]]));
    check(&sample(Linear::biased(), &[&[300, 70], &[1, 70], &[1]]));
    check(&sample(Linear::plain(), &[&[7], &[5, 7]]));
    for m in [3, 4, 7, 8, 9] {
        check(&sample(Linear::biased(), &[&[m, 1050], &[150, 1050], &[150]]));
    }
    // Rows that are no single run: two halves of a wider tensor, and one row twice.
    let halves = sample(fused, &[&[3, 100, 65], &[33, 65], &[33], &[33], &[]]);
    crate::common::check_layouts(&halves, |i| if i == 0 { Layout::Padded } else { Layout::Dense });
    crate::common::check_layouts(&halves, |i| if i == 0 { Layout::Repeated } else { Layout::Dense });
}

#[test]
fn linear_widens_half_weights_part_by_part() {
    for dtype in [DType::F16, DType::Bf16] {
        for (m, k) in [(1, 2100), (300, 1024), (5, 1025)] {
            let weight = TensorType::new(dtype, [270, k]);
            let types = [TensorType::f32([m, k]), weight, TensorType::f32([270])];
            check(&Sample::new(Linear::biased().into(), types));
        }
    }
}

#[test]
fn chains_over_many_blocks() {
    let shapes: &[&[&[usize]]] = &[
        &[&[3, 40, 1000], &[3, 1, 1000], &[3, 40, 1000]],
        &[&[40, 513], &[1], &[40, 1]],
        &[&[2000, 1, 3], &[2, 1], &[]],
        &[&[1, 60_000], &[60_000], &[1]],
    ];
    for shapes in shapes {
        check(&sample(Fused::new(epilogue()), shapes));
        let sample = sample(Fused::new(epilogue()), shapes);
        for layout in [Layout::Padded, Layout::Repeated, Layout::Reversed] {
            crate::common::check_layouts(&sample, |_| layout);
        }
    }
    check(&sample(Unary { kind: UnaryKind::GeluErf }, &[&[50_000]]));
    check(&sample(Binary { kind: BinaryKind::Sub }, &[&[300, 1], &[1, 300]]));
}

#[test]
fn chains_reuse_slots_only_after_their_last_reader() {
    use Arg::{Const, In, Step};
    use BinaryKind::{Add, Mul, Sub};
    let steps = vec![
        Instr::Binary(Add, In(0), Const(2.0)),
        Instr::Binary(Mul, Step(0), In(1)),
        // Read by nobody.
        Instr::Unary(UnaryKind::Neg, Step(1)),
        Instr::Binary(Sub, Const(0.5), Step(1)),
        Instr::Binary(Mul, Step(3), Step(3)),
        Instr::Binary(Add, Step(4), Step(0)),
        Instr::Unary(UnaryKind::Silu, Const(0.25)),
        Instr::Binary(Sub, Step(6), Const(1.5)),
        Instr::Binary(Mul, Step(5), Step(7)),
        Instr::Binary(Add, Step(1), Step(8)),
    ];
    check(&sample(Fused::new(Chain { inputs: 2, steps }), &[&[3, 700], &[700]]));
}

#[test]
fn rows_over_many_tasks() {
    check(&sample(LayerNorm { eps: 1e-6, affine: false }, &[&[2, 40, 1536]]));
    check(&sample(NormModulate { eps: 1e-6 }, &[&[3, 50, 500], &[3, 1, 500], &[3, 1, 500]]));
    check(&sample(Softmax {}, &[&[60, 1001]]));
    check(&sample(Rope::default(), &[&[2, 100, 4, 64], &[100, 32, 2]]));
}

#[test]
fn data_moves_in_every_element_type() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let ty = |shape: &[usize]| TensorType::new(dtype, shape);
        let big = ty(&[30, 40, 50]);
        let ops: Vec<(Op, Vec<TensorType>)> = vec![
            (Copy {}.into(), vec![big.clone()]),
            (Reshape { shape: vec![60_000] }.into(), vec![big.clone()]),
            (Transpose { perm: vec![2, 0, 1] }.into(), vec![big.clone()]),
            (Slice { axis: 1, start: 3, len: 30 }.into(), vec![big.clone()]),
            (Concat { axis: 1 }.into(), vec![big.clone(), ty(&[30, 7, 50])]),
            (Patchify { patch: vec![1, 2, 5] }.into(), vec![ty(&[2, 3, 10, 40, 50])]),
            (Constant { ty: big, value: 0.1 }.into(), vec![]),
        ];
        for (op, types) in ops {
            if matches!(op, Op::Constant(_)) && dtype != DType::F32 {
                let out = run(&op, &[], &op.infer(&[]).unwrap(), None, 2).unwrap();
                let want = Memory::store(&TensorType::new(dtype, []), Layout::Dense, &[0.1]);
                assert!(out[0].bytes().chunks(2).all(|x| x == want.bytes()), "{dtype}");
                continue;
            }
            check(&Sample::new(op, types));
        }
        let index = TensorType::new(DType::I32, []);
        check(&Sample::new(Index {}.into(), [ty(&[4, 5, 6]), index]).with_integers([3]));
    }
}

#[test]
fn casts_round_to_nearest_even() {
    let types = [DType::F32, DType::F16, DType::Bf16];
    let values: Vec<f64> = (0..40_000).map(|i| f64::from((i as f32 - 2e4) * 1.000_123e-3)).collect();
    for (from, to) in types.into_iter().flat_map(|a| types.map(|b| (a, b))) {
        let source = Memory::store(&TensorType::new(from, [values.len()]), Layout::Dense, &values);
        let target = TensorType::new(to, [values.len()]);
        let want = Memory::store(&target, Layout::Dense, &source.values());
        let out = run(&Cast { to }.into(), &[source], &[target], None, 2).unwrap();
        assert_eq!(out[0].bytes(), want.bytes(), "{from} to {to}");
    }
}

#[test]
fn what_has_no_kernel_is_refused_with_a_reason() {
    let refuse = |op: Op, types: Vec<TensorType>, integers: &[i32]| {
        let sample = Sample::new(op, types).with_integers(integers);
        let types: Vec<&TensorType> = sample.inputs.iter().collect();
        let outputs = sample.op.infer(&types).unwrap();
        run(&sample.op, &inputs(&sample, |_| Layout::Dense), &outputs, None, 1).unwrap_err()
    };
    let x = TensorType::f32([4, 2]);
    let route = Route { flag: "video".into(), answer: Some(true) };
    let error = refuse(route.into(), vec![x.clone(), x.clone()], &[]);
    assert!(matches!(error, KernelError::Unsupported { op: Route::NAME, .. }), "{error}");
    let error = refuse(Softmax {}.into(), vec![x.with_dtype(DType::Bf16)], &[]);
    let want = "the CPU has no kernel for `softmax` with input 0 of type bf16[4,2]: cast to f32 first";
    assert_eq!(error.to_string(), want);
    for row in [-1, 4, i32::MAX] {
        let error = refuse(Index {}.into(), vec![x.clone(), TensorType::new(DType::I32, [])], &[row]);
        let want = format!("`index` is asked for row {row} of a table of 4: rows count from 0");
        assert_eq!(error.to_string(), want);
    }
}
