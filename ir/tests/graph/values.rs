//! Operators against numbers that were found another way: by hand, from tables, or by composing plainer operators.

use std::collections::BTreeMap;

use ccl_ir::interp::{evaluate, random_bindings};
use ccl_ir::ops::{self, BinaryKind, Positions, RopeTable, UnaryKind, axial_split};
use ccl_ir::partition::Edge;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Binding, DType, Graph, IrError, Op, Partition, Tensor, TensorType, Value};

fn tensor(shape: &[usize], data: &[f64]) -> Tensor<f64> {
    Tensor::new(shape, data.to_vec()).unwrap()
}

/// Checks the first result of an operator.
fn check(op: impl Into<Op>, inputs: &[Tensor<f64>], shape: &[usize], want: &[f64]) {
    let op = op.into();
    let types: Vec<TensorType> = inputs.iter().map(|t| TensorType::f32(t.shape.clone())).collect();
    assert_eq!(op.infer(&types.iter().collect::<Vec<_>>()).unwrap()[0].shape, shape, "{op:?}");
    let got = op.eval(&inputs.iter().collect::<Vec<_>>()).unwrap().remove(0);
    assert_eq!(got.data.len(), want.len(), "{op:?}");
    for (g, w) in got.data.iter().zip(want) {
        assert!((g - w).abs() <= 1e-12 * w.abs().max(1.0), "{op:?}: got {g}, want {w}");
    }
}

#[test]
fn activations() {
    let x = [-3.0, -1.0, -0.5, 0.5, 1.0, 2.0];
    let check = |kind, want: &[f64]| check(ops::Unary { kind }, &[tensor(&[6], &x)], &[6], want);
    // Standard normal distribution times x.
    check(
        UnaryKind::GeluErf,
        &[
            -0.00404969409489031,
            -0.15865525393145707,
            -0.15426876936299344,
            0.34573123063700656,
            0.8413447460685429,
            1.9544997361036416,
        ],
    );
    check(
        UnaryKind::GeluTanh,
        &[
            -0.0036373920817729943,
            -0.15880800939172324,
            -0.15428599017485606,
            0.34571400982514394,
            0.8411919906082768,
            1.954597694087775,
        ],
    );
    check(
        UnaryKind::Silu,
        &[
            -0.14227761953270035,
            -0.2689414213699951,
            -0.1887703343990727,
            0.3112296656009273,
            0.7310585786300049,
            1.7615941559557646,
        ],
    );
}

#[test]
fn matrix_products() {
    let (x, w) = (tensor(&[1, 2], &[1.0, 2.0]), tensor(&[3, 2], &[1.0, 0.0, 3.0, 4.0, -1.0, 1.0]));
    check(ops::Linear::plain(), &[x.clone(), w.clone()], &[1, 3], &[1.0, 11.0, 1.0]);
    let b = tensor(&[3], &[0.5, -1.0, 0.0]);
    check(ops::Linear::biased(), &[x.clone(), w.clone(), b], &[1, 3], &[1.5, 10.0, 1.0]);
    check(ops::MatMul { transpose_b: true, out: None }, &[x.clone(), w], &[1, 3], &[1.0, 11.0, 1.0]);
    let w = tensor(&[2, 3], &[1.0, 3.0, -1.0, 0.0, 4.0, 1.0]);
    check(ops::MatMul { transpose_b: false, out: None }, &[x, w], &[1, 3], &[1.0, 11.0, 1.0]);
}

