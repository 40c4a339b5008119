//! A plan's memory on a device: allocations, and what goes in and out of them.

use std::sync::Arc;

use ccl_ir::Plan;
use ccl_ir::plan::{Operand, Place, Region};

use super::engine::{Engine, Facts, Watch};
use super::fault::Fault;
use super::layout::{Layout, Span};
use super::residency::{Kept, Residency, Uses};
use super::state::{DeviceState, Held};
use crate::backend::check_memory;
use crate::device::{host_memory, human_bytes};
use crate::error::RuntimeError;
use crate::weights::WeightSource;

/// What a device wants of the first byte and the length of a copy.
const COPY_ALIGNMENT: u64 = 4;

/// Where everything will lie, before anything is allocated.
pub(super) struct Places {
    persistent: Layout,
    scratch: Layout,
    /// Weights that stay on the device.
    weights: Layout,
    /// Slots for the others.
    slots: Layout,
    residency: Residency,
}

impl Places {
    /// Decides what lies where, within `budget` bytes where one is given.
    ///
    /// # Errors
    /// When the device cannot hold the plan, or no budget that large would do.
    pub(super) fn of(facts: &Facts, plan: &Plan, budget: Option<u64>) -> Result<Self, RuntimeError> {
        let limit = facts.target.max_buffer_bytes;
        check_ports(plan, facts)?;
        // What a smaller clip would mend is said first.
        let persistent = region(facts, plan, Region::Persistent, limit)?;
        let scratch = region(facts, plan, Region::Scratch, limit)?;
        let buffers = persistent.bytes() + scratch.bytes() + plan.state_bytes;
        let uses = Uses::of(plan);
        let residency = match budget {
            None => Residency::whole(&uses),
            Some(budget) => {
                let room = budget.saturating_sub(buffers);
                let short = |least: u64| {
                    let problem = format!(
                        "{} are not enough for this plan: it takes at least {}, {} of them for its values",
                        human_bytes(budget),
                        human_bytes(buffers.saturating_add(least)),
                        human_bytes(buffers)
                    );
                    RuntimeError::option("--memory-budget", problem)
                };
                let residency = Residency::within(&uses, room).map_err(short)?;
                if buffers > budget {
                    return Err(short(uses.bytes.iter().sum()));
                }
                residency
            }
        };
        let stays = |w: usize| if residency.kept[w] == Kept::Device { plan.weights[w].ty.bytes() } else { 0 };
        let sizes: Vec<u64> = (0..plan.weights.len()).map(stays).collect();
        let weights = Layout::packed(&sizes, limit)
            .map_err(|i| RuntimeError::weight(&plan.weights[i].name, too_large(facts, sizes[i])))?;
        let slots = Layout::packed(&residency.slots, limit)
            .map_err(|i| RuntimeError::option("--memory-budget", too_large(facts, residency.slots[i])))?;
        let places = Self { persistent, scratch, weights, slots, residency };
        check_room(facts, plan, places.bytes())?;
        Ok(places)
    }

    /// Bytes of all allocations but those of the state.
    fn bytes(&self) -> u64 {
        [&self.persistent, &self.scratch, &self.weights, &self.slots].into_iter().map(Layout::bytes).sum()
    }
}

/// Everything that a plan holds on a device.
pub(super) struct Memory<E: Engine> {
    engine: Arc<E>,
    /// Allocations: the plan's regions, those of the state included.
    regions: Vec<E::Span>,
    /// The place of each of the plan's buffers.
    buffers: Vec<E::Span>,
    /// The place of each of the plan's weights.
    weights: Vec<E::Span>,
    /// Weights that come to the device while the plan runs.
    flow: Option<E::Flow>,
    /// Tensors that outlive the plan.
    state: Arc<DeviceState<E>>,
    /// Bytes of the plan's own allocations.
    bytes: u64,
    /// Whether the device is lost, so that nothing can be given back to it.
    abandoned: bool,
}

