//! What the driver knows: streams with their queues, events, modules, graphs and pinned memory.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::c_uint;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::Instant;

use super::task::Task;
use super::{
    CAPTURE_UNSUPPORTED, Code, ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED,
    MISALIGNED_ADDRESS, NOT_INITIALIZED, NOT_READY, Outcome,
};
use crate::error::FaultKind;
use crate::memory::Memory;
use crate::module::Module;

/// Bytes of device memory.
pub(crate) const TOTAL_MEMORY: u64 = 8 << 30;
/// The handle of the only context.
pub(crate) const CONTEXT: usize = 0x50f7;

/// A queue.
#[derive(Default)]
pub(crate) struct Stream {
    pub queue: VecDeque<Task>,
    /// Tasks that were ever queued, and that have run.
    pub queued: u64,
    pub done: u64,
    /// Doesn't order itself with the null stream.
    pub free_running: bool,
    pub priority: i32,
    /// The capture that its work goes to.
    pub capture: Option<usize>,
    /// Its last work is a kernel of the program's own.
    pub after_kernel: bool,
}

/// An event.
#[derive(Default)]
pub(crate) struct Event {
    /// Counts recordings: only the last one matters.
    pub generation: u64,
    pub finished: u64,
    /// Stream and position of the last recording.
    pub at: Option<(usize, u64)>,
    pub time: Option<Instant>,
    /// The capture that it was recorded in.
    pub capture: Option<usize>,
}

/// A kernel's handle.
pub(crate) struct Function {
    pub module: Arc<Module>,
    pub name: Arc<str>,
    /// What `MAX_DYNAMIC_SHARED_SIZE_BYTES` was set to.
    pub dynamic_limit: u32,
}

/// Work that is captured instead of run.
pub(crate) struct Capture {
    /// The stream that it began with.
    pub origin: usize,
    pub tasks: Vec<Task>,
    /// `CUstreamCaptureMode`: 0 is global, 1 of its thread alone, 2 relaxed.
    pub mode: c_uint,
    pub thread: ThreadId,
    /// A call that it does not allow has ended it.
    pub broken: bool,
}

/// Everything behind the lock.
pub(crate) struct State {
    pub initialised: bool,
    /// The code that every call returns after a kernel failed.
    pub failed: Option<Code>,
    pub memory: Memory,
    pub streams: BTreeMap<usize, Stream>,
    pub events: HashMap<usize, Event>,
    pub modules: HashMap<usize, Arc<Module>>,
    pub functions: HashMap<usize, Function>,
    pub captures: HashMap<usize, Capture>,
    pub graphs: HashMap<usize, Vec<(usize, Task)>>,
    pub executables: HashMap<usize, Vec<Task>>,
    /// What cuBLASLt made.
    pub blas: HashMap<usize, super::blas::Object>,
    /// Begin and end of pinned host memory; the layout of what was allocated here.
    pub pinned: BTreeMap<u64, (u64, Option<std::alloc::Layout>)>,
    next: usize,
}

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The context that is current in this thread.
pub(crate) fn current() -> usize {
    CURRENT.with(Cell::get)
}

/// Makes a context current in this thread.
pub(crate) fn set_current(context: usize) {
    CURRENT.with(|c| c.set(context));
}

/// Locks the state without any check.
pub(crate) fn lock() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let state = STATE.get_or_init(|| {
        Mutex::new(State {
            initialised: false,
            failed: None,
            memory: Memory::new(),
            streams: BTreeMap::from([(0, Stream::default())]),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            blas: HashMap::new(),
            pinned: BTreeMap::new(),
            next: 0x1000,
        })
    });
    state.lock().unwrap_or_else(|e| e.into_inner())
}

/// Locks the state for a call that needs an initialised driver.
pub(crate) fn initialised() -> Outcome<MutexGuard<'static, State>> {
    let state = lock();
    if state.initialised { Ok(state) } else { Err(NOT_INITIALIZED) }
}

