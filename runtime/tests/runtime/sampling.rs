//! The sampling loop on a plan whose velocity field has a closed form.

use std::ops::ControlFlow;

use crate::common::*;
use ccl_ir::Binding;
use ccl_ir::TensorType;
use ccl_runtime::denoise::{Denoise, Progress};
use ccl_runtime::{CpuBackend, HostTensor, ReferenceBackend, RuntimeError, SamplerKind, Tensors};

fn run(rows: usize, how: Denoise, noise: Option<HostTensor>) -> Result<Tensors, RuntimeError> {
    let mut s = session(&CpuBackend::new(Some(2))?, field(rows))?;
    let mut given = inputs(&[]);
    if let Some(noise) = noise {
        given.insert("noise.video", noise);
    }
    how.run(&mut s, &given, &mut |_| ControlFlow::Continue(()))
}

fn how(sampler: SamplerKind, steps: usize) -> Denoise {
    Denoise { sampler, steps, shift: 5.0, seed: 7 }
}

fn video(tensors: &Tensors) -> &[f32] {
    tensors.get("sample.video").and_then(HostTensor::as_f32).unwrap_or_default()
}

#[test]
fn samples_follow_the_field() -> Outcome {
    for sampler in SamplerKind::ALL {
        for steps in [1, 2, 7] {
            let start = ramp(&[1, 4]);
            let levels = sampler.levels(steps, 5.0)?;
            let mut x: Vec<f64> = start.as_f32().unwrap_or_default().iter().map(|&x| f64::from(x)).collect();
            let mut oracle = sampler.start(&levels, 4);
            for k in 0..steps {
                let v: Vec<f64> = x.iter().map(|&x| field_at(x, levels.all()[k])).collect();
                oracle.step(k, &v, &mut x)?;
            }
            // Fewer rows than steps: the schedule comes in pieces.
            for rows in [3, 64] {
                let got = run(rows, how(sampler, steps), Some(start.clone()))?;
                assert_eq!(got.keys().collect::<Vec<_>>(), ["sample.video"]);
                assert_eq!(got["sample.video"].shape, [1, 4]);
                for (have, want) in video(&got).iter().zip(&x) {
                    assert!((f64::from(*have) - want).abs() < 1e-5, "{sampler:?} {steps}: {have} {want}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_seed_is_a_noise() -> Outcome {
    let first = run(4, how(SamplerKind::Euler, 2), None)?;
    assert_eq!(first, run(4, how(SamplerKind::Euler, 2), None)?);
    let other = run(4, Denoise { seed: 8, ..how(SamplerKind::Euler, 2) }, None)?;
    assert_ne!(first, other);
    assert_ne!(video(&first)[0], video(&first)[1]);
    Ok(())
}

#[test]
fn progress_is_told_and_stops_on_demand() -> Outcome {
    let mut s = session(&ReferenceBackend, field(2))?;
    let mut seen: Vec<Progress> = Vec::new();
    how(SamplerKind::UniPc, 3).run(&mut s, &inputs(&[]), &mut |p| {
        seen.push(p);
        ControlFlow::Continue(())
    })?;
    assert_eq!(seen.iter().map(|p| (p.done, p.steps)).collect::<Vec<_>>(), [(0, 3), (1, 3), (2, 3), (3, 3)]);
    let stopped = how(SamplerKind::Euler, 3).run(&mut s, &inputs(&[]), &mut |p| {
        if p.done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(RuntimeError::Cancelled { done: 2, steps: 3 })));
    // A stopped session can be used again.
    how(SamplerKind::Euler, 3).run(&mut s, &inputs(&[]), &mut |_| ControlFlow::Continue(()))?;
    Ok(())
}

#[test]
fn senseless_runs_are_refused() -> Outcome {
    says(run(2, how(SamplerKind::Euler, 0), None), &["--steps"]);
    says(run(2, Denoise { shift: -1.0, ..how(SamplerKind::Euler, 2) }, None), &["--shift"]);
    says(run(2, Denoise { shift: 1e6, ..how(SamplerKind::UniPc, 2) }, None), &["--shift"]);
    says(run(2, how(SamplerKind::Euler, 2), Some(ramp(&[1, 5]))), &["`noise.video`", "[1, 5]", "[1, 4]"]);
    let nan = HostTensor::f32([1, 4], vec![f32::NAN; 4]);
    says(run(2, how(SamplerKind::Euler, 2), Some(nan)), &["`noise.video`", "finite"]);
    let mut b = Builder::new();
    let x = b.input("x", TensorType::f32([2]), Binding::Step);
    let y = b.call(Binding::Step, false, "y", mul(), &[&x, &x]);
    b.output("y", &y, Binding::Step);
    let mut s = session(&ReferenceBackend, b.build())?;
    let refused = how(SamplerKind::Euler, 2).run(&mut s, &inputs(&[]), &mut |_| ControlFlow::Continue(()));
    says(refused, &["velocity.<stream>"]);
    Ok(())
}