impl<E: Engine> Memory<E> {
    /// Allocates a plan's memory and uploads its weights, one after the other. Tensors that the state lacks are added to it.
    ///
    /// # Errors
    /// When the device cannot hold the plan, a weight is missing or does not fit, or the state is of other plans.
    pub(super) fn new(
        engine: Arc<E>,
        plan: &Plan,
        places: &Places,
        source: &dyn WeightSource,
        state: Arc<DeviceState<E>>,
    ) -> Result<Self, RuntimeError> {
        let facts = engine.facts();
        let shared = Arc::clone(&state);
        let mut held = shared.turn();
        let missing = held.missing(plan)?;
        let sizes: Vec<u64> = missing.iter().map(|s| s.ty.bytes()).collect();
        let states = Layout::packed(&sizes, facts.target.max_buffer_bytes)
            .map_err(|i| RuntimeError::input("state", &missing[i].name, too_large(facts, sizes[i])))?;
        let bytes = places.bytes() + states.bytes();
        check_room(facts, plan, bytes)?;

        let watch = engine.watch(std::time::Duration::ZERO);
        let short = |f: Fault| refused(facts, plan, bytes, &f.problem);
        let allocate = |engine: &E, layout: &Layout| -> Result<Vec<E::Span>, RuntimeError> {
            layout.blocks.iter().map(|&b| engine.allocate(b).map_err(short)).collect()
        };
        let persistent = allocate(&engine, &places.persistent)?;
        let scratch = allocate(&engine, &places.scratch)?;
        let weights = allocate(&engine, &places.weights)?;
        let slots = allocate(&engine, &places.slots)?;
        let all = [&persistent[..], &scratch, &weights, &slots].concat();
        engine.settle(&all, &watch).map_err(short)?;

        // The engine that is there as long as the state.
        let new_state = allocate(state.engine(), &states)?;
        clear(state.engine(), &new_state, &watch).map_err(short)?;
        let spans = spans::<E>(&states, &new_state);
        held.insert(plan, &new_state, states.bytes(), missing.into_iter().zip(spans));
        let slots = spans_of_slots::<E>(places, &slots);
        let mut memory = Self {
            regions: [&persistent[..], &scratch, held.blocks()].concat(),
            buffers: buffers::<E>(plan, places, &persistent, &scratch, &held)?,
            weights: weight_spans::<E>(plan, places, &weights, &slots),
            flow: None,
            state,
            bytes: places.bytes(),
            abandoned: false,
            engine: Arc::clone(&engine),
        };
        memory.load(plan, &places.residency, source, &watch)?;
        if !places.residency.groups.is_empty() {
            memory.flow = Some(engine.flow(plan, &places.residency, &slots, source)?);
        }
        Ok(memory)
    }

    /// Uploads the weights that stay.
    fn load(
        &self,
        plan: &Plan,
        residency: &Residency,
        source: &dyn WeightSource,
        watch: &Watch,
    ) -> Result<(), RuntimeError> {
        let failed = |name: &str, f: Fault| {
            let device = &self.engine.facts().info.name;
            RuntimeError::weight(name, format!("cannot be uploaded to {device}: {}", f.problem))
        };
        for (i, w) in plan.weights.iter().enumerate().filter(|(i, _)| residency.kept[*i] == Kept::Device) {
            let bytes = source.load(&w.name, &w.ty)?;
            self.engine.upload(&self.weights[i], &bytes, watch).map_err(|f| failed(&w.name, f))?;
        }
        let Some(last) = plan.weights.last() else { return Ok(()) };
        self.engine.settle(&self.weights, watch).map_err(|f| failed(&last.name, f))
    }

