//! Vulkan, Metal and DirectX 12, through wgpu and CubeCL's client.
//!
//! A device's work runs on a thread of CubeCL's own, where what goes wrong is easily lost: see [`watch`].

mod clock;
pub(crate) mod find;
mod graph;
mod lane;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ccl_codegen::gpu::{Launch, Lowered, Ref, Target, lower_in, run};
use ccl_ir::Plan;
use cubecl::bytes::Bytes;
use cubecl::client::{Client, Graph};
use cubecl::prelude::BufferArg;
use cubecl::server::Handle;

use crate::error::RuntimeError;
use crate::gpu::engine::{Bound, Engine, Facts, Step, Steps};
use crate::gpu::fault::{Fault, Watch};
use crate::gpu::instance::faults::failed;
use crate::gpu::residency::Residency;
use crate::profile::Clock;
use crate::tuned;
use crate::weights::WeightSource;
use clock::{Timed, Window};
use find::Adapter;
use lane::Lane;
use watch::{answer, check, guarded, wait};

/// Most bytes of one upload: the driver copies them once more before they reach the device. Tests take several.
const UPLOAD: usize = if cfg!(test) { 512 } else { 64 << 20 };
/// Uploads under way, in bytes, before the device is waited for.
const UNDER_WAY: u64 = 4 * UPLOAD as u64;
/// What wgpu wants of the first byte and the length of a copy.
const COPY_ALIGNMENT: u64 = 4;

/// An adapter of wgpu that is ready.
#[derive(Clone)]
pub(crate) struct WgpuEngine {
    /// CubeCL's name of it.
    id: cubecl::Device,
    client: Client,
    /// The stream of the client, where the engine is an instance's.
    lane: Option<Arc<Lane>>,
    /// Bytes of uploads since the device was last waited for.
    under_way: Arc<AtomicU64>,
    pub facts: Facts,
}

impl WgpuEngine {
    /// Opens an adapter.
    ///
    /// # Errors
    /// When its driver refuses.
    pub(crate) fn open(adapter: &Adapter) -> Result<Self, RuntimeError> {
        find::open(adapter).map(|(id, client, facts)| Self { id, client, lane: None, under_way: Arc::default(), facts })
    }

    /// An engine for one instance, on a stream of its own.
    pub(crate) fn engine(&self) -> Self {
        let lane = Lane::take(&self.id);
        let mut client = self.client.clone();
        // SAFETY: launches, copies and reads are ordered behind what the streams were asked for that own their memory; replays are not, and instances
        // that share memory wait at the end of their turns.
        unsafe { client.set_stream(lane.stream()) };
        Self { client, lane: Some(Arc::new(lane)), under_way: Arc::default(), ..self.clone() }
    }

    /// What its work is timed by.
    pub(crate) fn clock(&self) -> Clock {
        clock::clock_of(&self.client)
    }
}

impl Engine for WgpuEngine {
    type Span = Handle;
    type Bytes = Bytes;
    type Lowered = Steps<Launch>;
    type Launch = Launch;
    type Graph = Graph;
    type Window = Window;
    type Timed = Timed;
    type Flow = ();

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn same_device(&self, other: &Self) -> bool {
        self.id == other.id
    }

    fn watch(&self, work: Duration) -> Watch {
        watch::watch(work)
    }

    fn lower(&self, plan: &Plan) -> Result<Self::Lowered, RuntimeError> {
        let mut target = self.facts.target.clone();
        // Kernels are made for the device at hand. Of those that the plan carries the choice of tiles counts, before what was measured on the device.
        if let Some(carried) = plan
            .kernels
            .as_ref()
            .filter(|k| Target::from_name(&k.target).is_some_and(|t| t.language == target.language))
        {
            target.choices.replace(tuned::carried(&carried.choices, &target));
        }
        let mut steps = Steps::new();
        for (&entry, calls) in &plan.entries {
            let calls = calls.iter().map(|call| match lower_in(plan, call, &target) {
                Ok(Lowered::Host) => Ok(Step::Host),
                Ok(Lowered::Device(launches)) => Ok(Step::Device(launches)),
                Err(e) => Err(failed(entry, call, e.problem)),
            });
            steps.insert(entry, calls.collect::<Result<_, _>>()?);
        }
        Ok(steps)
    }

    /// CubeCL compiles a kernel when it is launched for the first time.
    fn ready(&self, _: &Plan, lowered: Self::Lowered) -> Result<Steps<Launch>, RuntimeError> {
        Ok(lowered)
    }

