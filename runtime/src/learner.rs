//! Plans of training on one backend, on one state.
//!
//! Every task has a plan of its own: a step computes the loss of a batch and its gradients, an epilogue updates the parameters. The plans were compiled with one table
//! of states, so that they share the parameters, the optimiser's moments and the averages. The caller looks at the loss and the norm of
//! the gradients between the two, and may leave the update out.

use std::collections::BTreeMap;
use std::sync::Arc;

use ccl_ir::{Binding, Plan, TensorType};

use crate::backend::{Backend, Instance, StateMemory};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::session::Tensors;
use crate::weights::{WeightSource, WeightStore};

/// Plans by task, and the state that they share.
pub struct Learner {
    instances: BTreeMap<String, Box<dyn Instance>>,
    /// Where each state is found: a task whose plan has it, and its index there.
    states: BTreeMap<String, (String, usize)>,
}

impl Learner {
    /// Puts plans on a backend, all states zero, and runs what is computed once.
    ///
    /// # Errors
    /// When a plan cannot be instantiated (see [`Backend::instantiate`]), or two plans were compiled with different tables of states.
    pub fn new(
        backend: &dyn Backend,
        plans: impl IntoIterator<Item = (String, Arc<Plan>)>,
    ) -> Result<Self, RuntimeError> {
        let none = WeightStore::random(&[], 0);
        let mut learner = Self { instances: BTreeMap::new(), states: BTreeMap::new() };
        let mut memory: Option<StateMemory> = None;
        for (task, plan) in plans {
            let mut instance = backend.instantiate_with(Arc::clone(&plan), &none, memory.as_ref())?;
            memory = memory.or_else(|| instance.state());
            instance.run(Binding::Load)?;
            for (index, state) in plan.states.iter().enumerate() {
                learner.states.entry(state.name.clone()).or_insert_with(|| (task.clone(), index));
            }
            learner.instances.insert(task, instance);
        }
        Ok(learner)
    }

    /// The plan of a task.
    ///
    /// # Errors
    /// When there is none.
    pub fn plan(&self, task: &str) -> Result<&Arc<Plan>, RuntimeError> {
        let known = self.instances.get(task).map(|i| i.plan());
        known.ok_or_else(|| RuntimeError::order("learner", format!("there is no plan for task {task}")))
    }

    /// Names and types of all states, in order of their names.
    pub fn states(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.states.iter().filter_map(|(name, (task, index))| {
            let state = self.instances.get(task)?.plan().states.get(*index)?;
            Some((name.as_str(), &state.ty))
        })
    }

    /// Reads a state.
    ///
    /// # Errors
    /// When there is no such state, or the device failed.
    pub fn read_state(&mut self, name: &str) -> Result<HostTensor, RuntimeError> {
        let (instance, index) = self.find(name)?;
        instance.read_state(index)
    }

    /// Writes a state.
    ///
    /// # Errors
    /// When there is no such state, or it has another shape.
    pub fn write_state(&mut self, name: &str, tensor: &HostTensor) -> Result<(), RuntimeError> {
        let (instance, index) = self.find(name)?;
        instance.write_state(index, tensor)
    }

    /// Writes states from a source that has tensors of their names.
    ///
    /// # Errors
    /// When the source lacks one, or has it in another shape.
    pub fn load<'n>(
        &mut self,
        source: &dyn WeightSource,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<(), RuntimeError> {
        for name in names {
            let (instance, index) = self.find(name)?;
            let ty = instance.plan().states[index].ty.clone();
            let bytes = source.load(name, &ty)?;
            instance.write_state(index, &HostTensor::decode(&ty, bytes.bytes()))?;
        }
        Ok(())
    }

    /// Whether there is a state of this name.
    pub fn has_state(&self, name: &str) -> bool {
        self.states.contains_key(name)
    }

    fn find(&mut self, name: &str) -> Result<(&mut Box<dyn Instance>, usize), RuntimeError> {
        let missing = || RuntimeError::order("learner", format!("there is no state `{name}`"));
        let (task, index) = self.states.get(name).ok_or_else(missing)?;
        Ok((self.instances.get_mut(task).ok_or_else(missing)?, *index))
    }

    /// Runs the step of a task on a batch: all of its inputs by name. Returns its outputs, which may be no finite numbers.
    ///
    /// # Errors
    /// When an input is missing or has another shape, or a kernel fails.
    pub fn step(&mut self, task: &str, batch: &Tensors) -> Result<Tensors, RuntimeError> {
        self.run(task, Binding::Step, batch)
    }

    /// Runs the update of a task, after its step: `rates`, `scale` and what else the plan asks for.
    ///
    /// # Errors
    /// As for [`Learner::step`].
    pub fn update(&mut self, task: &str, settings: &Tensors) -> Result<(), RuntimeError> {
        self.run(task, Binding::Epilogue, settings).map(|_| ())
    }

    /// The plan of a task on its device, to measure it.
    ///
    /// # Errors
    /// When there is none.
    pub fn instance(&mut self, task: &str) -> Result<&mut dyn Instance, RuntimeError> {
        match self.instances.get_mut(task) {
            Some(instance) => Ok(instance.as_mut()),
            None => Err(RuntimeError::order("learner", format!("there is no plan for task {task}"))),
        }
    }

    fn run(&mut self, task: &str, entry: Binding, given: &Tensors) -> Result<Tensors, RuntimeError> {
        let instance = self.instance(task)?;
        let plan = Arc::clone(instance.plan());
        for (i, port) in plan.inputs.iter().enumerate().filter(|(_, p)| p.binding == entry) {
            let missing = || RuntimeError::order("learner", format!("input `{}` is missing", port.name));
            instance.write(i, given.get(&port.name).ok_or_else(missing)?)?;
        }
        instance.run(entry)?;
        let mut outputs = Tensors::new();
        for (i, port) in plan.outputs.iter().enumerate().filter(|(_, p)| p.binding == entry) {
            outputs.insert(port.name.clone(), instance.read(i)?);
        }
        Ok(outputs)
    }
}
