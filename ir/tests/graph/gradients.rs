//! Every operator's gradient rule against central differences in f64, on the operator's own samples.

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::grad::gradients;
use ccl_ir::interp::{evaluate, sample_inputs};
use ccl_ir::ops::{Binary, BinaryKind, Constant, Reduce};
use ccl_ir::{Binding, Graph, Op, Sample, Tensor, TensorType, Value, verify::verify};

/// Operators without a rule, and why none is needed. A new operator without a rule must be named here.
const WITHOUT_RULE: [(&str, &str); 7] = [
    ("time_features", "the time is given, never learnt"),
    ("index", "reads a schedule: hoisting makes it, after differentiation"),
    ("merge_attention", "puts dealt out keys together: splitting makes it, after differentiation"),
    ("norm_grad", "part of a backward pass"),
    ("attention_grad", "part of a backward pass"),
    ("partitioned_context_attention_grad", "part of a backward pass"),
    ("adam_w", "the optimiser"),
];

/// `sum(out * r)` over the first output, with random `r`, and its gradient to every float input: outputs `loss`, `grad.i`.
fn graph_of(sample: &Sample<Op>) -> Result<(Graph, BTreeSet<usize>), String> {
    let mut g = Graph::new(sample.op.name());
    let float: Vec<usize> = (0..sample.inputs.len()).filter(|&i| sample.inputs[i].dtype.is_float()).collect();
    // Halves are f32 here: central differences are about the rule, not about rounding.
    let ty = |i: usize| match float.contains(&i) {
        true => TensorType::f32(sample.inputs[i].shape.clone()),
        false => sample.inputs[i].clone(),
    };
    let input = |i: usize| (format!("in{i}"), ty(i));
    let inputs: Vec<Value> = (0..sample.inputs.len())
        .map(|i| {
            let (name, ty) = input(i);
            g.input(&name, ty, Binding::Step).unwrap()
        })
        .collect();
    let out = g.add("here", sample.op.clone(), &inputs).unwrap();
    let r = g.input("r", TensorType::f32(g.ty(out).shape.clone()), Binding::Step).unwrap();
    let product = g.add("loss", Binary { kind: BinaryKind::Mul }, &[out, r]).unwrap();
    let loss = g.add("loss", Reduce::to([]), &[product]).unwrap();
    let seed = g.add("seed", Constant { ty: TensorType::f32([]), value: 1.0 }, &[]).unwrap();
    let wrt: Vec<Value> = float.iter().map(|&i| inputs[i]).collect();
    let found = gradients(&mut g, loss, seed, &wrt).map_err(|e| e.to_string())?;
    g.output("loss", loss, None);
    let mut known = BTreeSet::new();
    for (&i, gradient) in float.iter().zip(found) {
        if let Some(gradient) = gradient {
            assert_eq!(g.ty(gradient).shape, g.ty(inputs[i]).shape, "{sample:?}: gradient {i}");
            g.output(format!("grad.{i}"), gradient, None);
            known.insert(i);
        }
    }
    verify(&g).unwrap();
    Ok((g, known))
}

fn values(sample: &Sample<Op>, g: &Graph) -> BTreeMap<String, Tensor<f64>> {
    let tensors = sample_inputs(sample, 3);
    let mut out: BTreeMap<_, _> = tensors.into_iter().enumerate().map(|(i, t)| (format!("in{i}"), t)).collect();
    out.extend(ccl_ir::interp::random_bindings(g, 4).into_iter().filter(|(name, _)| name == "r"));
    out
}

#[test]
fn rules_agree_with_central_differences() {
    const STEP: f64 = 1e-5;
    let mut without = BTreeSet::new();
    for sample in Op::samples().iter().filter(|s| !s.inputs.is_empty()) {
        let passes: BTreeSet<usize> = (0..sample.inputs.len())
            .filter(|&i| sample.inputs[i].dtype.is_float() && sample.op.differentiable(i))
            .collect();
        let (g, known) = match graph_of(sample) {
            Ok(found) => found,
            Err(e) if e.contains("has no gradient") => {
                without.insert(sample.op.name());
                continue;
            }
            // The rule itself says when it does not apply.
            Err(e) => {
                let excused = e.contains("that pass runs after differentiation") || e.contains("no second ones");
                assert!(excused || e.contains("has no answer"), "{sample:?}: {e}");
                continue;
            }
        };
        // An unused side of a route has no gradient; everything else that passes one must have it.
        if !matches!(sample.op, Op::Route(_)) {
            assert_eq!(known, passes, "{sample:?}");
        }
        let given = values(sample, &g);
        let exact = evaluate(&g, &given).unwrap();
        for i in known {
            let direction = ccl_ir::interp::random_bindings(&g, 100 + i as u64)[&format!("in{i}")].clone();
            let along = |step: f64| {
                let mut moved = given.clone();
                let x = moved.get_mut(&format!("in{i}")).unwrap();
                x.data.iter_mut().zip(&direction.data).for_each(|(x, u)| *x += step * u);
                evaluate(&g, &moved).unwrap()["loss"].data[0]
            };
            let want = (along(STEP) - along(-STEP)) / (2.0 * STEP);
            let gradient = &exact[&format!("grad.{i}")].data;
            let got: f64 = gradient.iter().zip(&direction.data).map(|(g, u)| g * u).sum();
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scale = norm(gradient) * norm(&direction.data) + 1e-12;
            let error = (got - want).abs() / scale;
            assert!(error < 1e-7, "{sample:?}: input {i}: {got} by the rule, {want} by differences ({error:e})");
        }
    }
    assert_eq!(without, WITHOUT_RULE.iter().map(|(name, _)| *name).collect());
}

#[test]
fn no_gradient_passes_a_detached_value() {
    let mut g = Graph::new("detach");
    let x = g.input("x", TensorType::f32([3]), Binding::Step).unwrap();
    let y = g.input("y", TensorType::f32([3]), Binding::Step).unwrap();
    let cut = g.add("cut", ccl_ir::ops::Detach {}, &[x]).unwrap();
    let product = g.add("p", Binary { kind: BinaryKind::Mul }, &[cut, y]).unwrap();
    let loss = g.add("loss", Reduce::to([]), &[product]).unwrap();
    let seed = g.add("seed", Constant { ty: TensorType::f32([]), value: 1.0 }, &[]).unwrap();
    let found = gradients(&mut g, loss, seed, &[x, y]).unwrap();
    assert!(found[0].is_none() && found[1].is_some());
}

#[test]
fn a_result_that_passes_no_gradient_is_refused() {
    let mut g = Graph::new("lse");
    let shape = TensorType::f32([1, 2, 1, 4]);
    let q = g.input("q", shape, Binding::Step).unwrap();
    let o = g.add("attend", ccl_ir::ops::Attention::full(), &[q, q, q]).unwrap();
    let lse = Value { node: o.node, port: 1 };
    let loss = g.add("loss", Reduce::to([]), &[lse]).unwrap();
    let seed = g.add("seed", Constant { ty: TensorType::f32([]), value: 1.0 }, &[]).unwrap();
    let error = gradients(&mut g, loss, seed, &[q]).unwrap_err().to_string();
    assert!(error.starts_with("attention at `grad/attend`: a result other than the first"), "{error}");
}
