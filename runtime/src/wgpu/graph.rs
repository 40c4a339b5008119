//! The launches of an entry, recorded by CubeCL and encoded again from what it prepared: pipelines, bind groups and sizes.
//!
//! WebGPU has no graphs of its own, so a replay still encodes each launch, but resolves nothing.

use std::time::Duration;

use cubecl::client::{Client, Graph};
use cubecl::server::ServerError;

use super::watch::{self, check, guarded};
use crate::gpu::fault::Fault;

/// Records what `launches` launches on the client's stream, which nobody else uses.
///
/// # Errors
/// When a launch fails, or CubeCL does not record it.
pub(super) fn record(client: &Client, launches: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Graph, Fault> {
    let watch = watch::watch(Duration::ZERO);
    let opened = call(|| client.graph_prepare()).and_then(|()| call(|| client.start_capture()));
    let launched = opened.and_then(|()| launches());
    // Also where it was not opened: the stream is held from the preparation on. Where that fails before the stream records no more (a panic over what
    // is still to be recorded), once more: what comes of that is not whole.
    let stop = || call(|| client.stop_capture());
    let graph = stop().inspect_err(|_| drop(stop()));
    launched?;
    check(&watch).map_err(Fault::failed)?;
    graph
}

/// Starts a replay.
///
/// # Errors
/// When CubeCL refuses it.
///
/// # Safety
/// The memory that was recorded is still there; what other streams were asked to do with it is done, and they are asked for nothing until the replay is.
pub(super) unsafe fn replay(graph: &Graph) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    call(|| unsafe { graph.replay() })
}

fn call<T>(act: impl FnOnce() -> Result<T, ServerError>) -> Result<T, Fault> {
    guarded(act).map_err(Fault::failed)?.map_err(|e| watch::fault(&e))
}
