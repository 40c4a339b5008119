//! Products, normalisations, rotary embedding and gathers on a wgpu device at sizes that fill no tile, on views, in mixed types; and
//! their CUDA text in every type. Needs a Vulkan driver; lavapipe will do. Outputs and the gaps of views start as NaN.

use crate::checks::{FULL, HALF, check, check_on, check_views, f16, f32};
use crate::common::{Buffer, call, client, partitions, reference, run, target};
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, Tiles, lower};
use ccl_ir::chain::{Arg, Instr};
use ccl_ir::interp::sample_inputs;
use ccl_ir::ops::*;
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Chain, DType, Op, Sample, TensorType};

fn linear(bias: bool, epilogue: Option<Chain>, out: Option<DType>) -> Linear {
    Linear { bias, epilogue, out }
}

/// `r + y g` for the product `y`, a gate `g` and a residual `r`.
fn residual() -> Chain {
    let steps = vec![
        Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::In(1)),
        Instr::Binary(BinaryKind::Add, Arg::Step(0), Arg::In(2)),
    ];
    Chain { inputs: 3, steps }
}

#[test]
fn products_of_odd_sizes() {
    let gelu = Some(Chain::unary(UnaryKind::GeluTanh));
    check(linear(true, gelu, None), &[f32(&[2, 300, 130]), f32(&[257, 130]), f32(&[257])], FULL);
    check(
        linear(true, Some(residual()), None),
        &[f32(&[2, 37, 130]), f32(&[57, 130]), f32(&[57]), f32(&[2, 1, 57]), f32(&[2, 37, 57])],
        FULL,
    );
    // One row, one column, one term, one of each.
    for (m, n, k) in [(1, 70, 130), (33, 1, 40), (19, 35, 1), (1, 1, 1), (16, 16, 8), (17, 17, 9)] {
        check(linear(true, None, None), &[f32(&[m, k]), f32(&[n, k]), f32(&[n])], FULL);
        for transpose_b in [false, true] {
            let b = if transpose_b { [3, n, k] } else { [3, k, n] };
            check(MatMul { transpose_b, out: None }, &[f32(&[3, m, k]), f32(&b)], FULL);
        }
    }
    check(linear(false, None, None), &[f32(&[20]), f32(&[6, 20])], FULL);
    check(linear(false, None, None), &[f32(&[3, 2, 2, 20]), f32(&[6, 20])], FULL);
}

#[test]
fn products_of_half_precision() {
    let (x, w) = (f16(&[2, 37, 130]), f16(&[57, 130]));
    for (out, bound) in [(None, HALF), (Some(DType::F32), FULL)] {
        check(linear(false, None, out), &[x.clone(), w.clone()], bound);
        check(linear(true, None, out), &[x.clone(), w.clone(), f32(&[57])], bound);
    }
    // A residual in single precision, from half precision factors.
    let residual_inputs = [x.clone(), w.clone(), f32(&[57]), f32(&[2, 1, 57]), f32(&[2, 37, 57])];
    check(linear(true, Some(residual()), Some(DType::F32)), &residual_inputs, FULL);
    check(linear(true, None, Some(DType::F16)), &[f32(&[9, 40]), w_of(40), f32(&[57])], HALF);
    check(MatMul { transpose_b: true, out: None }, &[f16(&[2, 9, 40]), f16(&[2, 11, 40])], HALF);
}

fn w_of(k: usize) -> TensorType {
    f16(&[57, k])
}

#[test]
fn products_of_views() {
    // Rows that are further apart than they are long, in two dimensions that do not join, behind a first element.
    let spread = |c: &mut Call| {
        c.inputs[0].offset = 5;
        c.inputs[0].strides = vec![50 * 37 + 3, 50, 1];
    };
    check_views(linear(true, None, None), &[f32(&[2, 37, 40]), f32(&[21, 40]), f32(&[21])], spread, FULL);
    // Heads swapped with tokens, as attention leaves them; a weight and a bias from the middle of a buffer.
    let swapped = |c: &mut Call| {
        c.inputs[0].strides = vec![8 * 5 * 3, 8, 5 * 8, 1];
        c.inputs[1].offset = 11;
        c.inputs[2].offset = 2;
    };
    check_views(linear(true, None, None), &[f32(&[2, 5, 3, 8]), f32(&[21, 8]), f32(&[21])], swapped, FULL);
    // A gate that repeats over the tokens, a residual that is a view.
    let gated = |c: &mut Call| {
        c.inputs[3].strides = vec![6 * 21, 21, 1];
        c.inputs[3].offset = 2 * 21;
        c.inputs[4].strides = vec![1000, 23, 1];
    };
    let inputs = [f32(&[2, 9, 16]), f32(&[21, 16]), f32(&[21]), f32(&[2, 1, 21]), f32(&[2, 9, 21])];
    check_views(linear(true, Some(residual()), None), &inputs, gated, FULL);
    // Columns first, and one right factor for all batches.
    let columns = |c: &mut Call| {
        c.inputs[0].strides = vec![70, 1, 9];
        c.inputs[1].strides = vec![0, 1, 11];
        c.inputs[1].offset = 4;
    };
    check_views(MatMul { transpose_b: true, out: None }, &[f32(&[3, 9, 7]), f32(&[3, 11, 7])], columns, FULL);
}

