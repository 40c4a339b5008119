//! One suite for every runtime: what a session promises, on each backend.

use std::collections::BTreeMap;

use crate::common::*;
use ccl_ir::{Binding, DType, Operator, Tensor, TensorType, ops};
use ccl_runtime::{CpuBackend, HostTensor, ReferenceBackend, Session, Tensors};

/// Runs the same check on every backend.
fn on_each(check: impl Fn(&dyn ccl_runtime::Backend) -> Outcome) -> Outcome {
    for backend in backends()? {
        check(backend.as_ref()).map_err(|e| format!("{}: {e}", backend.name()))?;
    }
    Ok(())
}

fn values<'a>(tensors: &'a Tensors, name: &str) -> &'a [f32] {
    tensors.get(name).and_then(HostTensor::as_f32).unwrap_or_default()
}

fn close(have: &[f32], want: &[f32]) {
    assert_eq!(have.len(), want.len());
    for (a, b) in have.iter().zip(want) {
        assert!((a - b).abs() < 1e-5, "{have:?} {want:?}");
    }
}

#[test]
fn a_step_computes_what_the_plan_says() -> Outcome {
    on_each(|backend| {
        let mut session = session(backend, field(3))?;
        let x = ramp(&[1, 4]);
        let levels = [1.0f32, 0.75, 0.25];
        session.prologue(&inputs(&[("schedule", HostTensor::f32([3, 1], levels.to_vec()))]))?;
        assert_eq!(session.steps(), Some(3));
        // In any order: a step depends on nothing but its number and latents.
        for k in [0, 1, 2, 1] {
            let out = session.step(&tensors(&[("video", x.clone())]), k)?;
            let at = |&x: &f32| field_at(f64::from(x), f64::from(levels[k])) as f32;
            let want: Vec<f32> = x.as_f32().unwrap_or_default().iter().map(at).collect();
            close(values(&out, "velocity.video"), &want);
        }
        Ok(())
    })
}

#[test]
fn a_time_is_a_schedule_of_one_step() -> Outcome {
    on_each(|backend| {
        let mut session = session(backend, field(4))?;
        let x = ramp(&[1, 4]);
        // Latents among the clip's inputs serve steps that are given none.
        session.prologue(&inputs(&[("t", HostTensor::f32([1], vec![0.5])), ("video", x.clone())]))?;
        assert_eq!(session.steps(), Some(1));
        let out = session.step(&Tensors::new(), 0)?;
        let want: Vec<f32> =
            x.as_f32().unwrap_or_default().iter().map(|&x| field_at(f64::from(x), 0.5) as f32).collect();
        close(values(&out, "velocity.video"), &want);
        Ok(())
    })
}

#[test]
fn long_schedules_are_served_in_pieces() -> Outcome {
    let levels: Vec<f32> = (0..7).map(|k| 1.0 - k as f32 / 7.0).collect();
    let schedule = HostTensor::f32([7, 1], levels);
    on_each(|backend| {
        let mut results = Vec::new();
        for rows in [1, 2, 3, 7, 16] {
            let mut session = session(backend, field(rows))?;
            session.prologue(&inputs(&[("schedule", schedule.clone())]))?;
            let mut outputs = Vec::new();
            // Back and forth over the borders of pieces.
            for k in [0, 1, 2, 3, 4, 5, 6, 0, 5] {
                let out = session.step(&tensors(&[("video", ramp(&[1, 4]))]), k)?;
                outputs.push(values(&out, "velocity.video").to_vec());
            }
            assert_eq!(outputs[0], outputs[7]);
            assert_ne!(outputs[0], outputs[1]);
            results.push(outputs);
        }
        assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
        Ok(())
    })
}