/// Locks the state for a call that needs a sound context.
pub(crate) fn sound() -> Outcome<MutexGuard<'static, State>> {
    let state = initialised()?;
    match state.failed {
        Some(code) => Err(code),
        None => Ok(state),
    }
}

/// Locks the state for a call that needs the context of this thread.
pub(crate) fn with_context() -> Outcome<MutexGuard<'static, State>> {
    let state = sound()?;
    if current() == CONTEXT { Ok(state) } else { Err(INVALID_CONTEXT) }
}

impl State {
    /// A handle that was never given before.
    pub fn handle(&mut self) -> usize {
        self.next += 0x10;
        self.next
    }

    /// The stream of a handle: the legacy and per-thread constants are the null stream.
    pub fn stream(&self, handle: usize) -> Outcome<usize> {
        let handle = if handle <= 2 { 0 } else { handle };
        if self.streams.contains_key(&handle) { Ok(handle) } else { Err(INVALID_HANDLE) }
    }

    /// Fails while a capture is going on that forbids this thread what may wait for the device without saying so: memory is got and given back.
    pub fn may_wait(&self) -> Outcome {
        let me = std::thread::current().id();
        let forbids = |c: &Capture| c.mode == 0 || c.mode == 1 && c.thread == me;
        if self.captures.values().any(forbids) { Err(CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Fails while a capture is going on: calls that would wait aren't allowed then.
    pub fn not_capturing(&self) -> Outcome {
        if self.captures.is_empty() { Ok(()) } else { Err(CAPTURE_UNSUPPORTED) }
    }

    /// Appends work to a stream, or to the capture that the stream takes part in.
    pub fn push(&mut self, id: usize, task: Task) -> Outcome {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.after_kernel = matches!(task, Task::Kernel { .. });
        }
        if let Some(capture) = self.streams[&id].capture {
            self.captures.get_mut(&capture).ok_or(CAPTURE_UNSUPPORTED)?.tasks.push(task);
            return Ok(());
        }
        // The null stream and the streams that don't run freely are ordered with one another.
        let waits: Vec<(usize, u64)> = match (id, self.streams[&id].free_running) {
            (0, _) => {
                // What would have to wait for a stream that is captured can't.
                if self.streams.values().any(|x| x.capture.is_some() && !x.free_running) {
                    return Err(CAPTURE_UNSUPPORTED);
                }
                self.streams.iter().filter(|(s, x)| **s != 0 && !x.free_running).map(|(s, x)| (*s, x.queued)).collect()
            }
            (_, false) => vec![(0, self.streams[&0].queued)],
            (_, true) => Vec::new(),
        };
        for (stream, until) in waits {
            if self.streams[&stream].done < until {
                self.append(id, Task::Wait { stream, until });
            }
        }
        self.append(id, task);
        Ok(())
    }

    fn append(&mut self, id: usize, task: Task) {
        let stream = self.streams.get_mut(&id).expect("the caller looked it up");
        stream.queue.push_back(task);
        stream.queued += 1;
    }

    /// Runs a stream up to a position.
    pub fn run_until(&mut self, id: usize, until: u64) -> Outcome {
        loop {
            if let Some(code) = self.failed {
                return Err(code);
            }
            let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
            if stream.done >= until {
                return Ok(());
            }
            if stream.queue.front().is_some_and(|task| task.is_told("SOFTCUDA_HANG")) {
                return Err(NOT_READY);
            }
            let Some(task) = stream.queue.pop_front() else { return Ok(()) };
            // A wait counts as done only when what it waits for is.
            if let Task::Wait { stream, until } = task {
                self.run_until(stream, until)?;
            } else {
                self.run(task)?;
            }
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.done += 1;
            }
        }
    }

    /// Runs all of a stream.
    pub fn drain(&mut self, id: usize) -> Outcome {
        let until = self.streams.get(&id).map_or(0, |s| s.queued);
        self.run_until(id, until)
    }

    /// Runs all of every stream.
    pub fn drain_all(&mut self) -> Outcome {
        let ids: Vec<usize> = self.streams.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.drain(id))
    }

