//! Streams, what is recorded of them, and moments in them.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::driver::{Context, Kernel, fault};
use crate::gpu::fault::{Fault, Watch};

/// How long a wait asks again and again before it sleeps between questions: as long as a step of a small model takes.
const EAGER: Duration = Duration::from_millis(2);
/// Sleep between questions.
const NAP: Duration = Duration::from_micros(50);

/// An order of work.
pub(super) struct Stream {
    context: Arc<Context>,
    at: sys::CUstream,
    /// Kernels that wait for earlier ones themselves may begin while those run.
    overlap: AtomicBool,
    /// The last work is a kernel.
    behind: AtomicBool,
    /// Since the last recording was begun a kernel was to begin early.
    early: AtomicBool,
    /// Work is recorded, not done.
    recording: AtomicBool,
}

// SAFETY: streams may be used from any thread whose context is theirs.
unsafe impl Send for Stream {}
// SAFETY: the driver orders calls itself.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of its own, which waits for no other.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, Fault> {
        context.enter()?;
        let at = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(|e| fault("no stream", e))?;
        let [behind, early, recording] = [(); 3].map(|()| AtomicBool::new(false));
        let overlap = AtomicBool::new(std::env::var_os("CCL_OVERLAP").is_none_or(|word| word != "0"));
        Ok(Self { context: Arc::clone(context), at, overlap, behind, early, recording })
    }

    /// The driver's name of it, for work that is no kernel of ours.
    pub(super) fn handle(&self) -> sys::CUstream {
        self.behind.store(false, Relaxed);
        self.at
    }

    /// Lets what comes later wait for an event.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), Fault> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(self.handle(), event.at, flags) }
            .map_err(|e| fault("waiting for an event", e))
    }

    /// Waits until everything is done, but not longer than the watch has patience.
    ///
    /// # Errors
    /// When something failed, or the device does not answer.
    pub(super) fn settle(&self, watch: &Watch) -> Result<(), Fault> {
        self.context.enter()?;
        // SAFETY: the stream is alive.
        wait(watch, || unsafe { sys::cuStreamQuery(self.at) })
    }

    /// Launches a kernel: behind another one so that it may begin while that runs, where it waits for it itself.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// `arguments` points to the kernel's arguments, in their order and of their types, and what they point to is alive and large enough.
    pub(super) unsafe fn launch(
        &self,
        kernel: &Kernel,
        cubes: [u32; 3],
        arguments: &mut [*mut c_void],
    ) -> Result<(), Fault> {
        if let Some(spread) = &kernel.early
            && self.behind.load(Relaxed)
            && self.overlap.load(Relaxed)
        {
            self.early.store(true, Relaxed);
            let shared = spread.shared(cubes, kernel.shared_bytes);
            // SAFETY: the caller's promise.
            let code = unsafe { self.launch_early(kernel, cubes, shared, arguments) };
            if code == CUresult::CUDA_SUCCESS {
                return Ok(());
            }
            let refused = fault("a launch behind another kernel is refused", DriverError(code));
            if refused.lost || self.recording.load(Relaxed) {
                return Err(refused);
            }
            self.overlap.store(false, Relaxed);
            tracing::warn!("each kernel waits for the end of the last from here on: {}", refused.problem);
        }
        let [x, y, z] = cubes;
        let [ux, uy, uz] = kernel.units;
        // SAFETY: the caller's promise; the function is alive.
        unsafe {
            result::launch_kernel(kernel.function, (x, y, z), (ux, uy, uz), kernel.shared_bytes, self.at, arguments)
        }
        .map_err(|e| fault("the launch is refused", e))?;
        self.behind.store(true, Relaxed);
        Ok(())
    }

    /// Launches a kernel that may begin before the last one has ended (programmatic dependent launch).
    ///
    /// # Safety
    /// As for [`Stream::launch`], and the kernel waits for earlier ones before it touches memory and before it ends.
    unsafe fn launch_early(
        &self,
        kernel: &Kernel,
        cubes: [u32; 3],
        shared: u32,
        arguments: &mut [*mut c_void],
    ) -> CUresult {
        let ([x, y, z], [ux, uy, uz]) = (cubes, kernel.units);
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: ux,
            blockDimY: uy,
            blockDimZ: uz,
            sharedMemBytes: shared,
            hStream: self.at,
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // SAFETY: the caller's promise; the function is alive, and the attribute is read before the call returns.
        unsafe {
            sys::cuLaunchKernelEx(&raw const config, kernel.function, arguments.as_mut_ptr(), std::ptr::null_mut())
        }
    }

    /// Records what `work` asks of this stream, and of others that wait for it, instead of doing it. Where that fails it is tried
    /// again, in the end without kernels that may begin early.
    ///
    /// # Errors
    /// That of `work`, or the driver's.
    pub(super) fn record(&self, work: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Graph, Fault> {
        self.early.store(false, Relaxed);
        let fault = match self.capture(work) {
            Err(fault) if !fault.lost => fault,
            done => return done,
        };
        // A product of the library's that failed is a kernel's now.
        let again = self.capture(work);
        if again.is_ok() || !self.early.load(Relaxed) {
            return again;
        }
        self.overlap.store(false, Relaxed);
        let apart = self.capture(work);
        match &apart {
            Ok(_) => tracing::warn!("each kernel waits for the end of the last from here on: {}", fault.problem),
            // It was something else.
            Err(_) => self.overlap.store(true, Relaxed),
        }
        apart
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Graph, Fault> {
        self.context.enter()?;
        // Other threads may allocate meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let word = |e| fault("the step cannot be recorded", e);
        // SAFETY: the stream is alive, and the recording is ended below.
        unsafe { result::stream::begin_capture(self.handle(), mode) }.map_err(word)?;
        self.recording.store(true, Relaxed);
        let done = work();
        self.recording.store(false, Relaxed);
        // SAFETY: begun above.
        let ended = unsafe { result::stream::end_capture(self.handle()) };
        let graph = match (done, ended) {
            (Ok(()), Ok(graph)) if !graph.is_null() => graph,
            (Ok(()), Ok(_)) => return Err(Fault::failed("the step cannot be recorded: nothing came of it")),
            (Ok(()), Err(e)) => return Err(word(e)),
            (Err(fault), ended) => {
                if let Ok(graph) = ended.as_ref().copied()
                    && !graph.is_null()
                {
                    // SAFETY: made above, and given to nobody.
                    let _ = unsafe { result::graph::destroy(graph) };
                }
                return Err(fault);
            }
        };
        // SAFETY: made above.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: made above; what was instantiated does not need it any more.
        let _ = unsafe { result::graph::destroy(graph) };
        Ok(Graph { context: Arc::clone(&self.context), at: made.map_err(word)? })
    }

    /// Does what was recorded.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn replay(&self, graph: &Graph) -> Result<(), Fault> {
        self.context.enter()?;
        // SAFETY: both are alive.
        unsafe { result::graph::launch(graph.at, self.handle()) }.map_err(|e| fault("the recorded step", e))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        self.context.free("a stream", || unsafe { result::stream::destroy(self.at) });
    }
}

