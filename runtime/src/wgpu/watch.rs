//! Failures of CubeCL, made errors.
//!
//! CubeCL runs a device's work on a thread of its own. What panics there (an unsupported type, a missing compiler
//! library, an allocation that the driver refuses) is dropped, and a read that follows returns whatever the memory
//! held before. This module notes every such panic: work that is done between the begin of a [`Watch`] and its [`check`] is whole, or
//! an error says why not. Panics on the caller's own thread end at [`guarded`]. Neither prints: the error that comes
//! of them is the report.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use cubecl::server::ServerError;

use crate::error::one_line;
use crate::gpu::fault::{Fault, Watch};

/// How long a wait sleeps before it looks whether the device's thread has failed.
const LOOK: Duration = Duration::from_millis(100);
/// Panics on devices' threads since the program began: how many, and the last one's message.
static FAILURES: Mutex<(u64, String)> = Mutex::new((0, String::new()));

thread_local! {
    /// Whether this thread's panics are caught by [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

fn failures() -> MutexGuard<'static, (u64, String)> {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to note panics. Other threads' panics go to the hook that was there before.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let message = text(info.payload());
            if is_device_thread(std::thread::current().name(), &message) {
                tracing::debug!("a device's thread panicked: {info}");
                let mut failures = failures();
                failures.0 += 1;
                failures.1 = message;
            } else if !GUARDED.get() {
                before(info);
            }
        }));
    });
}

/// Whether a panic is CubeCL's: its device threads are called like `DSD-3-0`; wgpu reports errors that nobody asked
/// for on any thread that polls.
fn is_device_thread(name: Option<&str>, message: &str) -> bool {
    let parts: Vec<&str> = name.unwrap_or_default().split('-').collect();
    let numbers = |p: &[&str]| p.iter().all(|n| n.parse::<u16>().is_ok());
    matches!(parts.as_slice(), ["DSD" | "DSU", rest @ ..] if rest.len() == 2 && numbers(rest))
        || message.starts_with("wgpu error")
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    told(text.unwrap_or("a panic without a message"))
}

/// Watches from now on, with work before the device that takes a slow one so long.
pub(super) fn watch(work: Duration) -> Watch {
    install();
    Watch::over(work, failures().0)
}

/// Succeeds where no device's thread has failed since a watch began.
///
/// # Errors
/// The message of the last failure. Devices share their threads, so it may be another plan's: nobody's results
/// can be trusted then.
pub(super) fn check(watch: &Watch) -> Result<(), String> {
    let failures = failures();
    if failures.0 == watch.failures { Ok(()) } else { Err(failures.1.clone()) }
}

/// Calls into CubeCL where it may panic.
///
/// # Errors
/// The panic's message, that of the device's thread where it was the cause.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let watch = watch(Duration::ZERO);
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    done.map_err(|payload| check(&watch).err().unwrap_or_else(|| text(payload.as_ref())))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a device's answer, but not longer than its thread lives and than the watch has patience.
///
/// The future is polled on a thread of its own, since CUDA's blocks in `poll` until the device is done: for ever, where it hangs.
///
/// # Errors
/// The message of the device's failure; that it is lost where it does not answer.
pub(super) fn wait<T: Send + 'static>(
    future: impl Future<Output = Result<T, ServerError>> + Send + 'static,
    watch: &Watch,
) -> Result<T, Fault> {
    let (answer, answered) = mpsc::sync_channel(1);
    let given_up = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&given_up);
    let poll = move || {
        // Nobody may be there to hear it any more.
        let _ = answer.send(guarded(|| block_on(future, || stop.load(Ordering::Relaxed))));
    };
    let spawned = std::thread::Builder::new().name("wait for a gpu".into()).spawn(poll);
    spawned.map_err(|e| Fault::failed(format!("no thread can wait for the device: {e}")))?;
    let begin = Instant::now();
    let outcome = loop {
        // Not beyond the patience, and a moment beyond it at last.
        let left = watch.patience.saturating_sub(begin.elapsed()) + Duration::from_micros(1);
        match answered.recv_timeout(LOOK.min(left)) {
            Ok(Ok(Some(answer))) => break answer.map_err(|e| fault(&e)),
            Ok(Ok(None)) => break Err(Fault::failed("the wait ended without an answer")),
            Ok(Err(panic)) => break Err(Fault::failed(panic)),
            Err(RecvTimeoutError::Disconnected) => break Err(Fault::failed("the wait ended in a panic")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(problem) = check(watch) {
            break Err(Fault::failed(problem));
        }
        if begin.elapsed() > watch.patience {
            break Err(Fault::silent(watch));
        }
    };
    given_up.store(true, Ordering::Relaxed);
    // An answer may have come just before the device's thread failed.
    outcome.and_then(|answer| check(watch).map(|()| answer).map_err(Fault::failed))
}

/// The answer of a device that has nothing else to do, which it gives at once unless its thread fails.
///
/// # Errors
/// The message of the device's failure.
pub(super) fn answer<T>(future: impl Future<Output = Result<T, ServerError>>, watch: &Watch) -> Result<T, Fault> {
    let done = guarded(|| block_on(future, || check(watch).is_err())).map_err(Fault::failed)?;
    check(watch).map_err(Fault::failed)?;
    let done = done.ok_or_else(|| Fault::failed("a read ended without an answer"))?;
    done.map_err(|e| fault(&e))
}

/// Polls a future until it is done, or there is a reason to stop.
fn block_on<T>(future: impl Future<Output = T>, stop: impl Fn() -> bool) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return Some(answer),
            Poll::Pending if stop() => return None,
            Poll::Pending => std::thread::park_timeout(LOOK),
        }
    }
}

