//! A plan's memory on a device: allocations, and what goes in and out of them.

use std::sync::Arc;

use ccl_ir::Plan;
use ccl_ir::plan::{Operand, Place, Region};
use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::server::Handle;

use super::find::{Api, Device};
use super::layout::{Layout, Span};
use super::state::DeviceState;
use super::watch::{Fault, Mark, answer, guarded, wait};
use crate::backend::check_memory;
use crate::device::human_bytes;
use crate::error::RuntimeError;
use crate::weights::WeightSource;

/// Most bytes of one upload: the driver copies them once more before they reach the device. Tests take several.
const UPLOAD: usize = if cfg!(test) { 512 } else { 64 << 20 };
/// Uploads under way, in bytes, before the device is waited for.
const UNDER_WAY: u64 = 4 * UPLOAD as u64;
/// What wgpu wants of the first byte and the length of a copy.
const COPY_ALIGNMENT: u64 = 4;

/// Everything that a plan holds on a device.
pub(super) struct Memory {
    client: Client,
    /// Allocations: the plan's regions, those of the state included.
    regions: Vec<Handle>,
    /// The place of each of the plan's buffers.
    buffers: Vec<Handle>,
    /// The place of each of the plan's weights.
    weights: Vec<Handle>,
    /// Tensors that outlive the plan.
    state: Arc<DeviceState>,
    /// Bytes of the plan's own allocations.
    bytes: u64,
    /// Uploads since the device was last waited for.
    under_way: u64,
    /// Whether the device is lost, so that nothing can be given back to it.
    abandoned: bool,
}

impl Memory {
    /// Allocates a plan's memory and uploads its weights, one after the other. Tensors that the state lacks are added to it.
    ///
    /// # Errors
    /// When the device cannot hold the plan, a weight is missing or does not fit, or the state is of other plans.
    pub(super) fn new(
        device: &Device,
        plan: &Plan,
        source: &dyn WeightSource,
        state: Arc<DeviceState>,
    ) -> Result<Self, RuntimeError> {
        let limit = device.target.max_buffer_bytes;
        check_ports(plan, device.api)?;
        let shared = Arc::clone(&state);
        let mut held = shared.turn();
        let missing = held.missing(plan)?;
        let too_large = |bytes: u64| {
            let (name, limit) = (&device.info.name, human_bytes(limit));
            format!("needs {}, {name} has buffers of at most {limit}", human_bytes(bytes))
        };
        // What a smaller clip would mend is said first.
        let persistent = region(device, plan, Region::Persistent, limit)?;
        let scratch = region(device, plan, Region::Scratch, limit)?;
        let sizes: Vec<u64> = plan.weights.iter().map(|w| w.ty.bytes()).collect();
        let weights = Layout::packed(&sizes, limit)
            .map_err(|i| RuntimeError::weight(&plan.weights[i].name, too_large(sizes[i])))?;
        let sizes: Vec<u64> = missing.iter().map(|s| s.ty.bytes()).collect();
        let states = Layout::packed(&sizes, limit)
            .map_err(|i| RuntimeError::input("state", &missing[i].name, too_large(sizes[i])))?;
        let layouts = [persistent, scratch, weights, states];
        let bytes = layouts.iter().map(Layout::bytes).sum();
        check_room(device, plan, bytes)?;

        let mark = Mark::now();
        let mut blocks = Vec::new();
        for layout in &layouts {
            blocks.push(allocate(&device.client, layout).map_err(|p| refused(device, plan, bytes, &p))?);
        }
        let all: Vec<Handle> = blocks.iter().flatten().cloned().collect();
        settle(&device.client, &all, &mark).map_err(|f| refused(device, plan, bytes, &f.problem))?;

        let places = |i: usize| layouts[i].spans.iter().map(move |s| (i, s));
        let place = |(i, s): (usize, &Span)| part(&blocks[i][s.block], s.start, s.bytes);
        let mut memory = Self {
            client: device.client.clone(),
            regions: blocks[..2].iter().flatten().cloned().collect(),
            buffers: Vec::with_capacity(plan.buffers.len()),
            weights: places(2).map(place).collect(),
            state,
            bytes: bytes - layouts[3].bytes(),
            under_way: 0,
            abandoned: false,
        };
        memory.clear(&blocks[3], &mark).map_err(|f| refused(device, plan, bytes, &f.problem))?;
        held.insert(plan, &blocks[3], layouts[3].bytes(), missing.into_iter().zip(places(3).map(place)));
        let [mut persistent, mut scratch] = [places(0), places(1)];
        for (i, b) in plan.buffers.iter().enumerate() {
            let next = match b.region {
                Region::Persistent => persistent.next().map(place),
                Region::Scratch => scratch.next().map(place),
                Region::State => Some(held.place(plan, i)?.clone()),
            };
            memory.buffers.extend(next);
        }
        memory.regions.extend_from_slice(held.blocks());
        memory.load(device, plan, source, &mark)?;
        Ok(memory)
    }

