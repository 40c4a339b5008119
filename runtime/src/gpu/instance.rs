//! A plan on a GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ccl_codegen::gpu::{Launch, Lowered, Ref, lower_in, run};
use ccl_ir::plan::{Call, Operand, Place};
use ccl_ir::{Binding, Plan};
use cubecl::prelude::BufferArg;

use super::bounds::{Bound, Known};
use super::find::Device;
use super::host;
use super::memory::Memory;
use super::state::DeviceState;
use super::watch::{Fault, Mark, guarded};
use crate::backend::{Instance, StateMemory, port, state_port};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::profile::{CallTime, Profiler};
use crate::weights::WeightSource;

/// A plan, its memory and its launches.
pub(super) struct GpuInstance {
    device: Device,
    plan: Arc<Plan>,
    memory: Memory,
    lowered: BTreeMap<Binding, Vec<Lowered>>,
    known: Known,
    /// Entries that have run without an error: their kernels compile.
    proven: BTreeSet<Binding>,
    /// Why nothing runs any more.
    lost: Option<String>,
    profiler: Profiler,
}

impl GpuInstance {
    /// Lowers a checked plan, allocates its memory and uploads its weights.
    pub(super) fn new(
        device: Device,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Arc<DeviceState>,
    ) -> Result<Self, RuntimeError> {
        check_types(&device, &plan)?;
        let mut lowered = BTreeMap::new();
        for (&entry, calls) in &plan.entries {
            let calls: Result<Vec<Lowered>, RuntimeError> = calls
                .iter()
                .map(|call| lower_in(&plan, call, &device.target).map_err(|e| failed(entry, call, e.problem)))
                .collect();
            lowered.insert(entry, calls?);
        }
        let memory = Memory::new(&device, &plan, weights, state)?;
        let known = Known::of(&plan);
        let (proven, lost, profiler) = (BTreeSet::new(), None, Profiler::default());
        Ok(Self { device, plan, memory, lowered, known, proven, lost, profiler })
    }

    /// Runs one call. `watched`: whether each launch is checked before the next.
    fn call(&mut self, call: &Call, lowered: &Lowered, watched: bool, mark: &Mark) -> Result<(), Fault> {
        if let Some(bound) = Bound::of(call) {
            let n = match self.known.value(bound.operand) {
                Some(n) => n,
                None => self.integer(bound.operand, mark)?,
            };
            bound.check(n).map_err(Fault::failed)?;
        }
        match lowered {
            Lowered::Host => self.evaluate(call, mark),
            Lowered::Device(launches) => launches.iter().try_for_each(|l| self.launch(call, l, watched, mark)),
        }
    }

    fn integer(&self, o: &Operand, mark: &Mark) -> Result<i32, Fault> {
        let bytes = self.memory.read(o, mark)?;
        let first = bytes.first_chunk().ok_or_else(|| Fault::failed("holds no number".into()))?;
        Ok(i32::from_ne_bytes(*first))
    }

    /// Evaluates a call on the host and uploads its results.
    fn evaluate(&mut self, call: &Call, mark: &Mark) -> Result<(), Fault> {
        let read = |o: &Operand| self.memory.read_place(o.place, mark);
        let places = call.inputs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let places: Vec<&[u8]> = places.iter().map(|b| &b[..]).collect();
        let outputs = host::evaluate(call, &places).map_err(|p| Fault::failed(p.0))?;
        call.outputs.iter().zip(&outputs).try_for_each(|(o, bytes)| self.memory.write(o, bytes, mark))
    }

