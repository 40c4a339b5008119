//! Tests that every operator gets by having samples: inference, evaluation in two precisions, texts, work, and
//! inputs that do not fit.

use std::collections::BTreeSet;

use ccl_ir::interp::sample_inputs;
use ccl_ir::tensor::relative_l2;
use ccl_ir::types::MAX_ELEMENTS;
use ccl_ir::{Binding, DType, Graph, Op, Sample, Tensor, TensorType, Tolerance, Value, text, verify::verify};

/// The graph of one node on as many inputs as it takes.
fn graph_of(sample: &Sample<Op>) -> Graph {
    let mut g = Graph::new(sample.op.name());
    let input = |(i, ty): (usize, &TensorType)| g.input(&format!("in{i}"), ty.clone(), Binding::Step).unwrap();
    let inputs: Vec<Value> = sample.inputs.iter().enumerate().map(input).collect();
    let value = g.add("pass/here", sample.op.clone(), &inputs).unwrap();
    g.output("out", value, None);
    g
}

fn refs<T>(items: &[T]) -> Vec<&T> {
    items.iter().collect()
}

#[test]
fn every_operator_has_samples() {
    let names: BTreeSet<&str> = Op::samples().iter().map(|s| s.op.name()).collect();
    // All but `input`, `weight` and `state`, which have nothing to evaluate.
    assert_eq!(names.len(), 42, "{names:?}");
}

#[test]
fn evaluation_gives_what_inference_says() {
    for (i, sample) in Op::samples().iter().enumerate() {
        let types = sample.op.infer(&refs(&sample.inputs)).unwrap_or_else(|e| panic!("{sample:?}: {e}"));
        let wide = sample_inputs(sample, i as u64);
        let narrow: Vec<Tensor<f32>> = wide.iter().map(Tensor::convert).collect();
        let (wide, narrow) = (sample.op.eval(&refs(&wide)).unwrap(), sample.op.eval(&refs(&narrow)).unwrap());
        assert_eq!(wide.len(), types.len(), "{sample:?}");
        assert_eq!(narrow.len(), types.len(), "{sample:?}");
        for ((w, n), ty) in wide.iter().zip(&narrow).zip(&types) {
            assert!(w.matches(ty) && n.matches(ty), "{sample:?}: {ty}, evaluated {:?} and {:?}", w.shape, n.shape);
        }
    }
}