#[test]
fn norms() {
    let x = tensor(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let r = 1.25f64.sqrt();
    let plain = [-1.5 / r, -0.5 / r, 0.5 / r, 1.5 / r];
    check(ops::LayerNorm { eps: 0.0, affine: false }, std::slice::from_ref(&x), &[1, 1, 4], &plain);
    let (w, b) = ([2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 5.0, 0.0]);
    let affine: Vec<f64> = (0..4).map(|i| plain[i] * w[i] + b[i]).collect();
    let inputs = [x.clone(), tensor(&[4], &w), tensor(&[4], &b)];
    check(ops::LayerNorm { eps: 0.0, affine: true }, &inputs, &[1, 1, 4], &affine);
    let modulated: Vec<f64> = (0..4).map(|i| plain[i] * (1.0 + w[i]) + b[i]).collect();
    let inputs = [x.clone(), tensor(&[1, 1, 4], &b), tensor(&[1, 1, 4], &w)];
    check(ops::NormModulate { eps: 0.0 }, &inputs, &[1, 1, 4], &modulated);
    // Mean square 7.5, and 8 with eps.
    let s = 8f64.sqrt();
    let inputs = [x, tensor(&[4], &[1.0, 1.0, 2.0, 1.0])];
    check(ops::RmsNorm { eps: 0.5 }, &inputs, &[1, 1, 4], &[1.0 / s, 2.0 / s, 6.0 / s, 4.0 / s]);
}

#[test]
fn softmax_of_masked_scores() {
    let x = tensor(&[4], &[0.0, f64::NEG_INFINITY, 0.0, 2f64.ln()]);
    check(ops::Softmax {}, &[x], &[4], &[0.25, 0.0, 0.25, 0.5]);
    // Large scores do not overflow.
    check(ops::Softmax {}, &[tensor(&[2], &[1000.0, 1000.0])], &[2], &[0.5, 0.5]);
}

#[test]
fn time_features() {
    // Angles 1000 t 10000^(-i/4) = 250, 25, 2.5, 0.25.
    let want = [
        250f64.cos(),
        25f64.cos(),
        2.5f64.cos(),
        0.25f64.cos(),
        250f64.sin(),
        25f64.sin(),
        2.5f64.sin(),
        0.25f64.sin(),
    ];
    check(ops::TimeFeatures { dim: 8 }, &[tensor(&[1], &[0.25])], &[1, 8], &want);
}

#[test]
fn axial_channels() {
    assert_eq!(axial_split(128), [44, 42, 42]);
    assert_eq!(axial_split(24), [8, 8, 8]);
    assert_eq!(axial_split(16), [8, 4, 4]);
    assert_eq!(axial_split(4), [4, 0, 0]);
}

#[test]
fn rope_angles() {
    let table = |positions, head_dim| RopeTable { positions, head_dim, theta: 10000.0 };
    let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-13, "{got} {want}");
    let linear = table(Positions::Linear { length: 3 }, 4);
    near(linear.angle(2, 0), 2.0);
    near(linear.angle(2, 1), 0.02);
    // Token 11 of 2 x 3 x 2 is frame 1, row 2, column 1; 8 + 4 + 4 channels.
    let axial = table(Positions::Axial { frames: 2, rows: 3, columns: 2 }, 16);
    near(axial.angle(11, 0), 1.0);
    near(axial.angle(11, 3), 0.001);
    near(axial.angle(11, 4), 2.0);
    near(axial.angle(11, 5), 0.02);
    near(axial.angle(11, 6), 1.0);
    near(axial.angle(11, 7), 0.01);
    // Token 5 of 7 is at frame 15/7; rows and columns do not turn.
    let aligned = table(Positions::Aligned { length: 7, frames: 3 }, 16);
    near(aligned.angle(5, 0), 15.0 / 7.0);
    near(aligned.angle(5, 3), 0.001 * 15.0 / 7.0);
    assert!((4..8).all(|pair| aligned.angle(5, pair) == 0.0));
}

#[test]
fn rope_turns_neighbouring_pairs() {
    // Pair 0 by 90 degrees, pair 1 by 0.3 radians.
    let x = tensor(&[1, 1, 1, 4], &[2.0, 3.0, 1.0, 0.0]);
    let (s, c) = 0.3f64.sin_cos();
    check(ops::Rope::default(), &[x, tensor(&[1, 2, 2], &[0.0, 1.0, c, s])], &[1, 1, 1, 4], &[-3.0, 2.0, c, s]);
}

#[test]
fn patch_layouts() {
    let count: Vec<f64> = (0..8).map(f64::from).collect();
    // (C, p1, p2), patches row by row.
    let x = tensor(&[1, 1, 2, 4], &count);
    let want = [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0];
    check(ops::Patchify { patch: vec![2, 2] }, &[x], &[1, 2, 4], &want);
    let x = tensor(&[1, 2, 1, 2, 2], &count);
    check(ops::Patchify { patch: vec![1, 2, 2] }, &[x], &[1, 1, 8], &count);
    // (p1, p2, p3, C): the channel is fastest.
    let x = tensor(&[1, 1, 8], &count);
    let want = [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0];
    check(ops::Unpatchify { patch: vec![1, 2, 2], grid: vec![1, 1, 1] }, &[x], &[1, 2, 1, 2, 2], &want);
    let x = tensor(&[1, 2, 4], &count);
    let want = [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0];
    check(ops::Unpatchify { patch: vec![2, 2], grid: vec![1, 2] }, &[x], &[1, 1, 2, 4], &want);
}