    fn launch(&self, call: &Call, launch: &Launch, watched: bool, mark: &Mark) -> Result<(), Fault> {
        let operand = |r: Ref| match r {
            Ref::In(i) => &call.inputs[i as usize],
            Ref::Out(i) => &call.outputs[i as usize],
        };
        let buffer = |r: Ref| {
            let o = operand(r);
            let bytes = match o.place {
                Place::Buffer(b) => self.plan.buffers[b as usize].bytes,
                Place::Weight(w) => self.plan.weights[w as usize].ty.bytes(),
            };
            let elements = (bytes / o.ty.dtype.bytes()) as usize;
            // SAFETY: `Memory` gave the place as many bytes as the plan says it has.
            unsafe { BufferArg::from_raw_parts(self.memory.place(o.place).clone(), elements) }
        };
        // SAFETY: `Plan::check` proved that every element of every operand is inside its place, and that outputs
        // share no byte with other operands except where the operator allows it, which it does only for elementwise
        // work on dense operands of one type and for an optimiser's state; there the launch binds the buffer once. It was lowered for
        // this call, this plan and this device. Other instances keep away from the state while this one has its turn.
        let launched = guarded(|| unsafe { run::launch(&self.device.client, launch, &buffer) });
        launched.map_err(Fault::failed)?;
        if watched {
            let outs: Vec<_> = call.outputs.iter().map(|o| self.memory.place(o.place)).collect();
            guarded(|| self.device.client.check(outs)).map_err(Fault::failed)?.map_err(|e| Fault::of(&e))?;
            mark.check().map_err(Fault::failed)?;
        }
        Ok(())
    }

    /// Remembers a lost device and words the error.
    fn fault(&mut self, fault: Fault, word: impl FnOnce(String) -> RuntimeError) -> RuntimeError {
        if !fault.lost {
            return word(fault.problem);
        }
        let problem = format!("{} was lost ({}); start again", self.device.info.name, fault.problem);
        self.lost = Some(problem.clone());
        self.memory.abandon();
        self.backend(problem)
    }

    /// How long the slowest device that is worth waiting for takes for an entry.
    fn slowest(&self, entry: Binding) -> Duration {
        // Work in a second, far below what kernels reach: on a GPU, and on a processor that imitates one.
        let (flops, bytes) = if self.device.software { (5e7, 1e7) } else { (2e10, 1e9) };
        let of = |counts: &BTreeMap<String, u64>| counts.get(entry.name()).map_or(0.0, |&n| n as f64);
        let report = &self.plan.report;
        Duration::try_from_secs_f64(of(&report.flops) / flops + of(&report.bytes) / bytes).unwrap_or(Duration::MAX)
    }

    fn backend(&self, problem: String) -> RuntimeError {
        RuntimeError::Backend { backend: self.device.api.name(), problem }
    }

    /// Refuses to go on with a device that is lost.
    fn alive(&self) -> Result<(), RuntimeError> {
        self.lost.as_ref().map_or(Ok(()), |problem| Err(self.backend(problem.clone())))
    }

    fn run_entry(&mut self, entry: Binding, lowered: &[Lowered]) -> Result<(), RuntimeError> {
        let plan = Arc::clone(&self.plan);
        let mark = Mark::before(self.slowest(entry));
        let watched = !self.proven.contains(&entry);
        for (index, (call, lowered)) in plan.calls(entry).iter().zip(lowered).enumerate() {
            let start = self.profiler.start();
            let mut done = self.call(call, lowered, watched, &mark);
            if start.is_some() && done.is_ok() {
                done = self.memory.settle(&mark);
            }
            done.map_err(|f| self.fault(f, |problem| failed(entry, call, problem)))?;
            self.profiler.stop(start, entry, index, call);
        }
        // Kernels were found to compile when the entry first ran; what fails later is the device's doing.
        let settled = self.memory.settle(&mark);
        settled.map_err(|f| {
            let name = self.device.api.name();
            self.fault(f, |p| RuntimeError::Backend { backend: name, problem: format!("{entry}: {p}") })
        })?;
        self.proven.insert(entry);
        Ok(())
    }
}

/// Refuses weights that the device cannot store, before some call does in its own words.
fn check_types(device: &Device, plan: &Plan) -> Result<(), RuntimeError> {
    let types = &device.info.element_types;
    let Some(w) = plan.weights.iter().find(|w| !types.contains(&w.ty.dtype)) else { return Ok(()) };
    let names: Vec<&str> = types.iter().map(|t| t.name()).collect();
    let (name, has, use_) = (&device.info.name, names.join(" "), if names.contains(&"f16") { "f16" } else { "f32" });
    Err(RuntimeError::weight(
        &w.name,
        format!("is {} in this plan, {name} stores {has}; use --dtype {use_}", w.ty.dtype),
    ))
}