/// What [`prompt`] computes for a text, by the operators' definitions in `f64`.
fn prompt_reference(
    half: DType,
    text: &HostTensor,
    x: &HostTensor,
    scale: f64,
) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    use ccl_runtime::weights::WeightSource;
    let store = weights();
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let query = store.load("query", &TensorType::f32([1, 2, 1, 4]))?;
    let query: Vec<f64> = query.bytes().chunks_exact(4).map(|b| f64::from(number(b))).collect();
    let matrix = store.load("out.weight", &TensorType::new(half, [4, 4]))?;
    let wide = |b: &[u8]| match half {
        DType::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f64(),
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f64(),
        _ => f64::from(number(b)),
    };
    let matrix: Vec<f64> = matrix.bytes().chunks_exact(half.bytes() as usize).map(wide).collect();
    let floats = |t: &HostTensor| t.as_f32().unwrap_or_default().iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let tensor = |shape: &[usize], data| Tensor::new(shape, data).map_err(|e| e.to_string());
    let keys = tensor(&[1, text.shape[1], 1, 4], floats(text))?;
    let read =
        ops::Attention::full().eval(&[&tensor(&[1, 2, 1, 4], query)?, &keys, &keys]).map_err(|e| e.to_string())?;
    let matrix = tensor(&[4, 4], matrix)?;
    let out =
        ops::Linear::plain().eval(&[&tensor(&[1, 2, 4], read[0].data.clone())?, &matrix]).map_err(|e| e.to_string())?;
    Ok(floats(x).iter().zip(&out[0].data).map(|(x, c)| (x * scale + c) as f32).collect())
}

#[test]
fn shorter_prompts_are_padded_and_counted() -> Outcome {
    on_each(|backend| {
        let half = half_of(backend);
        let mut session = session(backend, prompt_in(half))?;
        let x = ramp(&[1, 2, 4]);
        let mut results: Vec<Vec<f32>> = Vec::new();
        // The longest first, so that what it left behind would be seen by the next.
        for tokens in [6, 2, 1, 5] {
            let text = ramp(&[1, tokens, 4]);
            let scale = HostTensor::f32([], vec![1.5]);
            session.prologue(&inputs(&[("text", text.clone()), ("scale.video", scale), ("unknown", ramp(&[3]))]))?;
            assert_eq!(session.steps(), None);
            let out = session.step(&tensors(&[("video", x.clone())]), 0)?;
            close(values(&out, "guided.video"), &prompt_reference(half, &text, &x, 1.5)?);
            results.push(values(&out, "guided.video").to_vec());
        }
        assert_ne!(results[0], results[1]);
        Ok(())
    })
}

#[test]
fn bad_inputs_are_named() -> Outcome {
    let scale = || ("scale.video", HostTensor::f32([], vec![1.0]));
    on_each(|backend| {
        let mut s = session(backend, prompt_in(half_of(backend)))?;
        let lying = HostTensor { shape: vec![1, 2, 4], data: ccl_runtime::HostData::F32(vec![0.0; 3]) };
        let nan = HostTensor::f32([1, 1, 4], vec![0.0, f32::NAN, 0.0, 0.0]);
        let integers = HostTensor::i32([1, 1, 4], vec![0; 4]);
        says(s.prologue(&inputs(&[scale()])), &["inputs: `text", "is missing"]);
        says(s.prologue(&inputs(&[("text", ramp(&[1, 2, 3])), scale()])), &["`text`", "[1, 2, 3]", "[1, 6, 4]"]);
        says(s.prologue(&inputs(&[("text", ramp(&[2, 2, 4])), scale()])), &["`text`", "[2, 2, 4]"]);
        says(s.prologue(&inputs(&[("text", ramp(&[2])), scale()])), &["`text`", "[2]"]);
        says(s.prologue(&inputs(&[("text", ramp(&[1, 9, 4])), scale()])), &["`text`", "9 tokens", "--text-tokens 9"]);
        says(s.prologue(&inputs(&[("text", ramp(&[1, 0, 4])), scale()])), &["`text`", "no tokens"]);
        says(s.prologue(&inputs(&[("text", lying), scale()])), &["`text`", "3 elements"]);
        says(s.prologue(&inputs(&[("text", nan), scale()])), &["`text`", "finite"]);
        says(s.prologue(&inputs(&[("text", integers), scale()])), &["`text`", "integers"]);
        says(s.step(&Tensors::new(), 0), &["before a prologue"]);
        s.prologue(&inputs(&[("text", ramp(&[1, 2, 4])), scale()]))?;
        says(s.step(&Tensors::new(), 0), &["`video` is missing", "f32[1,2,4]"]);
        says(s.step(&tensors(&[("video", ramp(&[1, 2, 3]))]), 0), &["`video` is f32[1,2,3]", "f32[1,2,4]"]);
        let infinite = HostTensor::f32([1, 2, 4], vec![f32::INFINITY; 8]);
        says(s.step(&tensors(&[("video", infinite)]), 0), &["`video`", "finite"]);
        s.step(&tensors(&[("video", ramp(&[1, 2, 4]))]), 0)?;
        Ok(())
    })
}

