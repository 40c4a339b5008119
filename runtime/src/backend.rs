//! What a device must do to run plans.
//!
//! A [`Backend`] is a device that is ready; an [`Instance`] is one plan on it, with its weights and memory. Plans know no
//! backend: the same plan data goes to each, and each decides how to run a call.
//!
//! A device may run ahead of the host. [`Instance::run`] may return when the work is queued; [`Instance::read`] waits
//! for what it reads. A kernel that fails is reported by the `run` or `read` that first learns of it, with the
//! operator and the model path of its call, never dropped.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use ccl_codegen::gpu::Target;
use ccl_ir::plan::{Operand, Place, PlanState};
use ccl_ir::{Binding, Plan};

use crate::device::{DeviceInfo, host_memory, human_bytes};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::profile::{CallTime, Clock, Copies};
use crate::weights::WeightSource;

/// A device that can run plans.
pub trait Backend: Send + Sync {
    /// Name as on the command line, e.g. `cpu`.
    fn name(&self) -> &'static str;

    /// What the device is and can do, as found at run time.
    fn describe(&self) -> DeviceInfo;

    /// What plans made for this device are compiled for; `None` where they are plans for the cpu.
    fn target(&self) -> Option<&Target> {
        None
    }

    /// Bytes that a plan may take on the device, where weights beyond them stay on the host; `None` where there is no such bound.
    fn memory_budget(&self) -> Option<u64> {
        None
    }

    /// The same device with the plainest kernels that it runs, by whose results others are proven; `None` where it has but one kind.
    fn plain(&self) -> Option<Box<dyn Backend>> {
        None
    }

    /// What [`Instance::measure`] measures by.
    fn clock(&self) -> Clock {
        Clock::Host
    }

    /// Checks the plan, loads its weights and allocates its memory. Runs nothing yet.
    ///
    /// # Errors
    /// When the plan is not safe to run or asks for what the device lacks, when a weight is missing or does not fit,
    /// or when memory does not suffice.
    fn instantiate(&self, plan: Arc<Plan>, weights: &dyn WeightSource) -> Result<Box<dyn Instance>, RuntimeError> {
        self.instantiate_with(plan, weights, None)
    }

    /// The same for a plan that keeps a state, on the memory of another instance of this backend whose plan was compiled with the same table of
    /// states; without such memory it gets its own, all zeros.
    ///
    /// # Errors
    /// As for [`Backend::instantiate`], and when the memory is another backend's or of another size.
    fn instantiate_with(
        &self,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Option<&StateMemory>,
    ) -> Result<Box<dyn Instance>, RuntimeError>;
}

/// Memory of a state on one device, shared by the instances that were made with it.
#[derive(Clone)]
pub struct StateMemory {
    bytes: u64,
    memory: Arc<dyn Any + Send + Sync>,
}

impl StateMemory {
    /// Wraps a backend's own kind of memory.
    pub(crate) fn new<T: Any + Send + Sync>(bytes: u64, memory: Arc<T>) -> Self {
        Self { bytes, memory }
    }

    /// The memory, for a plan that fits it.
    ///
    /// # Errors
    /// When it is another backend's, or was made for another table of states.
    pub(crate) fn of<T: Any + Send + Sync>(&self, plan: &Plan) -> Result<Arc<T>, RuntimeError> {
        if self.bytes != plan.state_bytes {
            let problem = format!("a plan with {} bytes of state cannot share {}", plan.state_bytes, self.bytes);
            return Err(RuntimeError::order("state", problem));
        }
        let other = |_| RuntimeError::order("state", "the memory belongs to another backend".to_owned());
        Arc::downcast(Arc::clone(&self.memory)).map_err(other)
    }
}

/// A plan on a device.
pub trait Instance: Send {
    /// The plan.
    fn plan(&self) -> &Arc<Plan>;

    /// Writes the plan's input number `input` (an index into [`Plan::inputs`]), converting real numbers to the type that
    /// the plan stores.
    ///
    /// # Errors
    /// When there is no such input, or the tensor has another shape or kind of number.
    fn write(&mut self, input: usize, tensor: &HostTensor) -> Result<(), RuntimeError>;

    /// Runs all calls of one entry point, in order.
    ///
    /// # Errors
    /// When a kernel fails; the error names it and its place in the model.
    fn run(&mut self, entry: Binding) -> Result<(), RuntimeError>;

