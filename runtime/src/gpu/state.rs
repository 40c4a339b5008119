//! The state of training on a device: memory that outlives a plan and that the instances of several plans share.
//!
//! Plans that were compiled with one table of states know each tensor by its first byte in that table, and list those that they use. A tensor
//! gets its memory, zeros at first, when the first plan that uses it comes. Instances take turns.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ccl_ir::Plan;
use ccl_ir::plan::{PlanState, Region};
use cubecl::client::Client;
use cubecl::server::Handle;

use super::find::Device;
use super::watch::guarded;
use crate::error::RuntimeError;

/// A state on a device.
pub(super) struct DeviceState {
    device: cubecl::Device,
    client: Client,
    held: Mutex<Held>,
}

/// The memory of a state's tensors.
#[derive(Default)]
pub(super) struct Held {
    /// Allocations.
    blocks: Vec<Handle>,
    /// Where each tensor is, by its first byte in the table.
    places: BTreeMap<u64, Handle>,
    bytes: u64,
}

impl DeviceState {
    /// A state without tensors.
    pub(super) fn new(device: &Device) -> Self {
        Self { device: device.id.clone(), client: device.client.clone(), held: Mutex::default() }
    }

    /// Checks that the state is on this device.
    ///
    /// # Errors
    /// When it is on another.
    pub(super) fn check(&self, device: &Device) -> Result<(), RuntimeError> {
        if self.device == device.id {
            return Ok(());
        }
        Err(RuntimeError::order("state", "the memory belongs to another device".to_owned()))
    }

    /// Waits until no other instance uses the memory. One that panicked has left numbers behind, not broken memory.
    pub(super) fn turn(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DeviceState {
    /// Gives the memory back now, not when the device is used next.
    fn drop(&mut self) {
        *self.turn() = Held::default();
        if let Err(problem) = guarded(|| self.client.memory_cleanup()) {
            tracing::debug!("the state's memory was not returned to the device: {problem}");
        }
    }
}

impl Held {
    /// A plan's tensors that have no memory yet.
    ///
    /// # Errors
    /// When another plan has a tensor of another size at one's place: their tables differ.
    pub(super) fn missing<'p>(&self, plan: &'p Plan) -> Result<Vec<&'p PlanState>, RuntimeError> {
        let mut missing = Vec::new();
        for state in &plan.states {
            match self.places.get(&first_byte(plan, state)) {
                None => missing.push(state),
                Some(place) if place.size_in_used() == state.ty.bytes() => {}
                Some(place) => {
                    let (name, ty, bytes) = (&state.name, &state.ty, place.size_in_used());
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
        blocks: &[Handle],
        bytes: u64,
        tensors: impl IntoIterator<Item = (&'p PlanState, Handle)>,
    ) {
        self.blocks.extend_from_slice(blocks);
        self.bytes += bytes;
        self.places.extend(tensors.into_iter().map(|(state, place)| (first_byte(plan, state), place)));
    }

    /// The memory of buffer `index` of a plan, which holds a tensor of the state or its next value.
    ///
    /// # Errors
    /// When it is none of the state's tensors.
    pub(super) fn place(&self, plan: &Plan, index: usize) -> Result<&Handle, RuntimeError> {
        let buffer = &plan.buffers[index];
        let place = self.places.get(&buffer.offset).filter(|p| p.size_in_used() == buffer.bytes);
        place.filter(|_| buffer.region == Region::State).ok_or_else(|| {
            let (bytes, offset) = (buffer.bytes, buffer.offset);
            RuntimeError::order("state", format!("{bytes} bytes from byte {offset} on are none of the plan's tensors"))
        })
    }

    /// All allocations.
    pub(super) fn blocks(&self) -> &[Handle] {
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