    fn fail(&mut self, code: Code, message: &str) -> Outcome {
        self.failed = Some(code);
        eprintln!("softcuda: {message}");
        Err(code)
    }

    fn device(&mut self, at: u64, size: usize, what: &str) -> Outcome {
        if self.memory.holds(at, size) {
            return Ok(());
        }
        self.fail(ILLEGAL_ADDRESS, &format!("{what} of {size} bytes at {at:#x} is outside of every allocation"))
    }

    fn run(&mut self, task: Task) -> Outcome {
        if task.is_told("SOFTCUDA_FAULT") {
            return self.fail(LAUNCH_FAILED, "a kernel fails, as SOFTCUDA_FAULT asks");
        }
        match task {
            Task::Kernel { module, name, grid, params, early } => {
                match module.launch_packed(&name, grid, params, &self.memory) {
                    Ok(stats) => {
                        count(|| stats.json(&name, grid.cubes, grid.units, early));
                        Ok(())
                    }
                    Err(error) => {
                        let code = match error.fault() {
                            Some(FaultKind::IllegalAddress) => ILLEGAL_ADDRESS,
                            Some(FaultKind::Misaligned) => MISALIGNED_ADDRESS,
                            _ => LAUNCH_FAILED,
                        };
                        self.fail(code, &error.to_string())
                    }
                }
            }
            Task::Product(product) => {
                product
                    .ranges()
                    .into_iter()
                    .try_for_each(|(at, size)| self.device(at, size, "operand of a product"))?;
                product.run();
                count(|| product.json());
                Ok(())
            }
            Task::Copy { dst, src, width, height, dst_pitch, src_pitch, dst_device, src_device } => {
                for row in 0..height as u64 {
                    let (to, from) = (dst + row * dst_pitch as u64, src + row * src_pitch as u64);
                    if dst_device {
                        self.device(to, width, "copy")?;
                    }
                    if src_device {
                        self.device(from, width, "copy")?;
                    }
                    // SAFETY: device sides were checked just now; host sides are the caller's promise.
                    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, width) };
                }
                Ok(())
            }
            Task::Upload { dst, bytes } => {
                self.device(dst, bytes.len(), "copy")?;
                // SAFETY: the destination was checked just now.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), dst as *mut u8, bytes.len()) };
                Ok(())
            }
            Task::Fill { dst, pattern, size, count } => {
                self.device(dst, size * count, "memset")?;
                let bytes = pattern.to_le_bytes();
                for i in 0..count {
                    // SAFETY: the destination was checked just now.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (dst as *mut u8).add(i * size), size) };
                }
                Ok(())
            }
            Task::Free { at } => {
                if self.memory.free(at) {
                    Ok(())
                } else {
                    self.fail(INVALID_VALUE, "free of what isn't allocated")
                }
            }
            Task::Record { event, generation } => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.finished = event.finished.max(generation);
                    event.time = Some(Instant::now());
                }
                Ok(())
            }
            Task::Host { function, data } => {
                // SAFETY: the program gave the function for this purpose.
                unsafe { function(data as *mut std::ffi::c_void) };
                Ok(())
            }
            Task::Alloc | Task::Wait { .. } => Ok(()),
        }
    }

    /// Whether host memory is pinned: then copies read it when they run, not when they are issued.
    pub fn is_pinned(&self, at: u64, size: usize) -> bool {
        self.pinned.range(..=at).next_back().is_some_and(|(_, (end, _))| at + size as u64 <= *end)
    }
}

/// Appends a line to the file of statistics, where one is asked for. They are a convenience: a kernel doesn't fail for a full disk.
fn count(line: impl FnOnce() -> String) {
    if let Some(path) = std::env::var_os("SOFTCUDA_STATS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut f| f.write_all((line() + "\n").as_bytes()));
    }
}