    /// Reads the plan's output number `output` (an index into [`Plan::outputs`]), once everything before it is done.
    ///
    /// # Errors
    /// When there is no such output, or a kernel before it failed.
    fn read(&mut self, output: usize) -> Result<HostTensor, RuntimeError>;

    /// The memory of the plan's state, for other plans to share; `None` where the plan keeps none.
    fn state(&self) -> Option<StateMemory>;

    /// Reads tensor `state` of the plan's state (an index into [`Plan::states`]), once everything before it is done.
    ///
    /// # Errors
    /// When there is no such tensor, or a kernel before it failed.
    fn read_state(&mut self, state: usize) -> Result<HostTensor, RuntimeError>;

    /// Writes tensor `state` of the plan's state.
    ///
    /// # Errors
    /// When there is no such tensor, or the tensor has another shape.
    fn write_state(&mut self, state: usize, tensor: &HostTensor) -> Result<(), RuntimeError>;

    /// Memory that this instance holds: buffers, and the weights that it owns or maps.
    fn resident_bytes(&self) -> u64;

    /// How many launches of an entry a library of the device's maker does.
    fn by_library(&self, _entry: Binding) -> usize {
        0
    }

    /// Starts or stops measuring each call. Off at first: measuring may keep a device from running ahead.
    fn set_profiling(&mut self, on: bool);

    /// Takes the times measured since the last call, in the order of execution.
    fn take_profile(&mut self) -> Vec<CallTime>;

    /// Takes what was measured of weights that came to the device while measured entries ran; `None` where all weights stay there.
    fn take_copies(&mut self) -> Option<Copies> {
        None
    }

    /// Runs an entry point so many times, after a run that does not count, and gives the seconds of each: by the device's own clock
    /// where it has one, else by the host's from start to end.
    ///
    /// # Errors
    /// As for [`Instance::run`].
    fn measure(&mut self, entry: Binding, runs: usize) -> Result<Vec<f64>, RuntimeError> {
        self.run(entry)?;
        let mut seconds = Vec::with_capacity(runs);
        for _ in 0..runs {
            let begin = Instant::now();
            self.run(entry)?;
            seconds.push(begin.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}

/// Finds a port by index, for implementations of [`Instance`].
pub(crate) fn port<'p>(
    ports: &'p [ccl_ir::plan::Port],
    index: usize,
    kind: &'static str,
) -> Result<&'p ccl_ir::plan::Port, RuntimeError> {
    let problem = || format!("{kind} {index} was asked for, the plan has {}", ports.len());
    ports.get(index).ok_or_else(|| RuntimeError::order("instance", problem()))
}

/// Finds a state by index, with the operand that is all of it.
pub(crate) fn state_port(plan: &Plan, index: usize) -> Result<(&PlanState, Operand), RuntimeError> {
    let problem = || format!("state {index} was asked for, the plan has {}", plan.states.len());
    let state = plan.states.get(index).ok_or_else(|| RuntimeError::order("instance", problem()))?;
    let strides = state.ty.strides().into_iter().map(|s| s as u64).collect();
    let operand = Operand { place: Place::Buffer(state.buffer), ty: state.ty.clone(), offset: 0, strides };
    Ok((state, operand))
}

/// Refuses a plan whose buffers the host has no room for, before the system lets a program take what is not there.
pub(crate) fn check_memory(plan: &Plan) -> Result<(), RuntimeError> {
    match host_memory().available_bytes {
        Some(free) if buffer_bytes(plan) > free => {
            Err(refuse_memory(plan, format!("{} are available", human_bytes(free))))
        }
        _ => Ok(()),
    }
}

/// The error for a plan whose buffers cannot be had.
pub(crate) fn refuse_memory(plan: &Plan, why: String) -> RuntimeError {
    let what = format!("buffers of task {}, clip {}", plan.about.task, plan.about.clip);
    RuntimeError::Memory { what, bytes: buffer_bytes(plan), problem: format!("{why}; take a smaller clip or batch") }
}

fn buffer_bytes(plan: &Plan) -> u64 {
    plan.persistent_bytes.saturating_add(plan.scratch_bytes).saturating_add(plan.state_bytes)
}