/// The error of a call.
fn failed(entry: Binding, call: &Call, problem: String) -> RuntimeError {
    RuntimeError::Kernel { entry, op: call.op.name(), at: call.at.clone(), problem }
}

impl Instance for GpuInstance {
    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn write(&mut self, input: usize, tensor: &HostTensor) -> Result<(), RuntimeError> {
        self.alive()?;
        let plan = Arc::clone(&self.plan);
        let port = port(&plan.inputs, input, "input")?;
        let o = &port.operand;
        tensor.check(&port.name, &o.ty)?;
        let mut bytes = vec![0; o.ty.bytes() as usize];
        tensor.encode(o.ty.dtype, &mut bytes);
        self.known.write(o, tensor);
        let written = self.memory.write(o, &bytes, &Mark::now());
        written.map_err(|f| self.fault(f, |problem| RuntimeError::input("inputs", &port.name, problem)))
    }

    fn run(&mut self, entry: Binding) -> Result<(), RuntimeError> {
        self.alive()?;
        let state = Arc::clone(self.memory.state());
        let _turn = state.turn();
        // Out for the time of the run, because a run changes the rest.
        let Some(lowered) = self.lowered.remove(&entry) else { return Ok(()) };
        let done = self.run_entry(entry, &lowered);
        self.lowered.insert(entry, lowered);
        done
    }

    fn state(&self) -> Option<StateMemory> {
        let bytes = self.plan.state_bytes;
        (bytes > 0).then(|| StateMemory::new(bytes, Arc::clone(self.memory.state())))
    }

    fn read_state(&mut self, state: usize) -> Result<HostTensor, RuntimeError> {
        self.alive()?;
        let plan = Arc::clone(&self.plan);
        let (named, operand) = state_port(&plan, state)?;
        let memory = Arc::clone(self.memory.state());
        let _turn = memory.turn();
        let bytes = self.memory.read(&operand, &Mark::now());
        let bytes = bytes.map_err(|f| self.fault(f, |problem| RuntimeError::input("state", &named.name, problem)))?;
        Ok(HostTensor::decode(&operand.ty, &bytes))
    }

    fn write_state(&mut self, state: usize, tensor: &HostTensor) -> Result<(), RuntimeError> {
        self.alive()?;
        let plan = Arc::clone(&self.plan);
        let (named, operand) = state_port(&plan, state)?;
        tensor.check(&named.name, &operand.ty)?;
        let mut bytes = vec![0; operand.ty.bytes() as usize];
        tensor.encode(operand.ty.dtype, &mut bytes);
        let memory = Arc::clone(self.memory.state());
        let _turn = memory.turn();
        let mark = Mark::now();
        let written = self.memory.write(&operand, &bytes, &mark).and_then(|()| self.memory.settle(&mark));
        written.map_err(|f| self.fault(f, |problem| RuntimeError::input("state", &named.name, problem)))
    }

    fn read(&mut self, output: usize) -> Result<HostTensor, RuntimeError> {
        self.alive()?;
        let plan = Arc::clone(&self.plan);
        let port = port(&plan.outputs, output, "output")?;
        let read = self.memory.read(&port.operand, &Mark::now());
        let bytes = read.map_err(|f| {
            let name = self.device.api.name();
            let word = |p| RuntimeError::Backend { backend: name, problem: format!("output `{}`: {p}", port.name) };
            self.fault(f, word)
        })?;
        Ok(HostTensor::decode(&port.operand.ty, &bytes))
    }

    fn resident_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    fn set_profiling(&mut self, on: bool) {
        self.profiler.set(on);
    }

    fn take_profile(&mut self) -> Vec<CallTime> {
        self.profiler.take()
    }
}
