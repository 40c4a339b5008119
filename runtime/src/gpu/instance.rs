//! A plan on a GPU.
//!
//! The first run of an entry launches and checks kernel by kernel. Later runs of an entry that needs nothing of the host between its calls
//! replay what the device recorded of them, where it can record.

pub(crate) mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ccl_codegen::gpu::Ref;
use ccl_ir::plan::{Call, Operand, Place};
use ccl_ir::{Binding, Plan};

use super::bounds::{Bound, Known};
use super::engine::{self, Engine, Step, Steps, Watch};
use super::fault::Fault;
use super::host;
use super::memory::{Memory, Places};
use super::state::DeviceState;
use crate::backend::{Instance, StateMemory, port, state_port};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::profile::{CallTime, Copies, Profiler};
use crate::weights::WeightSource;
use faults::check_types;

/// A plan, its memory and its launches.
pub(super) struct GpuInstance<E: Engine> {
    /// Dropped first: they use the kernels and the memory.
    graphs: BTreeMap<Binding, E::Graph>,
    /// Waits for all work when it is dropped.
    memory: Memory<E>,
    steps: Steps<E::Launch>,
    engine: Arc<E>,
    plan: Arc<Plan>,
    known: Known,
    /// Entries that have run without an error: their kernels compile.
    proven: BTreeSet<Binding>,
    /// Entries that cannot be recorded.
    unrecorded: BTreeSet<Binding>,
    /// Why nothing runs any more.
    lost: Option<String>,
    profiler: Profiler,
}

impl<E: Engine> GpuInstance<E> {
    /// Lowers a checked plan, allocates its memory and uploads its weights.
    pub(super) fn new(
        engine: Arc<E>,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Arc<DeviceState<E>>,
        budget: Option<u64>,
    ) -> Result<Self, RuntimeError> {
        check_types(engine.as_ref(), &plan)?;
        let lowered = engine.lower(&plan)?;
        let places = Places::of(engine.facts(), &plan, budget)?;
        let steps = engine.ready(&plan, lowered)?;
        let memory = Memory::new(Arc::clone(&engine), &plan, &places, weights, state)?;
        let known = Known::of(&plan);
        let unrecorded = plan.entries.keys().copied().filter(|&e| !recordable(&plan, &known, e, &steps[&e])).collect();
        Ok(Self {
            graphs: BTreeMap::new(),
            steps,
            memory,
            engine,
            plan,
            known,
            proven: BTreeSet::new(),
            unrecorded,
            lost: None,
            profiler: Profiler::default(),
        })
    }

    /// Checks the number that a call takes, if it takes one.
    fn check_number(&self, call: &Call, watch: &Watch) -> Result<(), Fault> {
        let Some(bound) = Bound::of(call) else { return Ok(()) };
        let n = match self.known.value(bound.operand) {
            Some(n) => n,
            None => self.integer(bound.operand, watch)?,
        };
        bound.check(n).map_err(Fault::failed)
    }

    /// Runs one call. `watched`: whether each launch is checked before the next.
    fn call(&self, call: &Call, step: &Step<E::Launch>, watched: bool, watch: &Watch) -> Result<(), Fault> {
        match step {
            Step::Host => self.evaluate(call, watch),
            Step::Device(launches) => launches.iter().try_for_each(|l| self.launch(call, l, watched, watch)),
        }
    }

    fn integer(&self, o: &Operand, watch: &Watch) -> Result<i32, Fault> {
        let bytes = self.memory.read(o, watch)?;
        let first = bytes.first_chunk().ok_or_else(|| Fault::failed("holds no number"))?;
        Ok(i32::from_ne_bytes(*first))
    }

