//! The reference backend: plans by the operators' own definitions, slow and obvious.
//!
//! It walks the same plan over the same buffers as every other backend, but each call gathers its operands element by
//! element, evaluates [`ccl_ir::Op::eval`] in `f32` and scatters the results. Where a backend differs from it, a kernel is
//! wrong; where it differs from the graph, the plan is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccl_ir::plan::{Call, Operand, Place, Region};
use ccl_ir::{Binding, DType, Plan, Problem, Tensor};

use crate::backend::{Backend, Instance, StateMemory, check_memory, port, refuse_memory, state_port};
use crate::device::{DeviceInfo, cpu_name, host_memory};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::profile::{CallTime, Profiler};
use crate::transfer::gather;
use crate::weights::{WeightBytes, WeightSource};

/// Evaluates plans on one thread without kernels.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceBackend;

impl Backend for ReferenceBackend {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn describe(&self) -> DeviceInfo {
        DeviceInfo {
            backend: self.name().into(),
            name: cpu_name(),
            kind: "interpreter".into(),
            threads: Some(1),
            cores: None,
            simd: Vec::new(),
            memory: host_memory(),
            element_types: vec![DType::F32, DType::F16, DType::Bf16, DType::I32],
            limits: Vec::new(),
        }
    }

    fn instantiate_with(
        &self,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Option<&StateMemory>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        plan.check()?;
        check_memory(&plan)?;
        let persistent = zeros(&plan, plan.persistent_bytes)?;
        let scratch = zeros(&plan, plan.scratch_bytes)?;
        let state = match state {
            Some(state) => state.of::<Mutex<Vec<u8>>>(&plan)?,
            None => Arc::new(Mutex::new(zeros(&plan, plan.state_bytes)?)),
        };
        let weights = plan.weights.iter().map(|w| weights.load(&w.name, &w.ty)).collect::<Result<_, _>>()?;
        Ok(Box::new(ReferenceInstance { plan, persistent, scratch, state, weights, profiler: Profiler::default() }))
    }
}

/// Memory for one region of a plan.
fn zeros(plan: &Plan, bytes: u64) -> Result<Vec<u8>, RuntimeError> {
    let mut memory = Vec::new();
    let reserved = usize::try_from(bytes).ok().filter(|&n| memory.try_reserve_exact(n).is_ok());
    memory.resize(reserved.ok_or_else(|| refuse_memory(plan, "which the system refuses".into()))?, 0);
    Ok(memory)
}

/// The state, whatever a thread that panicked left in it.
fn lock(state: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plan and its memory.
struct ReferenceInstance {
    plan: Arc<Plan>,
    persistent: Vec<u8>,
    scratch: Vec<u8>,
    state: Arc<Mutex<Vec<u8>>>,
    weights: Vec<WeightBytes>,
    profiler: Profiler,
}

impl ReferenceInstance {
    /// Lets `use_it` look at the bytes of a place.
    fn with_bytes<R>(&self, place: Place, use_it: impl FnOnce(&[u8]) -> R) -> R {
        let b = match place {
            Place::Weight(w) => return use_it(self.weights[w as usize].bytes()),
            Place::Buffer(b) => b,
        };
        let buffer = &self.plan.buffers[b as usize];
        let range = buffer.offset as usize..(buffer.offset + buffer.bytes) as usize;
        match buffer.region {
            Region::Persistent => use_it(&self.persistent[range]),
            Region::Scratch => use_it(&self.scratch[range]),
            Region::State => use_it(&lock(&self.state)[range]),
        }
    }

    /// Reads a dense operand.
    fn decode(&self, o: &Operand) -> HostTensor {
        let start = (o.offset * o.ty.dtype.bytes()) as usize;
        self.with_bytes(o.place, |bytes| HostTensor::decode(&o.ty, &bytes[start..start + o.ty.bytes() as usize]))
    }

    /// Stores a tensor where a dense operand is.
    fn scatter(&mut self, o: &Operand, tensor: &HostTensor) {
        let Place::Buffer(b) = o.place else { return };
        let buffer = &self.plan.buffers[b as usize];
        let start = (buffer.offset + o.offset * o.ty.dtype.bytes()) as usize;
        let range = start..start + o.ty.bytes() as usize;
        match buffer.region {
            Region::Persistent => tensor.encode(o.ty.dtype, &mut self.persistent[range]),
            Region::Scratch => tensor.encode(o.ty.dtype, &mut self.scratch[range]),
            Region::State => tensor.encode(o.ty.dtype, &mut lock(&self.state)[range]),
        }
    }

    fn call(&mut self, call: &Call) -> Result<(), Problem> {
        let inputs: Vec<Tensor<f32>> =
            call.inputs.iter().map(|o| self.with_bytes(o.place, |bytes| gather(o, bytes))).collect();
        let outputs = call.op.eval(&inputs.iter().collect::<Vec<_>>())?;
        for (o, tensor) in call.outputs.iter().zip(outputs) {
            if !tensor.matches(&o.ty) {
                return Err(Problem::new(format!("evaluates to shape {:?}, the plan says {}", tensor.shape, o.ty)));
            }
            let tensor = HostTensor::of(o.ty.dtype, tensor);
            self.scatter(o, &tensor);
        }
        Ok(())
    }
}

impl Instance for ReferenceInstance {
    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn write(&mut self, input: usize, tensor: &HostTensor) -> Result<(), RuntimeError> {
        let operand = {
            let port = port(&self.plan.inputs, input, "input")?;
            tensor.check(&port.name, &port.operand.ty)?;
            port.operand.clone()
        };
        self.scatter(&operand, tensor);
        Ok(())
    }

    fn run(&mut self, entry: Binding) -> Result<(), RuntimeError> {
        let plan = Arc::clone(&self.plan);
        for (index, call) in plan.calls(entry).iter().enumerate() {
            let start = self.profiler.start();
            self.call(call).map_err(|problem| RuntimeError::Kernel {
                entry,
                op: call.op.name(),
                at: call.at.clone(),
                problem: problem.0,
            })?;
            self.profiler.stop(start, entry, index, call);
        }
        Ok(())
    }

    fn read(&mut self, output: usize) -> Result<HostTensor, RuntimeError> {
        Ok(self.decode(&port(&self.plan.outputs, output, "output")?.operand))
    }

    fn state(&self) -> Option<StateMemory> {
        let bytes = self.plan.state_bytes;
        (bytes > 0).then(|| StateMemory::new(bytes, Arc::clone(&self.state)))
    }

    fn read_state(&mut self, state: usize) -> Result<HostTensor, RuntimeError> {
        Ok(self.decode(&state_port(&self.plan, state)?.1))
    }

    fn write_state(&mut self, state: usize, tensor: &HostTensor) -> Result<(), RuntimeError> {
        let operand = {
            let (named, operand) = state_port(&self.plan, state)?;
            tensor.check(&named.name, &operand.ty)?;
            operand
        };
        self.scatter(&operand, tensor);
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        let weights: u64 = self.weights.iter().map(|w| w.bytes().len() as u64).sum();
        (self.persistent.len() + self.scratch.len()) as u64 + self.plan.state_bytes + weights
    }

    fn set_profiling(&mut self, on: bool) {
        self.profiler.set(on);
    }

    fn take_profile(&mut self) -> Vec<CallTime> {
        self.profiler.take()
    }
}
