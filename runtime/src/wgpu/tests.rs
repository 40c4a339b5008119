//! What happens where a device and its description disagree. Needs any wgpu adapter; says so where there is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ccl_ir::ops::Cast;
use ccl_ir::plan::{About, Buffer, Call, Operand, Place, Port, Region};
use ccl_ir::{Binding, DType, Op, Plan, TensorType};

use super::watch::alone;
use crate::backend::{Backend, Instance};
use crate::error::RuntimeError;
use crate::gpu::GpuBackend;
use crate::host::HostTensor;
use crate::profile::Clock;
use crate::weights::WeightStore;

/// `y = x` in `f32`, by way of `half`.
fn plan(half: DType, n: usize) -> Arc<Plan> {
    let operand = |b: u32, dtype| Operand {
        place: Place::Buffer(b),
        ty: TensorType::new(dtype, [n]),
        offset: 0,
        strides: vec![1],
    };
    let types = [DType::F32, half, DType::F32];
    let pitch = (n as u64 * 4).next_multiple_of(256);
    let buffer = |(i, t): (usize, &DType)| Buffer {
        region: if i == 1 { Region::Scratch } else { Region::Persistent },
        offset: if i == 2 { pitch } else { 0 },
        bytes: n as u64 * t.bytes(),
    };
    let cast = |i: usize| Call {
        op: Op::Cast(Cast { to: types[i + 1] }),
        inputs: vec![operand(i as u32, types[i])],
        outputs: vec![operand(i as u32 + 1, types[i + 1])],
        at: format!("cast.{i}"),
    };
    let port = |name: &str, i: u32| Port { name: name.into(), binding: Binding::Step, operand: operand(i, DType::F32) };
    let about = About { target: "wgpu".into(), ..About::no_model("test", 1, half) };
    Arc::new(Plan {
        buffers: types.iter().enumerate().map(buffer).collect(),
        persistent_bytes: 2 * pitch,
        scratch_bytes: pitch,
        inputs: vec![port("x", 0)],
        outputs: vec![port("y", 2)],
        entries: BTreeMap::from([(Binding::Step, vec![cast(0), cast(1)])]),
        ..Plan::empty(about)
    })
}

fn backend() -> Option<GpuBackend> {
    let gpu = GpuBackend::wgpu(0);
    if let Err(e) = &gpu {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "NOT RUN: {e}");
    }
    gpu.ok()
}

fn instance(backend: &GpuBackend, plan: Arc<Plan>) -> Result<Box<dyn Instance>, RuntimeError> {
    backend.instantiate(plan, &WeightStore::random(&[], 0))
}

fn message<T>(result: Result<T, RuntimeError>) -> String {
    let text = result.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_kernel_that_the_device_cannot_compile_is_an_error_and_no_garbage() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(mut backend) = backend() else { return Ok(()) };
    if backend.target().is_some_and(|t| t.halves.contains(&DType::Bf16)) {
        return Ok(());
    }
    let refused = message(instance(&backend, plan(DType::Bf16, 4)));
    assert!(refused.contains("step: cast at `cast.0`") && refused.contains("bf16"), "{refused}");
    // A device that claims more than it can: CubeCL's thread panics on the kernel and a read would return Ok.
    backend.target_mut().halves.push(DType::Bf16);
    let mut lying = instance(&backend, plan(DType::Bf16, 4))?;
    lying.write(0, &HostTensor::f32([4], vec![1.0; 4]))?;
    let failed = message(lying.run(Binding::Step));
    assert!(failed.contains("step: cast at `cast.0`"), "{failed}");
    // The device goes on.
    let mut sound = instance(&backend, plan(DType::F32, 4))?;
    sound.write(0, &HostTensor::f32([4], vec![1.5; 4]))?;
    sound.run(Binding::Step)?;
    assert_eq!(sound.read(0)?, HostTensor::f32([4], vec![1.5; 4]));
    Ok(())
}

#[test]
fn buffers_beyond_the_limit_are_refused_or_parted() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(mut backend) = backend() else { return Ok(()) };
    let n = 1000;
    let x = HostTensor::f32([n], (0..n).map(|i| i as f32).collect());
    backend.target_mut().max_buffer_bytes = 4000;
    let mut parted = instance(&backend, plan(DType::F32, n))?;
    parted.write(0, &x)?;
    parted.run(Binding::Step)?;
    assert_eq!(parted.read(0)?, x);
    backend.target_mut().max_buffer_bytes = 3999;
    let refused = message(instance(&backend, plan(DType::F32, n)));
    assert!(refused.contains("4.0 kB in one piece") && refused.contains("smaller clip"), "{refused}");
    Ok(())
}

#[test]
fn odd_numbers_of_halves_are_copied_whole() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(backend) = backend() else { return Ok(()) };
    if !backend.target().is_some_and(|t| t.halves.contains(&DType::F16)) {
        return Ok(());
    }
    let mut plan = (*plan(DType::F16, 3)).clone();
    // Both ports in half precision: six bytes each, which is no multiple of what a copy takes.
    plan.outputs[0].operand = plan.entries[&Binding::Step][0].outputs[0].clone();
    let mut odd = instance(&backend, Arc::new(plan))?;
    odd.write(0, &HostTensor::f32([3], vec![1.0, -2.5, 0.125]))?;
    odd.run(Binding::Step)?;
    assert_eq!(odd.read(0)?, HostTensor::f32([3], vec![1.0, -2.5, 0.125]));
    Ok(())
}

#[test]
fn work_is_timed_by_timestamps() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(backend) = backend() else { return Ok(()) };
    // Mesa's software driver has timestamps, and so has every GPU.
    assert_eq!(backend.clock(), Clock::Device);
    let mut timed = instance(&backend, plan(DType::F32, 1 << 20))?;
    timed.write(0, &HostTensor::f32([1 << 20], vec![1.0; 1 << 20]))?;
    let begin = Instant::now();
    let seconds = timed.measure(Binding::Step, 3)?;
    let whole = begin.elapsed().as_secs_f64();
    assert!(seconds.len() == 3 && seconds.iter().all(|&s| s > 0.0), "{seconds:?}");
    assert!(seconds.iter().sum::<f64>() < whole, "{seconds:?} of {whole}");
    // Each call, in windows one after the other.
    timed.set_profiling(true);
    let begin = Instant::now();
    timed.run(Binding::Step)?;
    let (times, whole) = (timed.take_profile(), begin.elapsed().as_secs_f64());
    assert!(times.len() == 2 && times.iter().all(|t| t.seconds > 0.0), "{times:?}");
    assert!(times.iter().map(|t| t.seconds).sum::<f64>() < whole, "{times:?} of {whole}");
    Ok(())
}
