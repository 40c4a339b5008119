//! A stream of CubeCL's for each instance.
//!
//! CubeCL has a fixed number of streams and gives each thread one, several threads the same where there are many. What such a neighbour launches
//! while a stream records would become part of the graph. An engine that runs a plan therefore has a stream to itself for as long as there are
//! any; while engines share one, nothing is recorded.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl_core::environment::stream::StreamId;

/// Streams of this process that are taken.
static LANES: Mutex<Lanes> = Mutex::new(Lanes { taken: Vec::new(), shared: 0 });

/// Which streams are taken.
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

fn lanes() -> MutexGuard<'static, Lanes> {
    LANES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream, taken until it is dropped.
pub(super) struct Lane {
    index: Option<usize>,
    count: usize,
}

impl Lane {
    /// Takes a stream; one that others use too where all are taken.
    pub(super) fn take() -> Self {
        let count = usize::from(CubeClRuntimeConfig::get().streaming.max_streams).max(1);
        Self { index: lanes().take(count), count }
    }

    /// CubeCL's name of it.
    pub(super) fn stream(&self) -> StreamId {
        StreamId { value: (self.count - 1 - self.index.unwrap_or_default()) as u64 }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        lanes().give_back(self.index);
    }
}

/// Keeps others from taking or recording streams; `None` where some are shared.
pub(super) fn alone() -> Option<impl Sized> {
    Some(lanes()).filter(|lanes| lanes.shared == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_shared_only_where_there_are_too_few() {
        let mut lanes = Lanes { taken: Vec::new(), shared: 0 };
        assert_eq!((lanes.take(2), lanes.take(2), lanes.shared), (Some(0), Some(1), 0));
        assert_eq!((lanes.take(2), lanes.shared), (None, 1));
        lanes.give_back(Some(0));
        lanes.give_back(None);
        assert_eq!((lanes.take(2), lanes.shared), (Some(0), 0));
    }
}