#[test]
fn values_out_of_range_are_errors() {
    let (index, table) = (Op::from(ops::Index {}), tensor(&[2, 1], &[5.0, 6.0]));
    assert_eq!(index.eval(&[&table, &tensor(&[], &[1.0])]).unwrap()[0], tensor(&[1], &[6.0]));
    for bad in [-1.0, 2.0, f64::NAN] {
        assert!(index.eval(&[&table, &tensor(&[], &[bad])]).is_err());
    }
    let counted = Op::from(ops::Attention { masked: false, counted: true });
    let x = tensor(&[1, 2, 1, 1], &[1.0, 2.0]);
    for (count, fine) in [(0.0, false), (1.0, true), (2.0, true), (3.0, false)] {
        assert_eq!(counted.eval(&[&x, &x, &x, &tensor(&[], &[count])]).is_ok(), fine);
    }
    let route = Op::from(ops::Route { flag: "cond.cross".into(), answer: None });
    assert!(route.eval(&[&x, &x]).unwrap_err().0.contains("cond.cross"));
}

/// `[B, L, H, D]` to `[B, H, L, D]` and back.
fn heads_first(g: &mut Graph, x: Value) -> Result<Value, IrError> {
    g.add("", ops::Transpose { perm: vec![0, 2, 1, 3] }, &[x])
}

#[test]
fn attention_is_products_and_softmax() -> Result<(), IrError> {
    for (masked, counted) in [(false, false), (true, false), (false, true), (true, true)] {
        let (b, lq, lk, h, d) = (2, 5, 7, 3, 4);
        let mut g = Graph::new("attention");
        let q = g.input("q", TensorType::f32([b, lq, h, d]), Binding::Step)?;
        let k = g.input("k", TensorType::f32([b, lk, h, d]), Binding::Step)?;
        let v = g.input("v", TensorType::f32([b, lk, h, d]), Binding::Step)?;
        let mut inputs = vec![q, k, v];
        if masked {
            inputs.push(g.input("mask", TensorType::f32([b, lk]), Binding::Step)?);
        }
        if counted {
            inputs.push(g.input("k_len", TensorType::new(DType::I32, []), Binding::Step)?);
        }
        let fused = g.add("", ops::Attention { masked, counted }, &inputs)?;
        g.output("fused", fused, None);
        g.output("fused.lse", Value { port: 1, ..fused }, None);

        let mut bindings = random_bindings(&g, 3);
        let present = bindings.get("k_len").map_or(lk, |n| n.data[0] as usize);
        let [q, k, v] = [heads_first(&mut g, q)?, heads_first(&mut g, k)?, heads_first(&mut g, v)?];
        let mut scores = g.add("", ops::MatMul { transpose_b: true, out: None }, &[q, k])?;
        let scale = g.add("", ops::Constant { ty: TensorType::f32([]), value: 0.5 }, &[])?;
        scores = g.add("", ops::Binary { kind: BinaryKind::Mul }, &[scores, scale])?;
        // The mask, and -inf for keys beyond the count, as one term.
        let mask = g.input("term", TensorType::f32([b, 1, 1, lk]), Binding::Step)?;
        let mut term = bindings.get("mask").map_or(vec![0.0; b * lk], |m| m.data.clone());
        for (i, x) in term.iter_mut().enumerate() {
            if i % lk >= present {
                *x = f64::NEG_INFINITY;
            }
        }
        bindings.insert("term".into(), tensor(&[b, 1, 1, lk], &term));
        scores = g.add("", ops::Binary { kind: BinaryKind::Add }, &[scores, mask])?;
        g.output("scores", scores, None);
        let weights = g.add("", ops::Softmax {}, &[scores])?;
        let result = g.add("", ops::MatMul { transpose_b: false, out: None }, &[weights, v])?;
        let result = heads_first(&mut g, result)?;
        g.output("plain", result, None);

        let got = evaluate(&g, &bindings)?;
        assert!(relative_l2(&got["fused"].data, &got["plain"].data) < 1e-13, "{masked} {counted}");
        let lse: Vec<f64> =
            got["scores"].data.chunks(lk).map(|row| row.iter().map(|x| x.exp()).sum::<f64>().ln()).collect();
        assert!(relative_l2(&got["fused.lse"].data, &lse) < 1e-13, "{masked} {counted}");
    }
    Ok(())
}