    fn allocate(&self, bytes: u64) -> Result<Handle, Fault> {
        let bytes = bytes.max(1).next_multiple_of(COPY_ALIGNMENT) as usize;
        let empty = || self.client.memory_dedicated_allocation((), |()| self.client.empty(bytes));
        // CubeCL says how to allocate to the stream of the thread, not to that of the client.
        let on_lane = || self.lane.as_ref().map_or_else(empty, |lane| lane.stream().executes(empty));
        guarded(on_lane).map_err(Fault::failed)
    }

    fn part(whole: &Handle, start: u64, bytes: u64) -> Handle {
        let rest = whole.size_in_used().saturating_sub(start + bytes);
        whole.clone().offset_start(start).offset_end(rest)
    }

    fn bytes(span: &Handle) -> u64 {
        span.size_in_used()
    }

    fn upload(&self, to: &Handle, bytes: &[u8], watch: &Watch) -> Result<(), Fault> {
        for (i, chunk) in bytes.chunks(UPLOAD).enumerate() {
            let to = Self::part(to, (i * UPLOAD) as u64, chunk.len() as u64);
            let data = Bytes::from_bytes_vec(chunk.to_vec());
            guarded(|| self.client.write(&to, data)).map_err(Fault::failed)?;
            let under_way = self.under_way.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if under_way >= UNDER_WAY {
                self.settle(&[to], watch)?;
            }
        }
        Ok(())
    }

    fn download(&self, from: &Handle, watch: &Watch) -> Result<Bytes, Fault> {
        let want = from.size_in_used() as usize;
        // First the work that writes it: only that can keep the device.
        self.settle(std::slice::from_ref(from), watch)?;
        let read = guarded(|| self.client.read_async(vec![from.clone()])).map_err(Fault::failed)?;
        let read = answer(read, watch)?.pop().filter(|b| b.len() == want);
        read.ok_or_else(|| Fault::failed("a read returned another number of bytes than asked for"))
    }

    /// Waits for the device, and then asks whether all work that should have written did.
    fn settle(&self, written: &[Handle], watch: &Watch) -> Result<(), Fault> {
        self.under_way.store(0, Ordering::Relaxed);
        let answer = guarded(|| self.client.sync_buffers(written)).map_err(Fault::failed)?;
        wait(answer, watch)?;
        check(watch).map_err(Fault::failed)
    }

    unsafe fn launch(&self, launch: &Launch, buffer: &dyn Fn(Ref) -> Bound<Handle>) -> Result<(), Fault> {
        let buffer = |r: Ref| {
            let Bound { span, elements } = buffer(r);
            // SAFETY: the caller's promise.
            unsafe { BufferArg::from_raw_parts(span, elements as usize) }
        };
        // SAFETY: the caller's promise.
        guarded(|| unsafe { run::launch(&self.client, launch, &buffer) }).map_err(Fault::failed)
    }

    fn check(&self, outputs: Vec<Handle>, watch: &Watch) -> Result<(), Fault> {
        let outputs = outputs.iter().collect::<Vec<_>>();
        guarded(|| self.client.check(outputs)).map_err(Fault::failed)?.map_err(|e| watch::fault(&e))?;
        check(watch).map_err(Fault::failed)
    }

    fn begin(&self, written: &[Handle], watch: &Watch) -> Result<Window, Fault> {
        if self.clock() == Clock::Host {
            self.settle(written, watch)?;
        }
        clock::begin(&self.client)
    }

    fn end(&self, window: Window, written: &[Handle], watch: &Watch) -> Result<Timed, Fault> {
        if self.clock() == Clock::Host {
            self.settle(written, watch)?;
        }
        clock::end(window)
    }

    fn seconds(&self, timed: Timed, watch: &Watch) -> Result<f64, Fault> {
        clock::seconds(timed, watch)
    }

    fn record(&self, launches: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Option<Graph>, Fault> {
        let alone = self.lane.as_ref().map(|lane| lane.alone()).filter(|alone| !alone.shared());
        alone.map(|_alone| graph::record(&self.client, launches)).transpose()
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe { graph::replay(graph) }
    }

    fn flow(&self, _: &Plan, _: &Residency, _: &[Handle], _: &dyn WeightSource) -> Result<(), RuntimeError> {
        let problem = "wgpu keeps all weights on the device".to_owned();
        Err(RuntimeError::Backend { backend: self.facts.api.name(), problem })
    }

    fn give_back(&self) {
        // CubeCL gives nothing back while some stream records.
        let _alone = self.lane.as_ref().map(|lane| lane.alone());
        let given =
            guarded(|| self.client.memory_cleanup()).and_then(|done| done.map_err(|e| watch::fault(&e).problem));
        if let Err(problem) = given {
            tracing::debug!("memory was not returned to the device: {problem}");
        }
    }
}