#[test]
fn large_tiles_agree_too() {
    let large = Target { tiles: Tiles::Large, ..target() };
    let of = |op: Op, inputs: Vec<TensorType>| check_on(&large, &Sample::new(op, inputs), |_| {}, FULL);
    let product = vec![f32(&[2, 70, 37]), f32(&[131, 37]), f32(&[131]), f32(&[2, 1, 131]), f32(&[2, 70, 131])];
    of(linear(true, Some(residual()), None).into(), product);
    of(MatMul { transpose_b: false, out: None }.into(), vec![f32(&[2, 65, 17]), f32(&[2, 17, 66])]);
    // Enough for the largest: rows in two dimensions that do not join, a left factor that lies along its rows.
    let rows = |c: &mut Call| {
        c.inputs[0].offset = 5;
        c.inputs[0].strides = vec![50 * 170 + 3, 50, 1];
    };
    let product = vec![f32(&[2, 170, 20]), f32(&[330, 20]), f32(&[330]), f32(&[2, 1, 330]), f32(&[2, 170, 330])];
    check_on(&large, &Sample::new(linear(true, Some(residual()), None).into(), product), rows, FULL);
    let turned = |c: &mut Call| c.inputs[0].strides = vec![20 * 400, 1, 400];
    let product = Sample::new(MatMul { transpose_b: true, out: None }.into(), [f32(&[2, 330, 20]), f32(&[2, 330, 20])]);
    check_on(&large, &product, turned, FULL);
    let m = f32(&[2, 1, 600]);
    of(NormModulate { eps: 1e-6 }.into(), vec![f32(&[2, 3, 600]), m.clone(), m]);
    of(Softmax {}.into(), vec![f32(&[3, 1000])]);
}

#[test]
fn normalisations_of_all_widths() {
    for d in [1, 33, 512, 5120] {
        for (ty, bound) in [(DType::F32, FULL), (DType::F16, HALF)] {
            let x = TensorType::new(ty, [2, 3, d]);
            // The mean of one number is that number: nothing is left, and nothing to compare with.
            if d > 1 {
                check(LayerNorm { eps: 1e-6, affine: false }, std::slice::from_ref(&x), bound);
            }
            check(LayerNorm { eps: 1e-5, affine: true }, &[x.clone(), f32(&[d]), f32(&[d])], bound);
            check(RmsNorm { eps: 1e-6 }, &[x.clone(), f32(&[d])], bound);
            let m = f32(&[2, 1, d]);
            check(NormModulate { eps: 1e-6 }, &[x.clone(), m.clone(), m], bound);
            check(Softmax {}, &[x], bound);
        }
    }
}

#[test]
fn normalisations_of_views() {
    // Every second row of a wider tensor; shift and scale are two of six rows of a modulation.
    let spread = |c: &mut Call| {
        c.inputs[0].offset = 3;
        c.inputs[0].strides = vec![1000, 2 * 37, 1];
        for (i, row) in [(1, 0), (2, 4)] {
            c.inputs[i].offset = row * 37;
            c.inputs[i].strides = vec![6 * 37, 37, 1];
        }
    };
    let m = f32(&[2, 1, 37]);
    check_views(NormModulate { eps: 1e-6 }, &[f32(&[2, 5, 37]), m.clone(), m], spread, FULL);
    // Four dimensions that do not join.
    let heads = |c: &mut Call| c.inputs[0].strides = vec![2000, 16, 16 * 3 + 1, 1];
    check_views(RmsNorm { eps: 1e-6 }, &[f32(&[2, 3, 5, 16]), f32(&[16])], heads, FULL);
    let shifted = |c: &mut Call| {
        c.inputs[0].strides = vec![40, 1];
        c.inputs[1].offset = 7;
        c.inputs[2].offset = 1;
    };
    check_views(LayerNorm { eps: 1e-6, affine: true }, &[f32(&[4, 33]), f32(&[33]), f32(&[33])], shifted, FULL);
    // A large mean: one pass over the squares would lose the variance.
    let far = Sample::new(LayerNorm { eps: 1e-6, affine: false }.into(), [f32(&[2, 100])]);
    let call = call(&far);
    let numbers: Vec<f64> = sample_inputs(&far, 3)[0].data.iter().map(|x| 1000.0 + x).collect();
    let inputs = [Buffer::new(&call.inputs[0], &numbers)];
    let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
    let error = relative_l2(&got[0], &reference(&call, &inputs)[0].data);
    assert!(error <= 2e-4, "{error:e}");
}

