//! One plan's streams, and everything that a plan asks of a CUDA device.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ccl_codegen::gpu::Ref;
use ccl_codegen::gpu::text::TensorMap;
use ccl_ir::{Binding, Plan};
use rayon::prelude::*;

use super::device::Open;
use super::driver::{Allocation, Pinned};
use super::flow::Flow;
use super::kernels::{self, Launch, Lowered};
use super::library::OfLaunch;
use super::stream::{Event, Graph, Stream};
use super::tensor_map::encode;
use crate::error::RuntimeError;
use crate::gpu::engine::{Bound, Engine, Facts, Steps};
use crate::gpu::fault::{Fault, Watch};
use crate::gpu::residency::Residency;
use crate::profile::Copies;
use crate::weights::WeightSource;

/// Bytes of a staging buffer. Tests take several.
const STAGE: usize = if cfg!(test) { 512 } else { 16 << 20 };
/// Staging buffers: one is filled while others are copied.
const STAGES: usize = 4;
/// Bytes that one thread copies to a staging buffer at a time.
const PIECE: usize = 1 << 20;

/// Bytes on the device.
#[derive(Clone)]
pub(crate) struct Span {
    memory: Arc<Allocation>,
    start: u64,
    bytes: u64,
}

impl Span {
    /// Where they are.
    pub(super) fn address(&self) -> u64 {
        self.memory.address() + self.start
    }
}

/// A staging buffer.
struct Stage {
    bytes: Pinned,
    /// The last copy from it is done.
    done: Event,
}

/// A device, for one plan.
pub(crate) struct CudaEngine {
    open: Arc<Open>,
    facts: Facts,
    /// For calls and small copies, and for weights that come while calls run.
    streams: [Stream; 2],
    /// Staging buffers, the one that was used longest ago first.
    stages: Mutex<Vec<Stage>>,
}

impl CudaEngine {
    /// New streams on a device.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn new(open: Arc<Open>, facts: Facts) -> Result<Self, Fault> {
        let streams = [Stream::new(&open.context)?, Stream::new(&open.context)?];
        Ok(Self { open, facts, streams, stages: Mutex::default() })
    }

    fn compute(&self) -> &Stream {
        &self.streams[0]
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A staging buffer that nothing is copied from.
    fn stage(&self, stages: &mut Vec<Stage>, watch: &Watch) -> Result<Stage, Fault> {
        if let Some(oldest) = stages.first() {
            let free = oldest.done.has_come()?;
            if free || stages.len() >= STAGES {
                oldest.done.settle(watch)?;
                return Ok(stages.remove(0));
            }
        }
        Ok(Stage { bytes: Pinned::new(&self.open.context, STAGE)?, done: Event::plain(&self.open.context)? })
    }
}

/// Copies bytes on many threads: reading a mapped file is slow on one.
pub(super) fn fill(to: &mut [u8], from: &[u8]) {
    if from.len() <= PIECE {
        return to.copy_from_slice(from);
    }
    to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
}

impl Engine for CudaEngine {
    type Span = Span;
    type Bytes = Vec<u8>;
    type Lowered = Lowered;
    type Launch = Launch;
    type Graph = Graph;
    type Window = Event;
    type Timed = [Event; 2];
    type Flow = Flow;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn same_device(&self, other: &Self) -> bool {
        self.open.index == other.open.index
    }

    fn watch(&self, work: Duration) -> Watch {
        Watch::over(work, 0)
    }

    fn lower(&self, plan: &Plan) -> Result<Lowered, RuntimeError> {
        kernels::lower(plan, &self.facts)
    }

    fn ready(&self, plan: &Plan, lowered: Lowered) -> Result<Steps<Launch>, RuntimeError> {
        kernels::ready(plan, &self.open, lowered)
    }

    fn allocate(&self, bytes: u64) -> Result<Span, Fault> {
        Ok(Span { memory: Arc::new(Allocation::new(&self.open.context, bytes)?), start: 0, bytes })
    }

    fn part(whole: &Span, start: u64, bytes: u64) -> Span {
        Span { memory: Arc::clone(&whole.memory), start: whole.start + start, bytes }
    }

    fn bytes(span: &Span) -> u64 {
        span.bytes
    }

    /// By way of pinned memory, which is given back to the ring when the device has copied from it.
    fn upload(&self, to: &Span, bytes: &[u8], watch: &Watch) -> Result<(), Fault> {
        self.open.context.enter()?;
        let mut stages = self.stages();
        for (i, chunk) in bytes.chunks(STAGE).enumerate() {
            let mut stage = self.stage(&mut stages, watch)?;
            fill(&mut stage.bytes.bytes()[..chunk.len()], chunk);
            let at = to.address() + (i * STAGE) as u64;
            // SAFETY: the span has as many bytes as are copied, by its maker; the stage is not touched before `done` has come, and the
            // owner of the spans waits for the stream before it lets go of them and of this engine.
            unsafe { stage.bytes.copy(at, chunk.len(), self.compute()) }?;
            stage.done.mark(self.compute())?;
            stages.push(stage);
        }
        Ok(())
    }

