//! How long each call of a plan took.

use std::time::{Duration, Instant};

use ccl_ir::Binding;
use ccl_ir::plan::Call;
use serde::Serialize;

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
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Collects times where it is on, and costs nothing where it is off.
#[derive(Debug, Default)]
pub(crate) struct Profiler {
    on: bool,
    times: Vec<CallTime>,
}

impl Profiler {
    /// Starts or stops; what was measured is kept.
    pub(crate) fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// The time now, where the profiler is on.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    /// Notes a call that began at `start`.
    pub(crate) fn stop(&mut self, start: Option<Instant>, entry: Binding, index: usize, call: &Call) {
        if let Some(seconds) = start.map(|s| s.elapsed()).as_ref().map(Duration::as_secs_f64) {
            self.times.push(CallTime { entry, index, op: call.op.name(), at: call.at.clone(), seconds });
        }
    }

    /// What was measured, leaving nothing behind.
    pub(crate) fn take(&mut self) -> Vec<CallTime> {
        std::mem::take(&mut self.times)
    }
}