    /// Makes allocations all zeros.
    fn clear(&mut self, blocks: &[Handle], mark: &Mark) -> Result<(), Fault> {
        let zeros = vec![0; blocks.iter().map(Handle::size_in_used).max().unwrap_or(0).min(UPLOAD as u64) as usize];
        for block in blocks {
            let bytes = block.size_in_used();
            for start in (0..bytes).step_by(UPLOAD) {
                let rest = (bytes - start).min(UPLOAD as u64);
                self.upload(&part(block, start, rest), &zeros[..rest as usize], mark)?;
            }
        }
        if blocks.is_empty() { Ok(()) } else { settle(&self.client, blocks, mark) }
    }

    fn load(
        &mut self,
        device: &Device,
        plan: &Plan,
        source: &dyn WeightSource,
        mark: &Mark,
    ) -> Result<(), RuntimeError> {
        let failed = |name: &str, problem: String| {
            RuntimeError::weight(name, format!("cannot be uploaded to {}: {problem}", device.info.name))
        };
        for (i, w) in plan.weights.iter().enumerate() {
            let bytes = source.load(&w.name, &w.ty)?;
            let to = self.weights[i].clone();
            self.upload(&to, &bytes, mark).map_err(|f| failed(&w.name, f.problem))?;
        }
        let Some(last) = plan.weights.last() else { return Ok(()) };
        settle(&self.client, &self.weights, mark).map_err(|f| failed(&last.name, f.problem))
    }

    /// Asks nothing more of a device that is lost: it might never answer.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Bytes of all allocations, the state's included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.state.turn().bytes()
    }

    /// Tensors that outlive the plan.
    pub(super) fn state(&self) -> &Arc<DeviceState> {
        &self.state
    }

    /// Where an operand's place is.
    pub(super) fn place(&self, place: Place) -> &Handle {
        match place {
            Place::Weight(w) => &self.weights[w as usize],
            Place::Buffer(b) => &self.buffers[b as usize],
        }
    }

    /// Where a dense operand is.
    fn dense(&self, o: &Operand) -> Handle {
        part(self.place(o.place), o.offset * o.ty.dtype.bytes(), o.ty.bytes())
    }

    /// Uploads a dense operand's bytes.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn write(&mut self, o: &Operand, bytes: &[u8], mark: &Mark) -> Result<(), Fault> {
        let to = self.dense(o);
        self.upload(&to, bytes, mark)
    }

    /// The bytes of a dense operand, once everything before is done.
    ///
    /// # Errors
    /// The device's, or that of the work that should have written them.
    pub(super) fn read(&self, o: &Operand, mark: &Mark) -> Result<Bytes, Fault> {
        self.download(self.dense(o), mark)
    }

    /// All bytes of an operand's place.
    ///
    /// # Errors
    /// As for [`Memory::read`].
    pub(super) fn read_place(&self, place: Place, mark: &Mark) -> Result<Bytes, Fault> {
        self.download(self.place(place).clone(), mark)
    }

    fn download(&self, from: Handle, mark: &Mark) -> Result<Bytes, Fault> {
        let want = from.size_in_used() as usize;
        // First the work that writes it: only that can keep the device.
        settle(&self.client, std::slice::from_ref(&from), mark)?;
        let read = guarded(|| self.client.read_async(vec![from])).map_err(Fault::failed)?;
        let read = answer(read, mark)?.pop().filter(|b| b.len() == want);
        read.ok_or_else(|| Fault::failed("a read returned another number of bytes than asked for".into()))
    }

    fn upload(&mut self, to: &Handle, bytes: &[u8], mark: &Mark) -> Result<(), Fault> {
        for (i, chunk) in bytes.chunks(UPLOAD).enumerate() {
            let to = part(to, (i * UPLOAD) as u64, chunk.len() as u64);
            let data = Bytes::from_bytes_vec(chunk.to_vec());
            guarded(|| self.client.write(&to, data)).map_err(Fault::failed)?;
            self.under_way += chunk.len() as u64;
            if self.under_way >= UNDER_WAY {
                settle(&self.client, &[to], mark)?;
                self.under_way = 0;
            }
        }
        Ok(())
    }

    /// Waits until the device has done everything.
    ///
    /// # Errors
    /// When something failed whose results are in the plan's memory, or the device is lost.
    pub(super) fn settle(&mut self, mark: &Mark) -> Result<(), Fault> {
        self.under_way = 0;
        settle(&self.client, &self.regions, mark)
    }
}