    /// Asks nothing more of a device that is lost: it might never answer.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.engine.abandon();
    }

    /// Bytes of all allocations, the state's included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.state.turn().bytes()
    }

    /// Tensors that outlive the plan.
    pub(super) fn state(&self) -> &Arc<DeviceState<E>> {
        &self.state
    }

    /// Weights that come to the device while the plan runs.
    pub(super) fn flow(&self) -> Option<&E::Flow> {
        self.flow.as_ref()
    }

    /// The plan's regions, which hold everything that runs write.
    pub(super) fn regions(&self) -> &[E::Span] {
        &self.regions
    }

    /// Where an operand's place is.
    pub(super) fn place(&self, place: Place) -> &E::Span {
        match place {
            Place::Weight(w) => &self.weights[w as usize],
            Place::Buffer(b) => &self.buffers[b as usize],
        }
    }

    /// Where a dense operand is.
    fn dense(&self, o: &Operand) -> E::Span {
        E::part(self.place(o.place), o.offset * o.ty.dtype.bytes(), o.ty.bytes())
    }

    /// Uploads a dense operand's bytes.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn write(&self, o: &Operand, bytes: &[u8], watch: &Watch) -> Result<(), Fault> {
        self.engine.upload(&self.dense(o), bytes, watch)
    }

    /// The bytes of a dense operand, once everything before is done.
    ///
    /// # Errors
    /// The device's, or that of the work that should have written them.
    pub(super) fn read(&self, o: &Operand, watch: &Watch) -> Result<E::Bytes, Fault> {
        self.engine.download(&self.dense(o), watch)
    }

    /// All bytes of an operand's place.
    ///
    /// # Errors
    /// As for [`Memory::read`].
    pub(super) fn read_place(&self, place: Place, watch: &Watch) -> Result<E::Bytes, Fault> {
        self.engine.download(self.place(place), watch)
    }

    /// Waits until the device has done everything.
    ///
    /// # Errors
    /// When something failed whose results are in the plan's memory, or the device is lost.
    pub(super) fn settle(&self, watch: &Watch) -> Result<(), Fault> {
        self.engine.settle(&self.regions, watch)
    }

    /// Succeeds where all that was asked for so far will have written what it should, by other instances as well.
    ///
    /// # Errors
    /// When something failed.
    pub(super) fn check(&self, watch: &Watch) -> Result<(), Fault> {
        self.engine.check(self.regions.clone(), watch)
    }
}

impl<E: Engine> Drop for Memory<E> {
    /// Gives the memory back now, not when the device is used next. Copies to it may still be under way.
    fn drop(&mut self) {
        if !self.abandoned {
            let settled = self.settle(&self.engine.watch(std::time::Duration::ZERO));
            if let Err(fault) = settled {
                tracing::debug!("a plan's last copies failed: {}", fault.problem);
            }
        }
        self.flow = None;
        self.regions.clear();
        self.buffers.clear();
        self.weights.clear();
        if !self.abandoned {
            self.engine.give_back();
        }
    }
}

/// Makes allocations all zeros.
fn clear<E: Engine>(engine: &E, blocks: &[E::Span], watch: &Watch) -> Result<(), Fault> {
    const PIECE: u64 = 64 << 20;
    let zeros = vec![0; blocks.iter().map(E::bytes).max().unwrap_or(0).min(PIECE) as usize];
    for block in blocks {
        let bytes = E::bytes(block);
        for start in (0..bytes).step_by(PIECE as usize) {
            let rest = (bytes - start).min(PIECE);
            engine.upload(&E::part(block, start, rest), &zeros[..rest as usize], watch)?;
        }
    }
    if blocks.is_empty() { Ok(()) } else { engine.settle(blocks, watch) }
}

fn span<E: Engine>(blocks: &[E::Span], span: &Span) -> E::Span {
    E::part(&blocks[span.block], span.start, span.bytes)
}

fn spans<E: Engine>(layout: &Layout, blocks: &[E::Span]) -> Vec<E::Span> {
    layout.spans.iter().map(|s| span::<E>(blocks, s)).collect()
}

fn spans_of_slots<E: Engine>(places: &Places, blocks: &[E::Span]) -> Vec<E::Span> {
    spans::<E>(&places.slots, blocks)
}