    fn download(&self, from: &Span, watch: &Watch) -> Result<Vec<u8>, Fault> {
        // First the work that writes it: only that can keep the device.
        self.compute().settle(watch)?;
        let mut bytes = vec![0; from.bytes as usize];
        // SAFETY: the span is as long as the bytes, and the work that writes it is done.
        unsafe { cudarc::driver::result::memcpy_dtoh_sync(&mut bytes, from.address()) }
            .map_err(|e| super::driver::fault("a copy from the device", e))?;
        Ok(bytes)
    }

    fn settle(&self, _: &[Span], watch: &Watch) -> Result<(), Fault> {
        // Copies too: after a failure nothing may wait for them.
        self.streams.iter().try_for_each(|stream| stream.settle(watch))
    }

    unsafe fn launch(&self, launch: &Launch, buffer: &dyn Fn(Ref) -> Bound<Span>) -> Result<(), Fault> {
        self.open.context.enter()?;
        let bound: Vec<Bound<Span>> = launch.buffers.iter().map(|&r| buffer(r)).collect();
        let mut addresses: Vec<u64> = bound.iter().map(|b| b.span.address()).collect();
        if let Some(product) = &launch.library {
            let settle = || self.compute().settle(&self.watch(Duration::ZERO));
            // SAFETY: the caller's promise: the product reaches what the kernel does. A plan's calls go to this stream, and constants stay as they are.
            if unsafe { product.run(&addresses, self.compute(), settle) }? {
                return Ok(());
            }
        }
        let elements: Vec<u64> = bound.iter().map(|b| b.elements).collect();
        let mut info = launch.ready.arguments.info(&launch.sizes, &elements).map_err(Fault::failed)?;
        let of = |map: &TensorMap| encode(map, addresses.get(map.buffer).copied().unwrap_or_default(), &launch.sizes);
        let mut maps = launch.ready.maps.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let mut arguments: Vec<*mut c_void> = addresses.iter_mut().map(|a| std::ptr::from_mut(a).cast()).collect();
        arguments.extend(maps.iter_mut().map(|map| std::ptr::from_mut(map).cast::<c_void>()));
        arguments.push(info.as_mut_ptr().cast());
        // SAFETY: pointers, descriptions and a struct, as many and as large as the kernel's text says; the driver copies them before it returns. What
        // they point to is the caller's promise.
        unsafe { self.compute().launch(&launch.ready.kernel, launch.cubes, &mut arguments) }
    }

    fn by_library(launch: &Launch) -> bool {
        launch.library.as_ref().is_some_and(OfLaunch::is_done)
    }

    fn check(&self, _: Vec<Span>, watch: &Watch) -> Result<(), Fault> {
        self.compute().settle(watch)
    }

    fn begin(&self, _: &[Span], _: &Watch) -> Result<Event, Fault> {
        let event = Event::timed(&self.open.context)?;
        event.mark(self.compute())?;
        Ok(event)
    }

    fn end(&self, from: Event, written: &[Span], watch: &Watch) -> Result<[Event; 2], Fault> {
        Ok([from, self.begin(written, watch)?])
    }

    fn seconds(&self, [from, to]: [Event; 2], _: &Watch) -> Result<f64, Fault> {
        from.seconds_to(&to)
    }

    fn record(&self, launches: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Option<Graph>, Fault> {
        self.compute().record(launches).map(Some)
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<(), Fault> {
        self.compute().replay(graph)
    }

    fn flow(
        &self,
        plan: &Plan,
        residency: &Residency,
        slots: &[Span],
        source: &dyn WeightSource,
    ) -> Result<Flow, RuntimeError> {
        Flow::new(&self.open.context, plan, residency, slots, source)
    }

    fn flow_begin(&self, flow: &Flow, entry: Binding, timed: bool) -> Result<(), Fault> {
        self.open.context.enter()?;
        flow.begin(entry, timed, &self.streams)
    }

    fn flow_before(&self, flow: &Flow, entry: Binding, index: usize) -> Result<(), Fault> {
        flow.before(entry, index, &self.streams)
    }

    fn flow_after(&self, flow: &Flow, entry: Binding, index: usize) -> Result<(), Fault> {
        flow.after(entry, index, &self.streams)
    }

    fn flow_copies(&self, flow: &Flow, entry: Binding) -> Result<Copies, Fault> {
        flow.took(entry)
    }

    fn abandon(&self) {
        self.open.context.lose();
    }
}