/// Recorded work, ready to be done again and again.
pub(crate) struct Graph {
    context: Arc<Context>,
    at: sys::CUgraphExec,
}

// SAFETY: used by one thread at a time: it belongs to an instance.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `Stream::record`.
        self.context.free("a graph", || unsafe { result::graph::exec_destroy(self.at) });
    }
}

/// A moment in a stream.
pub(crate) struct Event {
    context: Arc<Context>,
    at: sys::CUevent,
}

// SAFETY: events may be used from any thread whose context is theirs.
unsafe impl Send for Event {}
// SAFETY: the driver orders calls itself.
unsafe impl Sync for Event {}

impl Event {
    /// An event that tells the time.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn timed(context: &Arc<Context>) -> Result<Self, Fault> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// An event that only orders work.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn plain(context: &Arc<Context>) -> Result<Self, Fault> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn new(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Self, Fault> {
        context.enter()?;
        let at = result::event::create(flags).map_err(|e| fault("no event", e))?;
        Ok(Self { context: Arc::clone(context), at })
    }

    /// Marks the moment when a stream has done what it was asked for so far.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn mark(&self, stream: &Stream) -> Result<(), Fault> {
        // SAFETY: both are alive.
        unsafe { result::event::record(self.at, stream.handle()) }.map_err(|e| fault("marking an event", e))
    }

    /// Whether the moment has come.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn has_come(&self) -> Result<bool, Fault> {
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(self.at) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => Err(fault("the device", DriverError(code))),
        }
    }

    /// Waits for the moment.
    ///
    /// # Errors
    /// When the device failed or does not answer.
    pub(super) fn settle(&self, watch: &Watch) -> Result<(), Fault> {
        // SAFETY: the event is alive.
        wait(watch, || unsafe { sys::cuEventQuery(self.at) })
    }

    /// Seconds from this moment to another, both of which have come.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn seconds_to(&self, later: &Self) -> Result<f64, Fault> {
        let mut milliseconds = 0.0;
        let elapsed = elapsed().ok_or_else(|| Fault::failed("the driver measures no time"))?;
        // SAFETY: both are alive, and there is a number to write to.
        let code = unsafe { elapsed(&raw mut milliseconds, self.at, later.at) };
        code.result().map_err(|e| fault("no time", e))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        self.context.free("an event", || unsafe { result::event::destroy(self.at) });
    }
}

type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;

/// The driver's function for the time between two events. Bindings of one version of CUDA name one of these, drivers of others have
/// the other.
fn elapsed() -> Option<Elapsed> {
    static ELAPSED: OnceLock<Option<Elapsed>> = OnceLock::new();
    *ELAPSED.get_or_init(|| {
        // SAFETY: the driver was loaded before there were events, and stays loaded.
        let driver = unsafe { sys::culib() };
        let names: [&[u8]; 2] = [b"cuEventElapsedTime\0", b"cuEventElapsedTime_v2\0"];
        // SAFETY: the signature is that of cuda.h for both.
        names.into_iter().find_map(|name| unsafe { driver.get::<Elapsed>(name) }.ok().map(|f| *f))
    })
}

/// Asks until something is ready.
fn wait(watch: &Watch, ask: impl Fn() -> CUresult) -> Result<(), Fault> {
    let begin = Instant::now();
    loop {
        match ask() {
            CUresult::CUDA_SUCCESS => return Ok(()),
            CUresult::CUDA_ERROR_NOT_READY => {}
            code => return Err(fault("the device", DriverError(code))),
        }
        let waited = begin.elapsed();
        if waited > watch.patience {
            return Err(Fault::silent(watch));
        }
        if waited < EAGER { std::thread::yield_now() } else { std::thread::sleep(NAP) }
    }
}