impl Drop for Memory {
    /// Gives the memory back now, not when the device is used next.
    fn drop(&mut self) {
        self.regions.clear();
        self.buffers.clear();
        self.weights.clear();
        if self.abandoned {
            return;
        }
        if let Err(problem) = guarded(|| self.client.memory_cleanup()) {
            tracing::debug!("memory was not returned to the device: {problem}");
        }
    }
}

/// Waits for the device, and then asks whether all work that should have written `handles` did.
fn settle(client: &Client, handles: &[Handle], mark: &Mark) -> Result<(), Fault> {
    let answer = guarded(|| client.sync_buffers(handles)).map_err(Fault::failed)?;
    wait(answer, mark)?;
    mark.check().map_err(Fault::failed)
}

/// A part of an allocation.
fn part(whole: &Handle, start: u64, bytes: u64) -> Handle {
    let rest = whole.size_in_used().saturating_sub(start + bytes);
    whole.clone().offset_start(start).offset_end(rest)
}

fn allocate(client: &Client, layout: &Layout) -> Result<Vec<Handle>, String> {
    let one = |&bytes: &u64| {
        let bytes = bytes.max(1).next_multiple_of(COPY_ALIGNMENT) as usize;
        guarded(|| client.memory_dedicated_allocation((), |()| client.empty(bytes)))
    };
    layout.blocks.iter().map(one).collect()
}

fn region(device: &Device, plan: &Plan, region: Region, limit: u64) -> Result<Layout, RuntimeError> {
    let items: Vec<(u64, u64)> =
        plan.buffers.iter().filter(|b| b.region == region).map(|b| (b.offset, b.bytes)).collect();
    Layout::of_region(&items, limit).map_err(|bytes| {
        let problem = format!(
            "{} in one piece, {} has buffers of at most {}; take a smaller clip or batch",
            human_bytes(bytes),
            device.info.name,
            human_bytes(limit)
        );
        RuntimeError::Memory { what: what(plan), bytes, problem }
    })
}

/// Refuses a plan that the device surely cannot hold.
fn check_room(device: &Device, plan: &Plan, bytes: u64) -> Result<(), RuntimeError> {
    if device.software {
        check_memory(plan)?;
    }
    let room =
        if device.software { crate::device::host_memory().available_bytes } else { device.info.memory.total_bytes };
    match room {
        Some(room) if bytes > room => Err(refused(device, plan, bytes, &format!("which has {}", human_bytes(room)))),
        _ => Ok(()),
    }
}

fn refused(device: &Device, plan: &Plan, bytes: u64, why: &str) -> RuntimeError {
    let problem = format!("more than {} can give: {why}; take a smaller clip or batch", device.info.name);
    RuntimeError::Memory { what: what(plan), bytes, problem }
}

fn what(plan: &Plan) -> String {
    format!("weights and buffers of task {}, clip {}", plan.about.task, plan.about.clip)
}

/// Refuses ports that the device cannot copy by themselves. Compiled plans have none: theirs are whole buffers.
fn check_ports(plan: &Plan, api: Api) -> Result<(), RuntimeError> {
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
                format!("has {bytes} bytes from byte {start} of its buffer on, {} copies words of 4", api.name());
            return Err(RuntimeError::input("plan", &port.name, problem));
        }
    }
    Ok(())
}
