//! How long each call of a plan took, and what was copied meanwhile.

use std::fmt;
use std::time::{Duration, Instant};

use ccl_ir::Binding;
use ccl_ir::plan::Call;
use serde::{Deserialize, Serialize};

/// What times are measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The host's clock, from before the work is asked for until it is known to be done.
    Host,
    /// The device's own: moments between what it was asked for (CUDA events, timestamp queries of wgpu).
    Device,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the host's clock",
            Self::Device => "the device's own clock",
        })
    }
}

/// One measured call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallTime {
    /// Entry point of the plan.
    pub entry: Binding,
    /// Position of the call in its entry.
    pub index: usize,
    /// Name of the operator.
    pub op: &'static str,
    /// Model path of the call.
    pub at: String,
    /// Seconds: by the device's clock where it has one, else by the host's.
    pub seconds: f64,
}

/// Weights that came to the device while an entry ran, because not all of them fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    /// Bytes that were copied.
    pub bytes: u64,
    /// Seconds that the copies took.
    pub seconds: f64,
    /// Seconds that calls waited for them: the part that was not hidden behind other calls.
    pub waited_s: f64,
}

impl Copies {
    /// The part of the copies' time that was hidden behind calls, from 0 to 1.
    pub fn hidden(&self) -> f64 {
        if self.seconds > 0.0 { (1.0 - self.waited_s / self.seconds).clamp(0.0, 1.0) } else { 1.0 }
    }
}

/// Collects times where it is on, and costs nothing where it is off.
#[derive(Debug, Default)]
pub(crate) struct Profiler {
    on: bool,
    times: Vec<CallTime>,
    copies: Option<Copies>,
}

impl Profiler {
    /// Starts or stops; what was measured is kept.
    pub(crate) fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// The time now, where the profiler is on.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    /// Notes a call that began at `start`.
    pub(crate) fn stop(&mut self, start: Option<Instant>, entry: Binding, index: usize, call: &Call) {
        if let Some(seconds) = start.map(|s| s.elapsed()).as_ref().map(Duration::as_secs_f64) {
            self.note(seconds, entry, index, call);
        }
    }

    /// Notes a call that took so long.
    pub(crate) fn note(&mut self, seconds: f64, entry: Binding, index: usize, call: &Call) {
        self.times.push(CallTime { entry, index, op: call.op.name(), at: call.at.clone(), seconds });
    }

    /// Notes the copies of an entry.
    pub(crate) fn copied(&mut self, copies: Copies) {
        let all = self.copies.get_or_insert_default();
        all.bytes += copies.bytes;
        all.seconds += copies.seconds;
        all.waited_s += copies.waited_s;
    }

    /// What was measured, leaving nothing behind.
    pub(crate) fn take(&mut self) -> Vec<CallTime> {
        std::mem::take(&mut self.times)
    }

    /// The copies that were measured, leaving nothing behind.
    pub(crate) fn take_copies(&mut self) -> Option<Copies> {
        self.copies.take()
    }
}
