//! A stream of CubeCL's for each instance.
//!
//! CubeCL has a fixed number of streams on a device and gives each thread one, several threads the same where there are many. What such a neighbour
//! launches while a stream records would become part of the graph. An engine that runs a plan therefore has a stream to itself for as long as there
//! are any; while engines share one, nothing is recorded.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cubecl::Device;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl_core::environment::stream::StreamId;

/// The streams of each device that was used.
static DEVICES: Mutex<Vec<(Device, &'static Mutex<Lanes>)>> = Mutex::new(Vec::new());

/// Which streams of a device are taken.
#[derive(Default)]
struct Lanes {
    /// Whether each is, from the last on: CubeCL numbers threads from the first on.
    taken: Vec<bool>,
    /// Engines that found none.
    shared: usize,
}

impl Lanes {
    /// The first stream of `count` that is free, now taken.
    fn take(&mut self, count: usize) -> Option<usize> {
        self.taken.resize(count.max(self.taken.len()), false);
        let free = self.taken.iter().position(|taken| !taken);
        match free {
            Some(i) => self.taken[i] = true,
            None => self.shared += 1,
        }
        free
    }

    fn give_back(&mut self, lane: Option<usize>) {
        match lane {
            Some(i) => self.taken[i] = false,
            None => self.shared -= 1,
        }
    }
}

fn locked<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The streams of a device.
fn lanes_of(device: &Device) -> &'static Mutex<Lanes> {
    let mut devices = locked(&DEVICES);
    if let Some((_, lanes)) = devices.iter().find(|(known, _)| known == device) {
        return lanes;
    }
    // Once for each device of a process.
    let lanes: &'static Mutex<Lanes> = Box::leak(Box::default());
    devices.push((device.clone(), lanes));
    lanes
}

/// A stream, taken until it is dropped.
pub(super) struct Lane {
    lanes: &'static Mutex<Lanes>,
    index: Option<usize>,
    count: usize,
}

impl Lane {
    /// Takes a stream of a device; one that others use too where all are taken.
    pub(super) fn take(device: &Device) -> Self {
        let count = usize::from(CubeClRuntimeConfig::get().streaming.max_streams).max(1);
        let lanes = lanes_of(device);
        Self { lanes, index: locked(lanes).take(count), count }
    }

    /// CubeCL's name of it.
    pub(super) fn stream(&self) -> StreamId {
        StreamId { value: (self.count - 1 - self.index.unwrap_or_default()) as u64 }
    }

    /// Keeps others from taking, giving back or recording streams of the device.
    pub(super) fn alone(&self) -> Alone {
        Alone(locked(self.lanes))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        locked(self.lanes).give_back(self.index);
    }
}

/// While it is there, nobody else takes, gives back or records a stream of the device.
pub(super) struct Alone(MutexGuard<'static, Lanes>);

impl Alone {
    /// Whether some stream has several users.
    pub(super) fn shared(&self) -> bool {
        self.0.shared > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_shared_only_where_there_are_too_few() {
        let mut lanes = Lanes::default();
        assert_eq!((lanes.take(2), lanes.take(2), lanes.shared), (Some(0), Some(1), 0));
        assert_eq!((lanes.take(2), lanes.shared), (None, 1));
        lanes.give_back(Some(0));
        lanes.give_back(None);
        assert_eq!((lanes.take(2), lanes.shared), (Some(0), 0));
    }
}
