//! What GPUs promise beyond what every runtime does.

use crate::common::*;
use ccl_ir::ops::Concat;
use ccl_ir::{Binding, DType, TensorType};
use ccl_runtime::gpu::gpus as all_gpus;
use ccl_runtime::{Backend, GpuBackend, HostTensor, Tensors};

#[test]
fn the_same_bytes_run_after_run() -> Outcome {
    for gpu in gpus() {
        let given = inputs(&[("t", HostTensor::f32([1], vec![0.5])), ("video", ramp(&[1, 4]))]);
        let mut first: Option<Tensors> = None;
        for _ in 0..2 {
            let mut s = session(gpu, field(4))?;
            for _ in 0..2 {
                s.prologue(&given)?;
                let out = s.step(&Tensors::new(), 0)?;
                assert_eq!(first.get_or_insert_with(|| out.clone()), &out);
            }
        }
    }
    Ok(())
}

#[test]
fn plans_share_a_device_and_move_between_threads() -> Outcome {
    for gpu in gpus() {
        let mut sessions: Vec<_> = (1..4).map(|rows| session(gpu, field(rows))).collect::<Result<_, _>>()?;
        let given = || inputs(&[("t", HostTensor::f32([1], vec![0.5])), ("video", ramp(&[1, 4]))]);
        for s in &mut sessions {
            s.prologue(&given())?;
        }
        let threads = sessions.into_iter().map(|mut s| std::thread::spawn(move || s.step(&Tensors::new(), 0)));
        let threads: Vec<_> = threads.collect();
        let mut results = Vec::new();
        for t in threads {
            results.push(t.join().map_err(|_| "a thread panicked")??);
        }
        assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
    }
    Ok(())
}

#[test]
fn a_result_is_whole_when_several_launches_write_it() -> Outcome {
    for gpu in gpus() {
        let mut b = Builder::new();
        let x = b.input("video", TensorType::f32([2, 300]), Binding::Step);
        let y = b.input("audio", TensorType::f32([2, 77]), Binding::Step);
        let z = b.call(Binding::Step, false, "joined", Concat { axis: 1 }, &[&x, &y, &x]);
        b.output("z", &z, Binding::Step);
        let mut s = session(gpu, b.build())?;
        let (x, y) = (ramp(&[2, 300]), ramp(&[2, 77]));
        s.prologue(&inputs(&[]))?;
        let out = s.step(&tensors(&[("video", x.clone()), ("audio", y.clone())]), 0)?;
        let row = |t: &HostTensor, i: usize| {
            let n = t.shape[1];
            t.as_f32().unwrap_or_default()[i * n..][..n].to_vec()
        };
        let want: Vec<f32> = (0..2).flat_map(|i| [row(&x, i), row(&y, i), row(&x, i)].concat()).collect();
        assert_eq!(out["z"], HostTensor::f32([2, 677], want));
    }
    Ok(())
}

#[test]
fn weights_that_a_device_cannot_store_are_refused() -> Outcome {
    for gpu in gpus() {
        if !gpu.describe().element_types.contains(&DType::Bf16) {
            says(session(gpu, prompt()), &["weight `out.weight` is bf16", "--dtype f16"]);
        }
    }
    Ok(())
}

#[test]
fn looking_for_gpus_never_fails_and_says_what_is_missing() -> Outcome {
    let found = all_gpus();
    for name in ["wgpu", "cuda"] {
        let there = found.devices.iter().filter(|d| d.backend == name).count();
        let missing = found.missing.iter().any(|m| m.0 == name);
        assert!(there > 0 || missing, "{found:?}");
        let open = if name == "wgpu" { GpuBackend::wgpu } else { GpuBackend::cuda };
        assert_eq!(open(0).is_ok(), there > 0);
        says(open(1000).map(|_| ()), &[&format!("backend {name}: ")]);
    }
    for d in &found.devices {
        assert!(!d.name.is_empty() && d.limits.iter().any(|(n, v)| n == "largest buffer in bytes" && *v > 0), "{d:?}");
    }
    if let Some(best) = GpuBackend::best() {
        assert!(!best.is_software(), "{:?}", best.describe());
    }
    Ok(())
}

#[test]
fn entries_are_measured_run_by_run() -> Outcome {
    for backend in backends()? {
        let mut s = session(backend.as_ref(), field(3))?;
        s.prologue(&inputs(&[("t", HostTensor::f32([1], vec![0.5])), ("video", ramp(&[1, 4]))]))?;
        let before = s.step(&Tensors::new(), 0)?;
        let times = s.instance().measure(Binding::Step, 3)?;
        assert!(times.len() == 3 && times.iter().all(|t| *t > 0.0 && *t < 60.0), "{times:?}");
        assert_eq!(s.step(&Tensors::new(), 0)?, before);
        // Of each call, too, and without a word on copies where all weights stay.
        s.instance().set_profiling(true);
        s.step(&Tensors::new(), 0)?;
        let calls = s.instance().take_profile();
        assert_eq!(calls.len(), s.plan().calls(Binding::Step).len());
        assert!(calls.iter().enumerate().all(|(i, c)| c.index == i && c.seconds >= 0.0), "{calls:?}");
        assert_eq!(s.instance().take_copies(), None);
    }
    Ok(())
}

#[test]
fn steps_are_the_same_launched_and_replayed() -> Outcome {
    for gpu in gpus() {
        let mut s = session(gpu, prompt_in(half_of(gpu)))?;
        let given = |n: usize| inputs(&[("text", ramp(&[1, n, 4])), ("scale.video", HostTensor::f32([], vec![0.5]))]);
        for n in [6, 2] {
            s.prologue(&given(n))?;
            let mut seen: Option<Tensors> = None;
            for _ in 0..4 {
                let out = s.step(&tensors(&[("video", ramp(&[1, 2, 4]))]), 0)?;
                assert_eq!(seen.get_or_insert_with(|| out.clone()), &out);
            }
        }
    }
    Ok(())
}