    /// Evaluates a call on the host and uploads its results.
    fn evaluate(&self, call: &Call, watch: &Watch) -> Result<(), Fault> {
        let read = |o: &Operand| self.memory.read_place(o.place, watch);
        let places = call.inputs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let places: Vec<&[u8]> = places.iter().map(|b| &b[..]).collect();
        let outputs = host::evaluate(call, &places).map_err(|p| Fault::failed(p.0))?;
        call.outputs.iter().zip(&outputs).try_for_each(|(o, bytes)| self.memory.write(o, bytes, watch))
    }

    fn launch(&self, call: &Call, launch: &E::Launch, watched: bool, watch: &Watch) -> Result<(), Fault> {
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
            engine::Bound { span: self.memory.place(o.place).clone(), elements: bytes / o.ty.dtype.bytes() }
        };
        // SAFETY: `Plan::check` proved that every element of every operand is inside its place, and that outputs
        // share no byte with other operands except where the operator allows it, which it does only for elementwise
        // work on dense operands of one type and for an optimiser's state; there the launch binds the buffer once. It was lowered for
        // this call, this plan and this device. Other instances keep away from the state while this one has its turn.
        unsafe { self.engine.launch(launch, &buffer) }?;
        if watched {
            let outs = call.outputs.iter().map(|o| self.memory.place(o.place).clone()).collect();
            self.engine.check(outs, watch)?;
        }
        Ok(())
    }

    /// How long the slowest device that is worth waiting for takes for an entry.
    fn slowest(&self, entry: Binding) -> Duration {
        // Work in a second, far below what kernels reach: on a GPU, and on a processor that imitates one.
        let (flops, bytes) = if self.engine.facts().software { (5e6, 1e6) } else { (2e10, 1e9) };
        let of = |counts: &BTreeMap<String, u64>| counts.get(entry.name()).map_or(0.0, |&n| n as f64);
        let report = &self.plan.report;
        Duration::try_from_secs_f64(of(&report.flops) / flops + of(&report.bytes) / bytes).unwrap_or(Duration::MAX)
    }

    fn watch(&self) -> Watch {
        self.engine.watch(Duration::ZERO)
    }

    fn run_entry(&mut self, entry: Binding, steps: &[Step<E::Launch>]) -> Result<(), RuntimeError> {
        let watch = self.engine.watch(self.slowest(entry));
        self.start(entry, steps, &watch)?;
        // Kernels were found to compile when the entry first ran; what fails later is the device's doing.
        self.memory.settle(&watch).map_err(|f| self.fault_of_entry(f, entry))?;
        self.proven.insert(entry);
        Ok(())
    }

    /// Starts the work of an entry: what was recorded of it, or its calls one by one.
    fn start(&mut self, entry: Binding, steps: &[Step<E::Launch>], watch: &Watch) -> Result<(), RuntimeError> {
        let recorded = self.proven.contains(&entry) && !self.profiler.is_on() && !self.unrecorded.contains(&entry);
        if !recorded {
            return self.run_calls(entry, steps, watch);
        }
        let plan = Arc::clone(&self.plan);
        for call in plan.calls(entry) {
            // Numbers are all known here: looking at them asks nothing of the device.
            self.check_number(call, watch).map_err(|f| self.fault_of(f, entry, call))?;
        }
        if !self.graphs.contains_key(&entry) {
            let mut launches = || self.record_calls(entry, steps, watch);
            match self.engine.record(&mut launches) {
                Ok(Some(graph)) => {
                    self.graphs.insert(entry, graph);
                }
                Ok(None) => {
                    self.unrecorded.insert(entry);
                    return self.run_calls(entry, steps, watch);
                }
                Err(fault) if fault.lost => return Err(self.fault_of_entry(fault, entry)),
                // The calls ran one by one before. CubeCL takes what a failed recording would have written for unwritten until a launch writes it, so a
                // state that launches read before they write it ends in an error.
                Err(Fault { problem, .. }) => {
                    tracing::warn!("{entry}: not recorded, its calls run one by one: {problem}");
                    self.unrecorded.insert(entry);
                    return self.run_calls(entry, steps, watch);
                }
            }
        }
        if !plan.states.is_empty() {
            // What another instance was to write there may have failed: launches would be refused for that, a replay is not.
            self.memory.check(watch).map_err(|f| self.fault_of_entry(f, entry))?;
        }
        // SAFETY: the graph is of this instance's launches, on memory that it holds for as long as it has the graph; other instances keep away
        // from the state while this one has its turn.
        let replayed = self.graphs.get(&entry).map_or(Ok(()), |graph| unsafe { self.engine.replay(graph) });
        replayed.map_err(|f| self.fault_of_entry(f, entry))
    }

    /// Launches the calls of an entry that a graph is made of.
    fn record_calls(&self, entry: Binding, steps: &[Step<E::Launch>], watch: &Watch) -> Result<(), Fault> {
        self.flow(|engine, flow| engine.flow_begin(flow, entry, false))?;
        for (index, (call, step)) in self.plan.calls(entry).iter().zip(steps).enumerate() {
            self.flow(|engine, flow| engine.flow_before(flow, entry, index))?;
            self.call(call, step, false, watch)?;
            self.flow(|engine, flow| engine.flow_after(flow, entry, index))?;
        }
        Ok(())
    }

    fn run_calls(&mut self, entry: Binding, steps: &[Step<E::Launch>], watch: &Watch) -> Result<(), RuntimeError> {
        let plan = Arc::clone(&self.plan);
        let watched = !self.proven.contains(&entry);
        let timed = self.profiler.is_on();
        let mut times = Vec::new();
        self.flow(|engine, flow| engine.flow_begin(flow, entry, timed)).map_err(|f| self.fault_of_entry(f, entry))?;
        for (index, (call, step)) in plan.calls(entry).iter().zip(steps).enumerate() {
            let mut run = || -> Result<(), Fault> {
                self.check_number(call, watch)?;
                self.flow(|engine, flow| engine.flow_before(flow, entry, index))?;
                let window = timed.then(|| self.begin(watch)).transpose()?;
                self.call(call, step, watched, watch)?;
                times.extend(window.map(|window| self.end(window, watch)).transpose()?);
                self.flow(|engine, flow| engine.flow_after(flow, entry, index))
            };
            run().map_err(|f| self.fault_of(f, entry, call))?;
        }
        if timed {
            self.note(entry, times, watch).map_err(|f| self.fault_of_entry(f, entry))?;
        }
        Ok(())
    }

    /// Notes the times of an entry's calls.
    fn note(&mut self, entry: Binding, times: Vec<E::Timed>, watch: &Watch) -> Result<(), Fault> {
        self.memory.settle(watch)?;
        let plan = Arc::clone(&self.plan);
        for (index, (call, timed)) in plan.calls(entry).iter().zip(times).enumerate() {
            self.profiler.note(self.engine.seconds(timed, watch)?, entry, index, call);
        }
        if let Some(flow) = self.memory.flow() {
            self.profiler.copied(self.engine.flow_copies(flow, entry)?);
        }
        Ok(())
    }

    fn begin(&self, watch: &Watch) -> Result<E::Window, Fault> {
        self.engine.begin(self.memory.regions(), watch)
    }

    fn end(&self, window: E::Window, watch: &Watch) -> Result<E::Timed, Fault> {
        self.engine.end(window, self.memory.regions(), watch)
    }

    /// Does something with the weights that come to the device while the plan runs, where there are such.
    fn flow(&self, act: impl FnOnce(&E, &E::Flow) -> Result<(), Fault>) -> Result<(), Fault> {
        self.memory.flow().map_or(Ok(()), |flow| act(self.engine.as_ref(), flow))
    }

    /// Does something with the steps of an entry, in this instance's turn at the state; nothing where there is no such entry.
    fn turn<T: Default>(
        &mut self,
        entry: Binding,
        act: impl FnOnce(&mut Self, &[Step<E::Launch>]) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        self.alive()?;
        let state = Arc::clone(self.memory.state());
        let _turn = state.turn();
        // Out for the time of the run, because a run changes the rest.
        let Some(steps) = self.steps.remove(&entry) else { return Ok(T::default()) };
        let done = act(self, &steps);
        self.steps.insert(entry, steps);
        if done.is_err() && self.lost.is_none() {
            // What was asked for before the error is done before others have their turn; the error is told already.
            let _ = self.memory.settle(&self.engine.watch(self.slowest(entry)));
        }
        done
    }

    /// Runs a proven entry once and gives its seconds.
    fn time(&mut self, entry: Binding, steps: &[Step<E::Launch>]) -> Result<f64, RuntimeError> {
        let watch = self.engine.watch(self.slowest(entry));
        let window = self.begin(&watch).map_err(|f| self.fault_of_entry(f, entry))?;
        self.start(entry, steps, &watch)?;
        let timed = self.end(window, &watch).and_then(|timed| {
            self.memory.settle(&watch)?;
            self.engine.seconds(timed, &watch)
        });
        timed.map_err(|f| self.fault_of_entry(f, entry))
    }
}