/// CCA's attention in both forms: the fused operator, and gathered windows with a mask.
fn cca_attention(partition: Partition) -> Result<Graph, IrError> {
    let (b, h, d, n) = (2, 2, 4, 3);
    let (rows, size) = partition.row_shape();
    let (queries, keys) = (partition.queries(), partition.keys());
    let mut g = Graph::new("cca");
    let q = g.input("q", TensorType::f32([b, queries, h, d]), Binding::Step)?;
    let k = g.input("k", TensorType::f32([b, keys, h, d]), Binding::Step)?;
    let v = g.input("v", TensorType::f32([b, keys, h, d]), Binding::Step)?;
    let ck = g.input("ck", TensorType::f32([n, h, d]), Binding::Load)?;
    let cv = g.input("cv", TensorType::f32([n, h, d]), Binding::Load)?;
    let fused = g.add("", ops::PartitionedContextAttention::new(partition), &[q, k, v, ck, cv])?;
    g.output("fused", fused, None);
    g.output("fused.lse", Value { port: 1, ..fused }, None);

    let q = g.add("", ops::Reshape { shape: vec![b, rows, queries / rows, h, d] }, &[q])?;
    let mut seen = Vec::new();
    for (latent, context) in [(k, ck), (v, cv)] {
        let window = g.add("", ops::WindowGather { partition }, &[latent])?;
        let context = g.add("", ops::Expand { shape: vec![b, rows, n, h, d] }, &[context])?;
        seen.push(g.add("", ops::Concat { axis: 2 }, &[window, context])?);
    }
    let mask = g.add("", ops::WindowMask { partition, context: n }, &[])?;
    assert_eq!(g.ty(mask).shape, [rows, size + n]);
    let plain = g.add("", ops::Attention { masked: true, counted: false }, &[q, seen[0], seen[1], mask])?;
    g.output("plain.lse", Value { port: 1, ..plain }, None);
    let plain = g.add("", ops::Reshape { shape: vec![b, queries, h, d] }, &[plain])?;
    g.output("plain", plain, None);
    Ok(g)
}

#[test]
fn partitioned_attention_is_attention_over_gathered_windows() -> Result<(), IrError> {
    let mut partitions = Vec::new();
    for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
        for (frames, length) in [(4, 21), (5, 29), (6, 4)] {
            let c = (length / frames).max(1);
            for (scale, offset, divisor) in [(c, c / 2, 1), (2 * length, length, 2 * frames)] {
                let tokens_per_frame = 3;
                partitions.push(Partition::Windows {
                    frames,
                    tokens_per_frame,
                    length,
                    size: 3 * c,
                    scale,
                    offset,
                    divisor,
                    edge,
                });
            }
        }
    }
    for (frames, length) in [(4, 21), (5, 29), (6, 4)] {
        partitions.push(Partition::NearestFrame { frames, tokens_per_frame: 3, length });
    }
    for (seed, partition) in partitions.into_iter().enumerate() {
        let g = cca_attention(partition)?;
        let bindings: BTreeMap<_, _> = random_bindings(&g, seed as u64);
        let got = evaluate(&g, &bindings)?;
        let error = relative_l2(&got["fused"].data, &got["plain"].data);
        assert!(error < 1e-13, "{partition:?}: {error:e}");

        // The plain form's rows are [B, rows, H, queries per row], the fused form's [B, H, queries].
        let (rows, _) = partition.row_shape();
        let per = partition.queries() / rows;
        let lse = &got["plain.lse"];
        let regrouped =
            Tensor::from_fn(got["fused.lse"].shape.clone(), |i| lse.at(&[i[0], i[2] / per, i[1], i[2] % per]));
        assert!(relative_l2(&got["fused.lse"].data, &regrouped.data) < 1e-13, "{partition:?}");
    }
    Ok(())
}
