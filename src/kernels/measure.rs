//! Measuring a call: warm, with inputs that no cache has kept, by the device's own clock where it has one.

use std::time::{Duration, Instant};

use ccl_ir::Binding;
use ccl_runtime::backend::{Backend, Instance};
use serde::Serialize;

use super::Case;
use crate::error::Error;

/// How calls are measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// About how long a case is measured.
    pub time: Duration,
    /// Bytes of inputs that runs go through before they read the first again; 0 for one copy of the inputs.
    pub rotate: u64,
}

/// What a call took.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The case, for other programs.
    pub id: String,
    /// The case, for people.
    pub name: String,
    /// Name of the operator.
    pub op: String,
    /// Median seconds of a call.
    pub seconds: f64,
    /// Fastest and slowest run, in seconds a call.
    pub range_s: [f64; 2],
    /// Measured runs.
    pub runs: usize,
    /// Copies of the inputs that each run goes through.
    pub copies: usize,
    /// Operations of the call, as plans count them.
    pub flops: u64,
    /// Bytes that the call reads and writes.
    pub bytes: u64,
    /// Whether a library of the device's maker does it, because measuring chose that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub library: bool,
}

/// Fewest measured runs.
const FEWEST: usize = 5;
/// Most measured runs.
const MOST: usize = 1000;

/// Bytes to rotate through on a backend: twice its second-level cache, and a guess for GPUs that do not say how large that is. Processors and
/// what imitates a GPU on one go through one copy: their caches are part of what is measured.
pub fn rotation(backend: &dyn Backend) -> u64 {
    let info = backend.describe();
    let hardware = backend.target().is_some() && !info.kind.contains("software");
    match info.limits.iter().find(|(name, _)| name == ccl_runtime::device::CACHE) {
        _ if !hardware => 0,
        Some((_, bytes)) => 2 * bytes,
        None => UNKNOWN_CACHE,
    }
}

/// Bytes to rotate through where the cache is unknown: more than twice what any GPU of today has at its second level.
const UNKNOWN_CACHE: u64 = 256 << 20;

/// Seconds of a call in each of several runs. A GPU is given all copies of the call at once, so that the time between two launches by the host is no
/// part of it; elsewhere each call is measured by itself.
///
/// # Errors
/// When the kernel fails.
pub fn seconds(
    backend: &dyn Backend,
    instance: &mut dyn Instance,
    copies: usize,
    time: Duration,
) -> Result<Vec<f64>, Error> {
    if backend.target().is_none() {
        return by_call(instance, time);
    }
    let of_one = instance.measure(Binding::Step, 1)?.first().copied().unwrap_or(0.0);
    let runs = (time.as_secs_f64() / of_one.max(1e-7)) as usize;
    let seconds = instance.measure(Binding::Step, runs.clamp(FEWEST, MOST))?;
    Ok(seconds.into_iter().map(|s| s / copies.max(1) as f64).collect())
}

fn by_call(instance: &mut dyn Instance, time: Duration) -> Result<Vec<f64>, Error> {
    instance.run(Binding::Step)?;
    instance.set_profiling(true);
    instance.take_profile();
    let (begin, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < FEWEST || begin.elapsed() < time {
        instance.run(Binding::Step)?;
        seconds.extend(instance.take_profile().iter().map(|t| t.seconds));
    }
    Ok(seconds)
}

/// The median: of an even number, the smaller of the two in the middle.
pub fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

impl Case {
    /// Measures the case, after a run that does not count.
    ///
    /// # Errors
    /// When the backend refuses the plan, or the kernel fails.
    pub fn measure(&self, backend: &dyn Backend, effort: Effort) -> Result<Timing, Error> {
        let lone = self.lone_on(backend)?;
        let memory = backend.describe().memory;
        let room = memory.available_bytes.or(memory.total_bytes).map(|bytes| bytes / 2);
        let copies = lone.copies(effort.rotate, room);
        let mut instance = self.instance(backend, copies)?;
        let mut seconds = seconds(backend, instance.as_mut(), copies, effort.time)?;
        let median = median(&mut seconds);
        let (work, runs) = (self.work()?, seconds.len());
        let library = instance.by_library(Binding::Step) > 0;
        Ok(Timing {
            id: self.id.clone(),
            name: self.name.clone(),
            op: self.op().into(),
            seconds: median,
            range_s: [seconds[0], seconds[runs - 1]],
            runs,
            copies,
            flops: work.flops,
            bytes: work.bytes,
            library,
        })
    }
}
