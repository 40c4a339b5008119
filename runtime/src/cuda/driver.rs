//! The CUDA driver API, as far as it is used: each object gives itself back, each failure is a [`Fault`].
//!
//! Objects belong to a [`Context`] and keep it. A context that is lost is asked for nothing more, not even to free memory: it might
//! never answer.

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use crate::error::one_line;
use crate::gpu::fault::{Fault, Watch};

/// How long a wait asks again and again before it sleeps between questions: as long as a step of a small model takes.
const EAGER: Duration = Duration::from_millis(2);
/// Sleep between questions.
const NAP: Duration = Duration::from_micros(50);

/// Words a driver's error.
pub(super) fn fault(what: &str, error: DriverError) -> Fault {
    let text = |t: Result<&std::ffi::CStr, DriverError>| t.ok().map(|t| t.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("error {}", error.0 as u32));
    let meaning = text(error.error_string()).map(|t| format!(", {t}")).unwrap_or_default();
    Fault { problem: one_line(&format!("{what}: {name}{meaning}")), lost: is_lost(error.0) }
}

/// Whether a context is of no use after an error.
fn is_lost(code: CUresult) -> bool {
    use CUresult::*;
    matches!(
        code,
        CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_UNKNOWN
    )
}

/// A device's primary context.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    lost: AtomicBool,
}

// SAFETY: contexts may be used from any thread that has made them current.
unsafe impl Send for Context {}
// SAFETY: the driver orders calls itself.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the primary context of the device of this number.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn new(index: i32) -> Result<Arc<Self>, Fault> {
        let device = result::device::get(index).map_err(|e| fault("no device", e))?;
        // SAFETY: the device was found by the driver; the context is released once, in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| fault("no context", e))?;
        Ok(Arc::new(Self { device, context, lost: AtomicBool::new(false) }))
    }

    /// Makes the context this thread's.
    ///
    /// # Errors
    /// When it is lost.
    pub(super) fn enter(&self) -> Result<(), Fault> {
        if self.is_lost() {
            return Err(Fault { problem: "it was lost before".into(), lost: true });
        }
        // SAFETY: retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| fault("the context is not to be had", e))
    }

    /// Asks the device for nothing more.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Frees something, unless the context is lost.
    fn free(&self, what: &str, free: impl FnOnce() -> Result<(), DriverError>) {
        if self.enter().is_err() {
            return;
        }
        if let Err(e) = free() {
            tracing::debug!("{what} was not given back: {}", fault("freeing", e).problem);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.is_lost() {
            // SAFETY: retained in `new`, and nothing that belongs to it is left: all of it keeps the context.
            if let Err(e) = unsafe { result::primary_ctx::release(self.device) } {
                tracing::debug!("a context was not released: {e:?}");
            }
        }
    }
}

/// Device memory.
pub(super) struct Allocation {
    context: Arc<Context>,
    at: sys::CUdeviceptr,
}

impl Allocation {
    /// So many bytes, whatever is in them.
    ///
    /// # Errors
    /// When there is no room.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<Self, Fault> {
        context.enter()?;
        // SAFETY: freed once, in `drop`; nothing reads it before something was written, by the plans' check.
        let at = unsafe { result::malloc_sync(bytes.max(1) as usize) };
        let at = at.map_err(|e| fault(&format!("{bytes} bytes cannot be allocated"), e))?;
        Ok(Self { context: Arc::clone(context), at })
    }

    /// Where it is.
    pub(super) fn address(&self) -> u64 {
        self.at
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; whoever launches work on it waits for that work before it lets go of it.
        self.context.free("memory", || unsafe { result::free_sync(self.at) });
    }
}