/// Whether an entry needs nothing of the host between its calls.
fn recordable<L>(plan: &Plan, known: &Known, entry: Binding, steps: &[Step<L>]) -> bool {
    let numbers = plan.calls(entry).iter().filter_map(Bound::of).all(|b| known.knows(b.operand));
    numbers && steps.iter().all(|step| matches!(step, Step::Device(_)))
}

impl<E: Engine> Instance for GpuInstance<E> {
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
        let written = self.memory.write(o, &bytes, &self.watch());
        written.map_err(|f| self.fault(f, |problem| RuntimeError::input("inputs", &port.name, problem)))
    }

    fn run(&mut self, entry: Binding) -> Result<(), RuntimeError> {
        self.turn(entry, |this, steps| this.run_entry(entry, steps))
    }

    fn measure(&mut self, entry: Binding, runs: usize) -> Result<Vec<f64>, RuntimeError> {
        self.turn(entry, |this, steps| {
            if !this.proven.contains(&entry) {
                this.run_entry(entry, steps)?;
            }
            // Once more, so that recording it is not measured.
            this.run_entry(entry, steps)?;
            (0..runs).map(|_| this.time(entry, steps)).collect()
        })
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
        let bytes = self.memory.read(&operand, &self.watch());
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
        let watch = self.watch();
        let written = self.memory.write(&operand, &bytes, &watch).and_then(|()| self.memory.settle(&watch));
        written.map_err(|f| self.fault(f, |problem| RuntimeError::input("state", &named.name, problem)))
    }

    fn read(&mut self, output: usize) -> Result<HostTensor, RuntimeError> {
        self.alive()?;
        let plan = Arc::clone(&self.plan);
        let port = port(&plan.outputs, output, "output")?;
        let read = self.memory.read(&port.operand, &self.watch());
        let bytes = read.map_err(|f| {
            let name = self.engine.facts().api.name();
            let word = |p| RuntimeError::Backend { backend: name, problem: format!("output `{}`: {p}", port.name) };
            self.fault(f, word)
        })?;
        Ok(HostTensor::decode(&port.operand.ty, &bytes))
    }

    fn resident_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    fn by_library(&self, entry: Binding) -> usize {
        let launches = self.steps.get(&entry).into_iter().flatten().filter_map(|step| match step {
            Step::Host => None,
            Step::Device(launches) => Some(launches),
        });
        launches.flatten().filter(|l| E::by_library(l)).count()
    }

    fn set_profiling(&mut self, on: bool) {
        self.profiler.set(on);
    }

    fn take_profile(&mut self) -> Vec<CallTime> {
        self.profiler.take()
    }

    fn take_copies(&mut self) -> Option<Copies> {
        self.profiler.take_copies()
    }
}
