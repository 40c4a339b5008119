//! How long work takes: by timestamp queries where the adapter has them, else by the host's clock.
//!
//! Timestamps are those of CubeCL's profiler, whose windows begin with the first pass that is recorded after they are opened and end with the last one.

use std::time::{Duration, Instant};

use cubecl::client::{Client, ProfileWindow};
use cubecl::profile::{ProfileDuration, TimingMethod};
use cubecl::server::{ProfileError, ServerError};

use super::watch::{guarded, wait};
use crate::gpu::fault::{Fault, Watch};
use crate::profile::Clock;

/// The clock of a device.
pub(crate) fn clock_of(client: &Client) -> Clock {
    match client.properties().timing_method {
        TimingMethod::Device => Clock::Device,
        TimingMethod::System => Clock::Host,
    }
}

/// Work that is being timed.
pub(crate) enum Window {
    /// Since then.
    Host(Instant),
    /// By timestamps.
    Device(Open),
}

/// A window of the profiler, which is given up where nobody ends it.
pub(crate) struct Open {
    client: Client,
    window: Option<ProfileWindow>,
    since: Instant,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(window) = self.window.take() {
            // Where that fails the device does, and whoever uses it next hears of it.
            let _ = guarded(|| self.client.profile_abandon(window));
        }
    }
}

/// Work that was timed.
pub(crate) enum Timed {
    /// So long.
    Known(Duration),
    /// As long as the device will say.
    Device(ProfileDuration),
}

/// Times what the device is asked for from now on. By the host's clock, the device has nothing to do now.
///
/// # Errors
/// The device's.
pub(crate) fn begin(client: &Client) -> Result<Window, Fault> {
    if clock_of(client) == Clock::Host {
        return Ok(Window::Host(Instant::now()));
    }
    let window = guarded(|| client.profile_start()).map_err(Fault::failed)?.map_err(|e| failed(&e))?;
    Ok(Window::Device(Open { client: client.clone(), window: Some(window), since: Instant::now() }))
}

/// Ends it. By the host's clock, the device has done all it was asked for.
///
/// # Errors
/// The device's.
pub(crate) fn end(window: Window) -> Result<Timed, Fault> {
    let mut open = match window {
        Window::Host(begin) => return Ok(Timed::Known(begin.elapsed())),
        Window::Device(open) => open,
    };
    let Some(window) = open.window.take() else { return Ok(Timed::Known(Duration::ZERO)) };
    match guarded(|| open.client.profile_end(window)).map_err(Fault::failed)? {
        Ok(duration) => Ok(Timed::Device(duration)),
        // Nothing was launched: it was the host's work.
        Err(ProfileError::NotMeasured { .. }) => Ok(Timed::Known(open.since.elapsed())),
        Err(e) => Err(failed(&e)),
    }
}

/// How long it took, in seconds.
///
/// # Errors
/// When the device does not say.
pub(crate) fn seconds(timed: Timed, watch: &Watch) -> Result<f64, Fault> {
    let duration = match timed {
        Timed::Known(duration) => duration,
        Timed::Device(duration) => {
            let ticks = wait(async move { Ok::<_, ServerError>(duration.resolve().await) }, watch)?;
            ticks.ok_or_else(|| Fault::failed("the device's clock gave no time"))?.duration()
        }
    };
    Ok(duration.as_secs_f64())
}

fn failed(error: &ProfileError) -> Fault {
    Fault::failed(format!("no time: {error}"))
}