/// Memory of the host that the device copies from without help.
pub(super) struct Pinned {
    context: Arc<Context>,
    at: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory that nothing else refers to.
unsafe impl Send for Pinned {}
// SAFETY: it is written through `&mut` only.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// So many bytes.
    ///
    /// # Errors
    /// When the host has no room.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Fault> {
        context.enter()?;
        // SAFETY: freed once, in `drop`.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) };
        let at = at.map_err(|e| fault(&format!("{bytes} bytes of the host's memory cannot be pinned"), e))?;
        Ok(Self { context: Arc::clone(context), at, bytes })
    }

    /// The bytes, to write.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated in `new`; the system gives zeros or what was there before, any of which is a byte.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.bytes) }
    }

    /// Starts a copy of the first bytes to the device.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Safety
    /// Nothing writes the bytes and nothing frees either side until the stream has done the copy; the target has room.
    pub(super) unsafe fn copy(&self, to: u64, bytes: usize, stream: &Stream) -> Result<(), Fault> {
        // SAFETY: allocated in `new`, and as many bytes as it has at most.
        let from = unsafe { std::slice::from_raw_parts(self.at.cast::<u8>(), bytes.min(self.bytes)) };
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(to, from, stream.at) }.map_err(|e| fault("a copy to the device", e))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; copies from it are waited for before.
        self.context.free("pinned memory", || unsafe { result::free_host(self.at) });
    }
}

/// An order of work.
pub(super) struct Stream {
    context: Arc<Context>,
    at: sys::CUstream,
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
        Ok(Self { context: Arc::clone(context), at })
    }

    /// Lets what comes later wait for an event.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), Fault> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(self.at, event.at, flags) }.map_err(|e| fault("waiting for an event", e))
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

    /// Launches a kernel.
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
        let [x, y, z] = cubes;
        let [ux, uy, uz] = kernel.units;
        // SAFETY: the caller's promise; the function is alive.
        unsafe {
            result::launch_kernel(kernel.function, (x, y, z), (ux, uy, uz), kernel.shared_bytes, self.at, arguments)
        }
        .map_err(|e| fault("the launch is refused", e))
    }

    /// Records what `work` asks of this stream, and of others that wait for it, instead of doing it.
    ///
    /// # Errors
    /// That of `work`, or the driver's.
    pub(super) fn record(&self, work: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Graph, Fault> {
        self.context.enter()?;
        // Other threads may allocate meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let word = |e| fault("the step cannot be recorded", e);
        // SAFETY: the stream is alive, and the recording is ended below.
        unsafe { result::stream::begin_capture(self.at, mode) }.map_err(word)?;
        let done = work();
        // SAFETY: begun above.
        let ended = unsafe { result::stream::end_capture(self.at) };
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
        unsafe { result::graph::launch(graph.at, self.at) }.map_err(|e| fault("the recorded step", e))
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
        unsafe { result::event::record(self.at, stream.at) }.map_err(|e| fault("marking an event", e))
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

/// A kernel on a device.
pub(super) struct Kernel {
    context: Arc<Context>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    units: [u32; 3],
    shared_bytes: u32,
}

// SAFETY: functions may be launched from any thread whose context is theirs.
unsafe impl Send for Kernel {}
// SAFETY: it never changes.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Loads machine code, or PTX with a zero at its end, and finds the function `name` in it.
    ///
    /// # Errors
    /// When the driver does not take it, or the device has less shared memory.
    pub(super) fn load(
        context: &Arc<Context>,
        code: &[u8],
        name: &str,
        units: [u32; 3],
        shared_bytes: u32,
    ) -> Result<Self, Fault> {
        context.enter()?;
        // SAFETY: the code is whole: an ELF file says its own size, and PTX ends with a zero.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = module.map_err(|e| fault("the driver does not load it", e))?;
        let name = CString::new(name).map_err(|_| Fault::failed("its name has a zero"))?;
        // SAFETY: loaded above.
        let function = unsafe { result::module::get_function(module, name) };
        let mut kernel =
            Self { context: Arc::clone(context), module, function: std::ptr::null_mut(), units, shared_bytes };
        kernel.function = function.map_err(|e| fault("it has no entry", e))?;
        if shared_bytes > 0 {
            let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: found above.
            unsafe { result::function::set_function_attribute(kernel.function, what, bytes) }
                .map_err(|e| fault(&format!("it asks for {shared_bytes} bytes of shared memory"), e))?;
        }
        Ok(kernel)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded in `load`; instances wait for their launches before they let go of kernels.
        self.context.free("a kernel", || unsafe { result::module::unload(self.module) });
    }
}
