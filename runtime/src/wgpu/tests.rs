//! What happens where a device and its description disagree, clocks and recordings. Needs any wgpu adapter; says so where there is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccl_codegen::gpu::tiles::{Choices, Problem, ProblemTile};
use ccl_codegen::gpu::{Kernel, Launch, Ref};
use ccl_ir::ops::{Cast, MatMul};
use ccl_ir::plan::{About, Buffer, Call, Emitted, Operand, Place, Port, Region};
use ccl_ir::{Binding, DType, Op, Plan, TensorType};
use cubecl::MemoryScope;
use cubecl::server::Handle;

use super::lane::Lane;
use super::watch::{alone, watch};
use super::{WgpuEngine, find};
use crate::backend::{Backend, Instance};
use crate::error::RuntimeError;
use crate::gpu::GpuBackend;
use crate::gpu::engine::{Bound, Engine, Step};
use crate::gpu::fault::Fault;
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

/// A product of two matrices of 64 by 64, in a plan that carries this choice of tiles for kernels for `target`.
fn product(target: &str, choices: &Choices) -> Plan {
    let operand =
        |b: u32| Operand { place: Place::Buffer(b), ty: TensorType::f32([64, 64]), offset: 0, strides: vec![64, 1] };
    let op = Op::MatMul(MatMul { transpose_b: true, out: None });
    let call = Call { op, inputs: vec![operand(0), operand(1)], outputs: vec![operand(2)], at: "product".into() };
    let kernels = Emitted {
        target: target.into(),
        language: "wgsl".into(),
        compiled: None,
        choices: serde_json::to_value(choices).unwrap(),
        kernels: Vec::new(),
        entries: BTreeMap::new(),
    };
    let entries = BTreeMap::from([(Binding::Step, vec![call])]);
    Plan { entries, kernels: Some(kernels), ..Plan::empty(About::no_model("test", 1, DType::F32)) }
}

/// A plan's own choice of tiles goes before the device's, where it is for kernels of wgpu.
#[test]
fn a_plan_brings_its_tiles() {
    if backend().is_none() {
        return;
    }
    let mut engine = WgpuEngine::open(&find::adapters()[0]).unwrap();
    engine.facts.target.choices = Choices::default();
    let none = Choices::default();
    let lowered = |engine: &WgpuEngine, plan: &Plan| {
        let steps = engine.lower(plan).unwrap();
        let Some(Step::Device(launches)) = steps[&Binding::Step].first() else { panic!("the host's") };
        let Kernel::Product(p) = &launches[0].blueprint.kernel else { panic!("{launches:?}") };
        (Problem::of(&launches[0]).unwrap(), ProblemTile::PlainProduct(p.tile))
    };
    let (problem, usual) = lowered(&engine, &product("wgpu", &none));
    let others: Vec<ProblemTile> =
        problem.tiles(&engine.facts.target).into_iter().filter(|tile| *tile != usual).collect();
    let choice = |tile: ProblemTile| {
        let mut choices = Choices::default();
        choices.choose(&problem, tile);
        choices
    };
    assert_eq!(lowered(&engine, &product("wgpu", &choice(others[0]))).1, others[0]);
    engine.facts.target.choices = choice(others[1]);
    assert_eq!(lowered(&engine, &product("wgpu", &none)).1, others[1]);
    assert_eq!(lowered(&engine, &product("wgpu", &choice(others[0]))).1, others[0]);
    assert_eq!(lowered(&engine, &product("cuda:sm_90a", &choice(others[0]))).1, others[1]);
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

/// An engine with the launches of [`plan`] and memory for its three buffers.
struct Bench {
    engine: WgpuEngine,
    launches: Vec<(Launch, [Handle; 2])>,
    spans: [Handle; 3],
}

impl Bench {
    fn new(n: usize) -> Result<Option<Self>, RuntimeError> {
        let Some(adapter) = backend().and(find::adapters().into_iter().next()) else { return Ok(None) };
        let engine = WgpuEngine::open(&adapter)?.engine();
        let plan = plan(DType::F32, n);
        let lowered = engine.lower(&plan)?;
        let spans = [0, 1, 2].map(|_| engine.allocate(4 * n as u64));
        let [x, half, y] =
            spans.map(|span| span.map_err(|f| RuntimeError::Lost { backend: "wgpu", problem: f.problem }));
        let spans = [x?, half?, y?];
        let mut launches = Vec::new();
        for (i, step) in lowered.into_values().flatten().enumerate() {
            let Step::Device(of_call) = step else { continue };
            launches.extend(of_call.into_iter().map(|l| (l, [spans[i].clone(), spans[i + 1].clone()])));
        }
        assert_eq!(launches.len(), 2);
        Ok(Some(Self { engine, launches, spans }))
    }

    fn launch(&self) -> Result<(), Fault> {
        self.launches.iter().try_for_each(|(launch, [x, y])| {
            let buffer = |r: Ref| {
                let span = if matches!(r, Ref::In(_)) { x } else { y }.clone();
                Bound { elements: WgpuEngine::bytes(&span) / 4, span }
            };
            // SAFETY: the plan was lowered for this device, and each buffer has room for all its elements.
            unsafe { self.engine.launch(launch, &buffer) }
        })
    }

    fn write(&self, place: usize, value: f32) -> Result<(), Fault> {
        let n = WgpuEngine::bytes(&self.spans[place]) as usize / 4;
        self.engine.upload(&self.spans[place], bytemuck::cast_slice(&vec![value; n]), &watch(Duration::ZERO))
    }

    /// What is in the output, the same number everywhere.
    fn result(&self) -> Result<f32, Fault> {
        let bytes = self.engine.download(&self.spans[2], &watch(Duration::ZERO))?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        assert!(values.iter().all(|v| v.to_bits() == values[0].to_bits()));
        Ok(values[0])
    }
}

#[test]
fn launches_are_recorded_and_replayed() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(bench) = Bench::new(1000)? else { return Ok(()) };
    let replayed = || -> Result<Vec<f32>, Fault> {
        bench.write(0, 1.0)?;
        bench.launch()?;
        let mut seen = vec![bench.result()?];
        bench.write(0, 2.0)?;
        bench.write(2, -1.0)?;
        // A recording that fails leaves the stream as it was.
        let stopped = bench.engine.record(&mut || bench.launch().and(Err(Fault::failed("stopped"))));
        assert_eq!(stopped.err(), Some(Fault::failed("stopped")));
        bench.write(2, -1.0)?;
        let graph = bench.engine.record(&mut || bench.launch())?;
        let Some(graph) = graph else { return Err(Fault::failed("not recorded")) };
        // Nothing has run yet.
        seen.push(bench.result()?);
        for x in [2.0, 3.0, 4.0] {
            bench.write(0, x)?;
            // SAFETY: the memory is the bench's, and there is no other instance.
            unsafe { bench.engine.replay(&graph) }?;
            seen.push(bench.result()?);
        }
        Ok(seen)
    };
    assert_eq!(replayed(), Ok(vec![1.0, -1.0, 2.0, 3.0, 4.0]));
    Ok(())
}

