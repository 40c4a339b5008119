//! What goes wrong while a plan runs, in words; after a lost device nothing runs any more.

use ccl_ir::plan::Call;
use ccl_ir::{Binding, Plan};

use super::GpuInstance;
use crate::error::RuntimeError;
use crate::gpu::engine::Engine;
use crate::gpu::fault::Fault;

/// Refuses weights that the device cannot store, before some call does in its own words.
pub(super) fn check_types<E: Engine>(engine: &E, plan: &Plan) -> Result<(), RuntimeError> {
    let info = &engine.facts().info;
    let types = &info.element_types;
    let Some(w) = plan.weights.iter().find(|w| !types.contains(&w.ty.dtype)) else { return Ok(()) };
    let names: Vec<&str> = types.iter().map(|t| t.name()).collect();
    let (name, has, use_) = (&info.name, names.join(" "), if names.contains(&"f16") { "f16" } else { "f32" });
    Err(RuntimeError::weight(
        &w.name,
        format!("is {} in this plan, {name} stores {has}; use --dtype {use_}", w.ty.dtype),
    ))
}

impl<E: Engine> GpuInstance<E> {
    /// Remembers a lost device and words the error.
    pub(super) fn fault(&mut self, fault: Fault, word: impl FnOnce(String) -> RuntimeError) -> RuntimeError {
        if !fault.lost {
            return word(fault.problem);
        }
        let problem = format!("{} was lost ({}); start again", self.engine.facts().info.name, fault.problem);
        self.lost = Some(problem.clone());
        self.memory.abandon();
        self.gone(problem)
    }

    /// The error of a call, which names it even where the device is lost with it.
    pub(super) fn fault_of(&mut self, fault: Fault, entry: Binding, call: &Call) -> RuntimeError {
        let place = format!("{entry}: {} at `{}`: ", call.op.name(), call.at);
        let problem = if fault.lost { place + &fault.problem } else { fault.problem };
        self.fault(Fault { problem, ..fault }, |problem| failed(entry, call, problem))
    }

    fn gone(&self, problem: String) -> RuntimeError {
        RuntimeError::Lost { backend: self.engine.facts().api.name(), problem }
    }

    /// Refuses to go on with a device that is lost.
    pub(super) fn alive(&self) -> Result<(), RuntimeError> {
        self.lost.as_ref().map_or(Ok(()), |problem| Err(self.gone(problem.clone())))
    }

    pub(super) fn fault_of_entry(&mut self, fault: Fault, entry: Binding) -> RuntimeError {
        let name = self.engine.facts().api.name();
        self.fault(fault, |p| RuntimeError::Backend { backend: name, problem: format!("{entry}: {p}") })
    }
}

/// The error of a call.
pub(crate) fn failed(entry: Binding, call: &Call, problem: String) -> RuntimeError {
    RuntimeError::Kernel { entry, op: call.op.name(), at: call.at.clone(), problem }
}
