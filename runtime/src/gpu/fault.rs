//! Failures of a device, and how long it may take to answer.

use std::sync::OnceLock;
use std::time::Duration;

/// How long a device may take to answer that has nothing to do.
const IDLE: Duration = Duration::from_secs(120);
/// The variable that says in seconds how long a device may take, whatever it has to do.
const TIMEOUT: &str = "CCL_GPU_TIMEOUT";

/// What a device reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// One line.
    pub problem: String,
    /// Whether nothing will ever run on the device again.
    pub lost: bool,
}

impl Fault {
    /// A failure that leaves the device usable.
    pub(crate) fn failed(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), lost: false }
    }

    /// A device that did not answer in time.
    pub(crate) fn silent(watch: &Watch) -> Self {
        let (waited, name) = (watch.patience.as_secs_f64(), TIMEOUT);
        let problem = format!("it has not answered for {waited:.0} s and seems to hang; {name}=SECONDS waits longer");
        Self { problem, lost: true }
    }
}

/// What a wait for a device goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Failures of the device's own threads when the watch began, where it has such.
    pub failures: u64,
    /// How long the device may take to answer.
    pub patience: Duration,
}

impl Watch {
    /// With work before the device that takes a slow one so long.
    pub(crate) fn over(work: Duration, failures: u64) -> Self {
        Self { failures, patience: allowed(work) }
    }
}

/// How long a device may take to answer that has so much work. A kernel that never ends, or a driver that has lost its device
/// without noticing, would keep the program waiting for ever.
fn allowed(work: Duration) -> Duration {
    static WISH: OnceLock<Option<Duration>> = OnceLock::new();
    let wish = || std::env::var(TIMEOUT).ok()?.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    WISH.get_or_init(wish).unwrap_or(IDLE.saturating_add(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_work_is_an_hour_more() {
        assert_eq!(Watch::over(Duration::from_secs(3600), 0).patience, Duration::from_secs(3720));
        assert_eq!(Watch::over(Duration::MAX, 0).patience, Duration::MAX);
    }
}