#[test]
fn memory_is_allocated_by_itself() -> Result<(), RuntimeError> {
    let _alone = alone();
    // CubeCL's pools would take more than is asked for, and move it.
    let Some(bench) = Bench::new(1 << 20)? else { return Ok(()) };
    let report = bench.engine.client.memory_report(MemoryScope::CurrentStream);
    let [stream] = report.streams.as_slice() else { panic!("{report:?}") };
    assert_eq!(stream.pools.dedicated.usage.bytes_in_use, 3 * 4 << 20, "{report:?}");
    assert!(stream.pools.dynamic.iter().all(|pool| pool.usage.bytes_in_use == 0), "{report:?}");
    Ok(())
}

#[test]
fn nothing_is_recorded_while_instances_share_a_stream() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(bench) = Bench::new(4)? else { return Ok(()) };
    let lanes: Vec<Lane> = (0..256).map(|_| Lane::take(&bench.engine.id)).collect();
    let recorded = bench.engine.record(&mut || Err(Fault::failed("launched")));
    assert!(matches!(recorded, Ok(None)));
    drop(lanes);
    let recorded = bench.engine.record(&mut || bench.launch());
    assert!(matches!(recorded, Ok(Some(_))));
    Ok(())
}

#[test]
fn a_plan_that_is_replayed_sees_what_is_written() -> Result<(), RuntimeError> {
    let _alone = alone();
    let Some(backend) = backend() else { return Ok(()) };
    let mut instances = [instance(&backend, plan(DType::F32, 5))?, instance(&backend, plan(DType::F32, 5))?];
    // Written, run and read by other threads than before: a thread's own stream is not what orders them.
    for round in 0..4 {
        for (i, instance) in instances.iter_mut().enumerate() {
            let x = HostTensor::f32([5], vec![(10 * i + round) as f32; 5]);
            std::thread::scope(|s| {
                let written = s.spawn(|| instance.write(0, &x).and_then(|()| instance.run(Binding::Step))).join();
                assert!(matches!(written, Ok(Ok(()))), "{written:?}");
            });
            assert_eq!(instance.read(0)?, x);
        }
    }
    Ok(())
}
