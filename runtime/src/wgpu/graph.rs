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
    // Also where it was not opened: the stream is held from the preparation on.
    let graph = call(|| client.stop_capture());
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
/// The memory that was recorded is still there, and nobody else uses it until the replay is done.
pub(super) unsafe fn replay(graph: &Graph) -> Result<(), Fault> {
    // SAFETY: the caller's promise; all that writes or reads the memory goes by the stream that recorded.
    call(|| unsafe { graph.replay() })
}

fn call<T>(act: impl FnOnce() -> Result<T, ServerError>) -> Result<T, Fault> {
    guarded(act).map_err(Fault::failed)?.map_err(|e| watch::fault(&e))
}