#[test]
fn a_reference_is_read_from_its_stream() -> Outcome {
    on_each(|backend| {
        let mut b = Builder::new();
        let clean = b.input("reference.audio", TensorType::f32([3]), Binding::Prologue);
        let twice = b.call(Binding::Prologue, true, "twice", add(), &[&clean, &clean]);
        b.output("twice", &twice, Binding::Prologue);
        let mut s = session(backend, b.build())?;
        says(s.prologue(&inputs(&[])), &["`audio` is missing", "f32[3]"]);
        for (name, own) in [("audio", false), ("reference.audio", true)] {
            let mut given = inputs(&[(name, HostTensor::f32([3], vec![1.0, 2.0, 3.0]))]);
            if own {
                given.insert("audio", ramp(&[7]));
            }
            s.prologue(&given)?;
            assert_eq!(values(&s.step(&Tensors::new(), 0)?, "twice"), [2.0, 4.0, 6.0]);
        }
        Ok(())
    })
}

#[test]
fn bad_schedules_are_named() -> Outcome {
    on_each(|backend| {
        let mut s = session(backend, field(2))?;
        says(s.prologue(&inputs(&[])), &["`t` is missing"]);
        says(s.prologue(&inputs(&[("t", ramp(&[2]))])), &["`t`", "[2]", "[1]"]);
        says(s.prologue(&inputs(&[("schedule", ramp(&[4, 2]))])), &["`schedule`", "[4, 2]", "[4, 1]"]);
        says(s.prologue(&inputs(&[("schedule", HostTensor::f32([0, 1], vec![]))])), &["`schedule`"]);
        says(s.prologue_at(&inputs(&[]), HostTensor::f32([1], vec![0.5])), &["`schedule`", "f32[steps,1]"]);
        says(s.prologue(&inputs(&[("t", HostTensor::f32([1], vec![f32::NAN]))])), &["`schedule`", "finite"]);
        s.prologue(&inputs(&[("t", HostTensor::f32([1], vec![0.5]))]))?;
        says(s.step(&tensors(&[("video", ramp(&[1, 4]))]), 1), &["step 2", "schedule has 1"]);
        Ok(())
    })
}

#[test]
fn results_that_are_no_numbers_are_errors() -> Outcome {
    on_each(|backend| {
        let mut s = session(backend, prompt_in(half_of(backend)))?;
        let huge = HostTensor::f32([], vec![3e38]);
        s.prologue(&inputs(&[("text", ramp(&[1, 2, 4])), ("scale.video", huge)]))?;
        let x = HostTensor::f32([1, 2, 4], vec![100.0; 8]);
        says(s.step(&tensors(&[("video", x)]), 3), &["step 4: `guided.video` is not finite"]);
        Ok(())
    })
}

#[test]
fn a_kernel_that_fails_is_named_with_its_place() -> Outcome {
    on_each(|backend| {
        let plan = field(2);
        let mut instance = backend.instantiate(plan.clone(), &weights())?;
        instance.run(Binding::Load)?;
        instance.run(Binding::Prologue)?;
        let step = plan.inputs.iter().position(|p| p.name == "step").ok_or("no step")?;
        instance.write(step, &HostTensor::i32([], vec![7]))?;
        says(instance.run(Binding::Step), &["step: index at `t`", "7"]);
        says(instance.write(99, &ramp(&[1])), &["input 99"]);
        says(instance.read(99), &["output 99"]);
        says(instance.write(step, &ramp(&[1, 4])), &["`step`", "i32[]"]);
        Ok(())
    })
}