/// CubeCL's error, which is many lines and a backtrace, as one line: the root of it.
pub(super) fn fault(error: &ServerError) -> Fault {
    match error {
        ServerError::Unwritten { root, .. } => fault(root),
        ServerError::Several { errors, .. } if !errors.is_empty() => fault(&errors[0]),
        other => Fault { problem: told(&other.to_string()), lost: other.is_device_poisoned() },
    }
}

/// A message as one line, without its backtrace and without phrases that say nothing.
fn told(text: &str) -> String {
    let empty = ["An IO error happened", "A launch error happened", "An error happened during execution"];
    let mut parts: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("Backtrace") || line.starts_with("disabled backtrace") || line.starts_with("0: ") {
            break;
        }
        if !line.is_empty() && line != "Caused by:" && !empty.contains(&line) {
            parts.push(line);
        }
    }
    one_line(&if parts.is_empty() { "an error without a message".into() } else { parts.join(" ") })
}

/// Held by tests that make a device's thread fail, and by those that would see it: failures are the whole process's.
#[cfg(test)]
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_messages() {
        let _alone = alone();
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(guarded(|| -> u8 { panic!("no\n  driver") }), Err("no driver".into()));
        assert_eq!(guarded(|| -> u8 { std::panic::panic_any(5) }), Err("a panic without a message".into()));
    }

    #[test]
    fn a_panic_on_a_device_thread_is_noted() {
        let _alone = alone();
        let watch = watch(Duration::ZERO);
        assert_eq!(check(&watch), Ok(()));
        let thread = std::thread::Builder::new().name("DSD-3-0".into());
        let joined = thread.spawn(|| panic!("unsupported type")).map(std::thread::JoinHandle::join);
        assert!(joined.is_ok_and(|j| j.is_err()));
        assert_eq!(check(&watch), Err("unsupported type".into()));
        assert_eq!(check(&super::watch(Duration::ZERO)), Ok(()));
        let waiting = wait(std::future::pending::<Result<(), ServerError>>(), &watch);
        assert_eq!(waiting, Err(Fault::failed("unsupported type")));
    }

    #[test]
    fn a_device_that_does_not_answer_is_lost() {
        let _alone = alone();
        let watch = Watch { patience: Duration::from_millis(250), ..watch(Duration::ZERO) };
        let begin = Instant::now();
        let fault = wait(std::future::pending::<Result<(), ServerError>>(), &watch).unwrap_err();
        assert!(fault.lost && fault.problem.contains("has not answered for 0 s and seems to hang"), "{fault:?}");
        assert!((0.25..20.0).contains(&begin.elapsed().as_secs_f64()));
    }

    #[test]
    fn only_device_threads_are_taken_for_such() {
        for (name, message, want) in [
            (Some("DSU-0-12"), "", true),
            (Some("DSD-0"), "", false),
            (Some("DSD-a-0"), "", false),
            (Some("main"), "wgpu error: Validation Error", true),
            (Some("main"), "index out of bounds", false),
            (None, "", false),
        ] {
            assert_eq!(is_device_thread(name, message), want, "{name:?} {message}");
        }
    }

    #[test]
    fn messages_are_one_line_without_backtraces() {
        let text = "An IO error happened\nCaused by:\n  out of device memory allocating 5 bytes\nBacktrace:\n 0: x";
        assert_eq!(told(text), "out of device memory allocating 5 bytes");
        assert_eq!(told("\n\n"), "an error without a message");
    }
}