#[test]
fn softmax_gives_masked_scores_no_weight() {
    let sample = Sample::new(Softmax {}.into(), [f32(&[2, 70])]);
    let call = call(&sample);
    let numbers = |i: usize| if i % 3 == 1 { f64::NEG_INFINITY } else { (i as f64 * 0.7).sin() * 40.0 };
    let inputs = [Buffer::new(&call.inputs[0], &(0..140).map(numbers).collect::<Vec<_>>())];
    let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
    assert!(got[0].iter().enumerate().all(|(i, &y)| i % 3 != 1 || y == 0.0));
    let error = relative_l2(&got[0], &reference(&call, &inputs)[0].data);
    assert!(error <= FULL, "{error:e}");
}

#[test]
fn rope_of_half_precision_and_views() {
    let table = f32(&[9, 16, 2]);
    check(Rope::default(), &[f16(&[2, 9, 3, 32]), table.clone()], HALF);
    // A third of a joint projection: rows three times as far apart.
    let part = |c: &mut Call| {
        c.inputs[0].offset = 96;
        c.inputs[0].strides = vec![9 * 288, 288, 32, 1];
        c.inputs[1].offset = 2;
    };
    check_views(Rope::default(), &[f32(&[2, 9, 3, 32]), table], part, FULL);
}

#[test]
fn a_row_outside_the_table_is_its_first_or_last() {
    let integer = TensorType::new(DType::I32, []);
    for (ty, chosen, row) in [(DType::F32, -5, 0), (DType::F16, 3, 3), (DType::F32, 99, 3), (DType::F32, i32::MIN, 0)] {
        let table = TensorType::new(ty, [4, 5, 3]);
        let sample = Sample::new(Index {}.into(), [table, integer.clone()]).with_integers([chosen]);
        let mut call = call(&sample);
        // Rows further apart than they are long, the number not the first of its buffer.
        call.inputs[0].strides = vec![40, 7, 1];
        call.inputs[0].offset = 6;
        call.inputs[1].offset = 3;
        let drawn = sample_inputs(&sample, 1);
        let inputs: Vec<Buffer> = call.inputs.iter().zip(&drawn).map(|(o, t)| Buffer::new(o, &t.data)).collect();
        let got = run(&client(), &target(), &call, &inputs).unwrap().unwrap();
        assert_eq!(got[0], inputs[0].numbers()[row * 15..][..15]);
    }
}

#[test]
fn windows_of_every_partition() {
    for partition in partitions() {
        let keys = partition.keys();
        let spread = |c: &mut Call| {
            c.inputs[0].offset = 9;
            c.inputs[0].strides = vec![keys as u64 * 50, 50, 3, 1];
        };
        check_views(WindowGather { partition }, &[f16(&[2, keys, 2, 3])], spread, 0.0);
    }
}

#[test]
fn views_can_be_copied() {
    let half = f16(&[3, 4, 5]);
    check(Transpose { perm: vec![2, 0, 1] }, std::slice::from_ref(&half), 0.0);
    check(Slice { axis: 1, start: 1, len: 2 }, std::slice::from_ref(&half), 0.0);
    check(Expand { shape: vec![3, 2, 4, 5] }, &[f32(&[3, 1, 1, 5])], 0.0);
}

#[test]
fn cuda_text_in_every_type() {
    let target = Target::cuda("cuda:sm_90a", 90);
    let dense = [
        "transpose",
        "slice",
        "expand",
        "index",
        "linear",
        "mat_mul",
        "softmax",
        "layer_norm",
        "rms_norm",
        "norm_modulate",
        "rope",
        "window_gather",
    ];
    let mut names = std::collections::BTreeSet::new();
    for sample in Op::samples() {
        if !dense.contains(&sample.op.name()) {
            continue;
        }
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let mut sample = Sample::new(sample.op.clone(), sample.inputs.clone());
            let table = matches!(sample.op, Op::Rope(_));
            for (i, ty) in sample.inputs.iter_mut().enumerate() {
                if ty.dtype.is_float() && !(table && i == 1) {
                    *ty = ty.with_dtype(dtype);
                }
            }
            let Ok(Lowered::Device(launches)) = lower(&call(&sample), &target) else {
                panic!("{} in {dtype} has no kernel", sample.op.name());
            };
            for launch in launches {
                let text = emit(&launch, &target).unwrap();
                let half = match dtype {
                    DType::F16 => "__half",
                    DType::Bf16 => "__nv_bfloat16",
                    _ => "float",
                };
                // Texts for tensor cores have half precision numbers as bits.
                let typed = text.text.contains(half) || dtype.is_half() && text.text.contains("half_t");
                assert!(text.text.contains("__global__") && typed, "{}", text.text);
                assert!(text.shared_bytes <= target.shared_bytes as usize);
                names.insert(sample.op.name());
            }
        }
    }
    assert_eq!(names.len(), dense.len(), "{names:?}");
}