#[test]
fn calls_are_measured_on_demand() -> Outcome {
    on_each(|backend| {
        let mut s = session(backend, field(2))?;
        s.prologue(&inputs(&[("t", HostTensor::f32([1], vec![0.5]))]))?;
        let x = tensors(&[("video", ramp(&[1, 4]))]);
        s.step(&x, 0)?;
        assert!(s.instance().take_profile().is_empty());
        s.instance().set_profiling(true);
        s.step(&x, 0)?;
        let times = s.instance().take_profile();
        let names: Vec<(&str, &str)> = times.iter().map(|t| (t.op, t.at.as_str())).collect();
        let want = [("index", "t"), ("index", "s"), ("binary", "a"), ("binary", "c"), ("binary", "d"), ("binary", "v")];
        assert_eq!(names, want);
        assert!(times.iter().enumerate().all(|(i, t)| t.entry == Binding::Step && t.index == i && t.seconds >= 0.0));
        assert!(s.instance().resident_bytes() >= 64 * 10);
        assert!(s.instance().take_profile().is_empty());
        Ok(())
    })
}

#[test]
fn plans_that_no_session_can_drive_are_refused() -> Outcome {
    let odd = |name: &str, ty: TensorType, binding| {
        let mut b = Builder::new();
        let x = b.input(name, ty, binding);
        let y = b.call(binding, false, "y", mul(), &[&x, &x]);
        b.output("velocity.video", &y, binding);
        b.build()
    };
    on_each(|backend| {
        says(session(backend, odd("video", TensorType::f32([2]), Binding::Load)), &["`video`", "at load"]);
        says(session(backend, odd("schedule", TensorType::f32([2]), Binding::Prologue)), &["plan: `schedule`"]);
        says(session(backend, odd("t", TensorType::f32([2, 2]), Binding::Step)), &["plan: `t`"]);
        let mut unsafe_plan = (*field(2)).clone();
        unsafe_plan.scratch_bytes = 0;
        says(session(backend, unsafe_plan.into()), &["plan: "]);
        let mut vast = (*field(2)).clone();
        vast.scratch_bytes = 1 << 46;
        // A device that does not say what it has cannot know.
        if backend.describe().memory.total_bytes.is_some() {
            says(session(backend, vast.into()), &["70.4 TB", "smaller clip"]);
        }
        let none = ccl_runtime::weights::WeightStore::random(&[], 0);
        says(Session::new(backend, prompt_in(half_of(backend)), &none), &["weight `query`"]);
        Ok(())
    })
}

/// A product large enough to be cut into parts.
fn large() -> std::sync::Arc<ccl_ir::Plan> {
    let mut b = Builder::new();
    let x = b.input("video", TensorType::f32([1, 96, 64]), Binding::Step);
    let w = b.input("w", TensorType::f32([80, 64]), Binding::Prologue);
    let y = b.call(Binding::Step, false, "y", ops::Linear::plain(), &[&x, &w]);
    let z = b.call(Binding::Step, false, "z", ops::Softmax {}, &[&y]);
    b.output("velocity.video", &z, Binding::Step);
    b.build()
}

#[test]
fn threads_do_not_change_a_bit() -> Outcome {
    let given = inputs(&[("w", ramp(&[80, 64])), ("video", ramp(&[1, 96, 64]))]);
    let mut results = BTreeMap::new();
    for threads in [1, 2, 5] {
        let mut s = session(&CpuBackend::new(Some(threads))?, large())?;
        s.prologue(&given)?;
        let out = s.step(&Tensors::new(), 0)?;
        results.insert(threads, values(&out, "velocity.video").to_vec());
    }
    assert!(results.values().all(|r| *r == results[&1]));
    let mut s = session(&ReferenceBackend, large())?;
    s.prologue(&given)?;
    close(&results[&1], values(&s.step(&Tensors::new(), 0)?, "velocity.video"));
    Ok(())
}

#[test]
fn backends_describe_themselves() -> Outcome {
    for backend in backends()? {
        let info = backend.describe();
        assert_eq!(info.backend, backend.name());
        let gpu = matches!(backend.name(), "wgpu" | "cuda");
        assert!(!info.name.is_empty() && gpu == info.threads.is_none() && info.threads != Some(0), "{info:?}");
        assert!(serde_json::to_string(&info)?.contains("\"element_types\":[\"f32\""));
    }
    assert_eq!(CpuBackend::new(Some(3))?.threads(), 3);
    says(CpuBackend::new(Some(0)).map(|_| ()), &["--threads"]);
    says(CpuBackend::new(Some(1_000_000)).map(|_| ()), &["--threads"]);
    Ok(())
}