#[test]
fn single_precision_is_close_to_double() {
    for (i, sample) in Op::samples().iter().enumerate() {
        let wide = sample_inputs(sample, i as u64);
        let narrow: Vec<Tensor<f32>> = wide.iter().map(Tensor::convert).collect();
        let results = sample.op.eval(&refs(&wide)).unwrap();
        for (want, got) in results.iter().zip(sample.op.eval(&refs(&narrow)).unwrap()) {
            match sample.op.tolerance() {
                // Bits, since a window's mask holds infinities.
                Tolerance::Exact => {
                    let same = got.data.iter().zip(&want.data).all(|(g, w)| f64::from(*g).to_bits() == w.to_bits());
                    assert!(same, "{sample:?}");
                }
                tolerance => {
                    let error = relative_l2(&got.data, &want.data);
                    assert!(error <= tolerance.f32(), "{sample:?}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn attributes_round_trip() {
    for sample in Op::samples() {
        let again = Op::from_attributes(sample.op.name(), sample.op.attributes());
        assert_eq!(again.as_ref(), Ok(&sample.op));
        let mut surplus = sample.op.attributes();
        surplus.insert("surplus".into(), 1.into());
        let error = Op::from_attributes(sample.op.name(), surplus).unwrap_err();
        assert!(error.0.contains("surplus"), "{error}");
    }
}

#[test]
fn texts_round_trip() {
    for sample in Op::samples() {
        let g = graph_of(&sample);
        verify(&g).unwrap();
        let printed = text::print(&g);
        assert_eq!(text::parse(&printed).as_ref(), Ok(&g), "{printed}");
    }
}

#[test]
fn work_counts_every_operand_once_or_nothing() {
    for sample in Op::samples() {
        let types = sample.op.infer(&refs(&sample.inputs)).unwrap();
        let work = sample.op.work(&refs(&sample.inputs), &types);
        let all: u64 = sample.inputs.iter().chain(&types).map(TensorType::bytes).sum();
        let inner: u64 = types[0].elements() * sample.inputs.iter().map(TensorType::elements).max().unwrap_or(0);
        assert!(work.bytes == 0 || work.bytes >= types[0].bytes(), "{sample:?}: {work:?}");
        assert!(work.bytes <= all, "{sample:?}: {work:?}");
        assert!(work.flops <= 4 * inner, "{sample:?}: {work:?}");
    }
}

/// Types that most operators cannot take: other ranks, integers, no elements, the largest allowed.
fn odd_types() -> Vec<TensorType> {
    let shapes: [&[usize]; 13] = [
        &[],
        &[1],
        &[0],
        &[2, 0],
        &[0, 3],
        &[0, 0, 0],
        &[2, 0, 3],
        &[2, 3, 0, 8],
        &[0, 5, 2, 8],
        &[1, 1, 1, 1, 1],
        &[2, 3, 0, 2, 4],
        &[MAX_ELEMENTS as usize],
        &[1 << 15, 1, 1 << 15, 1 << 15],
    ];
    let dtypes = [DType::F32, DType::I32, DType::Bf16];
    dtypes.iter().flat_map(|&d| shapes.iter().map(move |&s| TensorType::new(d, s))).collect()
}

/// Infers; where that succeeds on small inputs, evaluates as well. Nothing may panic, and both must agree.
fn probe(op: &Op, inputs: &[TensorType]) {
    let Ok(types) = op.infer(&refs(inputs)) else { return };
    op.work(&refs(inputs), &types);
    let small = |t: &TensorType| t.checked_elements().is_some_and(|n| n < 1 << 16);
    if !inputs.iter().chain(&types).all(small) {
        return;
    }
    let values = sample_inputs(&Sample::new(op.clone(), inputs.iter().cloned()), 1);
    if let Ok(results) = op.eval(&refs(&values)) {
        let agree = results.len() == types.len() && results.iter().zip(&types).all(|(r, t)| r.matches(t));
        assert!(agree, "{op:?} of {inputs:?}");
    }
}

#[test]
fn no_inputs_cause_a_panic() {
    for sample in Op::samples() {
        for odd in odd_types() {
            for count in 0..=sample.inputs.len() + 1 {
                probe(&sample.op, &vec![odd.clone(); count]);
            }
            for i in 0..sample.inputs.len() {
                let mut inputs = sample.inputs.clone();
                inputs[i] = odd.clone();
                probe(&sample.op, &inputs);
            }
        }
    }
}

#[test]
fn no_sizes_of_zero_cause_a_panic() {
    for sample in Op::samples() {
        let rank = sample.inputs.iter().map(TensorType::rank).max().unwrap_or(0);
        for axis in 0..rank {
            // Counted from the first dimension and from the last, in one input and in all.
            for from_last in [false, true] {
                let zeroed = |ty: &TensorType| {
                    let mut ty = ty.clone();
                    let at = if from_last { ty.rank().checked_sub(axis + 1) } else { Some(axis) };
                    if let Some(size) = at.and_then(|at| ty.shape.get_mut(at)) {
                        *size = 0;
                    }
                    ty
                };
                probe(&sample.op, &sample.inputs.iter().map(zeroed).collect::<Vec<_>>());
                for i in 0..sample.inputs.len() {
                    let mut inputs = sample.inputs.clone();
                    inputs[i] = zeroed(&inputs[i]);
                    probe(&sample.op, &inputs);
                }
            }
        }
    }
}

#[test]
fn a_wrong_number_of_inputs_is_an_error() {
    for sample in Op::samples() {
        let mut inputs = sample.inputs.clone();
        inputs.push(TensorType::f32([2, 3, 4, 5, 6]));
        assert!(sample.op.infer(&refs(&inputs)).is_err(), "{sample:?} with one more");
        // A `concat` of fewer inputs is fine, unless there are none.
        if !sample.inputs.is_empty() && (sample.op.name() != "concat" || sample.inputs.len() == 1) {
            assert!(sample.op.infer(&refs(&sample.inputs[1..])).is_err(), "{sample:?} with one less");
        }
        assert_eq!(sample.op.infer(&[]).is_ok(), sample.inputs.is_empty(), "{sample:?} with none");
    }
}

#[test]
fn results_beyond_the_element_limit_are_refused() {
    let mut g = Graph::new("large");
    let side = 1 << 23;
    let a = g.input("a", TensorType::f32([side, 1]), Binding::Step).unwrap();
    let b = g.weight("b", TensorType::f32([2 * side, 1])).unwrap();
    let error = g.add("here", ccl_ir::ops::Linear::plain(), &[a, b]).unwrap_err().to_string();
    assert!(error.contains("too many elements") && error.contains("linear at `here`"), "{error}");
    assert!(g.input("c", TensorType::f32([0, side, side, side]), Binding::Step).is_err());
}