fn weight_spans<E: Engine>(plan: &Plan, places: &Places, blocks: &[E::Span], slots: &[E::Span]) -> Vec<E::Span> {
    let place = |(i, kept): (usize, &Kept)| match *kept {
        Kept::Device => span::<E>(blocks, &places.weights.spans[i]),
        Kept::Host { group, start } => {
            E::part(&slots[places.residency.groups[group].slot], start, plan.weights[i].ty.bytes())
        }
    };
    places.residency.kept.iter().enumerate().map(place).collect()
}

fn buffers<E: Engine>(
    plan: &Plan,
    places: &Places,
    persistent: &[E::Span],
    scratch: &[E::Span],
    held: &Held<E>,
) -> Result<Vec<E::Span>, RuntimeError> {
    let mut persistent = spans::<E>(&places.persistent, persistent).into_iter();
    let mut scratch = spans::<E>(&places.scratch, scratch).into_iter();
    let mut buffers = Vec::with_capacity(plan.buffers.len());
    for (i, b) in plan.buffers.iter().enumerate() {
        let next = match b.region {
            Region::Persistent => persistent.next(),
            Region::Scratch => scratch.next(),
            Region::State => Some(held.place(plan, i)?.clone()),
        };
        buffers.extend(next);
    }
    Ok(buffers)
}

fn region(facts: &Facts, plan: &Plan, region: Region, limit: u64) -> Result<Layout, RuntimeError> {
    let items: Vec<(u64, u64)> =
        plan.buffers.iter().filter(|b| b.region == region).map(|b| (b.offset, b.bytes)).collect();
    Layout::of_region(&items, limit).map_err(|bytes| {
        let problem = format!(
            "{} in one piece, {} has buffers of at most {}; take a smaller clip or batch",
            human_bytes(bytes),
            facts.info.name,
            human_bytes(limit)
        );
        RuntimeError::Memory { what: what(plan), bytes, problem }
    })
}

fn too_large(facts: &Facts, bytes: u64) -> String {
    let (name, limit) = (&facts.info.name, human_bytes(facts.target.max_buffer_bytes));
    format!("needs {}, {name} has buffers of at most {limit}", human_bytes(bytes))
}

/// Refuses a plan that the device surely cannot hold.
fn check_room(facts: &Facts, plan: &Plan, bytes: u64) -> Result<(), RuntimeError> {
    if facts.software {
        check_memory(plan)?;
    }
    let room = if facts.software { host_memory().available_bytes } else { facts.info.memory.total_bytes };
    match room {
        Some(room) if bytes > room => Err(refused(facts, plan, bytes, &format!("which has {}", human_bytes(room)))),
        _ => Ok(()),
    }
}

fn refused(facts: &Facts, plan: &Plan, bytes: u64, why: &str) -> RuntimeError {
    let budget = if facts.api.streams() { ", or keep weights on the host with --memory-budget" } else { "" };
    let problem = format!("more than {} can give: {why}; take a smaller clip or batch{budget}", facts.info.name);
    RuntimeError::Memory { what: what(plan), bytes, problem }
}

fn what(plan: &Plan) -> String {
    format!("weights and buffers of task {}, clip {}", plan.about.task, plan.about.clip)
}

/// Refuses ports that the device cannot copy by themselves. Compiled plans have none: theirs are whole buffers.
fn check_ports(plan: &Plan, facts: &Facts) -> Result<(), RuntimeError> {
    for port in plan.inputs.iter().chain(&plan.outputs) {
        let o = &port.operand;
        let (start, bytes) = (o.offset * o.ty.dtype.bytes(), o.ty.bytes());
        let whole = match o.place {
            Place::Buffer(b) => plan.buffers[b as usize].bytes,
            Place::Weight(w) => plan.weights[w as usize].ty.bytes(),
        };
        let copies = start % COPY_ALIGNMENT == 0 && (bytes % COPY_ALIGNMENT == 0 || start + bytes == whole);
        if !copies {
            let problem =
                format!("has {bytes} bytes from byte {start} of its buffer on, {} copies words of 4", facts.api.name());
            return Err(RuntimeError::input("plan", &port.name, problem));
        }
    }
    Ok(())
}
