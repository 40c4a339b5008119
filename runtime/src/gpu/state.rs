//! The state of training on a device: memory that outlives a plan and that the instances of several plans share.
//!
//! Plans that were compiled with one table of states know each tensor by its first byte in that table, and list those that they use. A tensor
//! gets its memory, zeros at first, when the first plan that uses it comes. Instances take turns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccl_ir::Plan;
use ccl_ir::plan::{PlanState, Region};

use super::engine::Engine;
use crate::error::RuntimeError;

/// A state on a device.
pub(super) struct DeviceState<E: Engine> {
    /// Drives the device that the memory is on.
    engine: Arc<E>,
    held: Mutex<Held<E>>,
}

/// The memory of a state's tensors.
pub(super) struct Held<E: Engine> {
    /// Allocations.
    blocks: Vec<E::Span>,
    /// Where each tensor is, by its first byte in the table.
    places: BTreeMap<u64, E::Span>,
    bytes: u64,
}

impl<E: Engine> Default for Held<E> {
    fn default() -> Self {
        Self { blocks: Vec::new(), places: BTreeMap::new(), bytes: 0 }
    }
}

impl<E: Engine> DeviceState<E> {
    /// A state without tensors.
    pub(super) fn new(engine: Arc<E>) -> Self {
        Self { engine, held: Mutex::default() }
    }

    /// Drives the device, as long as the state is there.
    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    /// Checks that the state is on this device.
    ///
    /// # Errors
    /// When it is on another.
    pub(super) fn check(&self, engine: &E) -> Result<(), RuntimeError> {
        if self.engine.same_device(engine) {
            return Ok(());
        }
        Err(RuntimeError::order("state", "the memory belongs to another device".to_owned()))
    }

    /// Waits until no other instance uses the memory. One that panicked has left numbers behind, not broken memory.
    pub(super) fn turn(&self) -> MutexGuard<'_, Held<E>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Engine> Drop for DeviceState<E> {
    /// Gives the memory back now, not when the device is used next.
    fn drop(&mut self) {
        *self.turn() = Held::default();
        self.engine.give_back();
    }
}

impl<E: Engine> Held<E> {
    /// A plan's tensors that have no memory yet.
    ///
    /// # Errors
    /// When another plan has a tensor of another size at one's place: their tables differ.
    pub(super) fn missing<'p>(&self, plan: &'p Plan) -> Result<Vec<&'p PlanState>, RuntimeError> {
        let mut missing = Vec::new();
        for state in &plan.states {
            match self.places.get(&first_byte(plan, state)) {
                None => missing.push(state),
                Some(place) if E::bytes(place) == state.ty.bytes() => {}
                Some(place) => {
                    let (name, ty, bytes) = (&state.name, &state.ty, E::bytes(place));
                    let problem = format!("`{name}` is {ty}, the plan that it is shared with has {bytes} bytes there");
                    return Err(RuntimeError::order("state", problem));
                }
            }
        }
        Ok(missing)
    }

    /// Takes over memory: allocations, and the tensors in them.
    pub(super) fn insert<'p>(
        &mut self,
        plan: &Plan,
        blocks: &[E::Span],
        bytes: u64,
        tensors: impl IntoIterator<Item = (&'p PlanState, E::Span)>,
    ) {
        self.blocks.extend_from_slice(blocks);
        self.bytes += bytes;
        self.places.extend(tensors.into_iter().map(|(state, place)| (first_byte(plan, state), place)));
    }

    /// The memory of buffer `index` of a plan, which holds a tensor of the state or its next value.
    ///
    /// # Errors
    /// When it is none of the state's tensors.
    pub(super) fn place(&self, plan: &Plan, index: usize) -> Result<&E::Span, RuntimeError> {
        let buffer = &plan.buffers[index];
        let place = self.places.get(&buffer.offset).filter(|p| E::bytes(p) == buffer.bytes);
        place.filter(|_| buffer.region == Region::State).ok_or_else(|| {
            let (bytes, offset) = (buffer.bytes, buffer.offset);
            RuntimeError::order("state", format!("{bytes} bytes from byte {offset} on are none of the plan's tensors"))
        })
    }

    /// All allocations.
    pub(super) fn blocks(&self) -> &[E::Span] {
        &self.blocks
    }

    /// Bytes of all allocations.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Where a tensor is in the table.
fn first_byte(plan: &Plan, state: &PlanState) -> u64 {
    plan.buffers[state.buffer as usize].offset
}
