//! Capture of streams into graphs, and their replay. A graph keeps the order in which its work was captured.

use std::ffi::{c_int, c_uint, c_ulonglong};

use super::launch::overlap;
use super::state::{Capture, initialised, sound};
use super::task::Task;
use super::{
    CAPTURE_INVALIDATED, CAPTURE_UNMATCHED, CAPTURE_UNSUPPORTED, Code, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED,
    call, set,
};

/// Begins a capture; refused where `SOFTCUDA_CAPTURE` is `refuse`.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: c_uint) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        let refused = std::env::var_os("SOFTCUDA_CAPTURE").is_some_and(|word| word == "refuse");
        if refused || id == 0 || state.streams[&id].capture.is_some() {
            return Err(CAPTURE_UNSUPPORTED);
        }
        let handle = state.handle();
        let thread = std::thread::current().id();
        state.captures.insert(handle, Capture { origin: id, tasks: Vec::new(), mode, thread, broken: false });
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.capture = Some(handle);
            stream.after_kernel = false;
        }
        Ok(())
    })
}

/// Ends a capture.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: usize, target: *mut usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        let capture = state.streams[&id].capture.ok_or(INVALID_VALUE)?;
        if state.captures.get(&capture).is_none_or(|c| c.origin != id) {
            return Err(CAPTURE_UNMATCHED);
        }
        let Capture { tasks, broken, .. } = state.captures.remove(&capture).ok_or(INVALID_VALUE)?;
        for stream in state.streams.values_mut().filter(|s| s.capture == Some(capture)) {
            (stream.capture, stream.after_kernel) = (None, false);
        }
        for event in state.events.values_mut().filter(|e| e.capture == Some(capture)) {
            event.capture = None;
        }
        if broken {
            return Err(CAPTURE_INVALIDATED);
        }
        // Recordings only tie the captured streams together.
        let tasks: Vec<Task> =
            tasks.into_iter().filter(|t| !matches!(t, Task::Record { .. } | Task::Wait { .. })).collect();
        let graph = state.handle();
        let nodes = tasks.into_iter().map(|t| (state.handle(), t)).collect();
        state.graphs.insert(graph, nodes);
        set(target, graph)
    })
}

/// Whether a stream captures.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: usize, target: *mut c_int) -> Code {
    call(|| {
        let state = sound()?;
        let id = state.stream(stream)?;
        set(target, c_int::from(state.streams[&id].capture.is_some()))
    })
}

/// Makes a graph that can be launched.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(target: *mut usize, graph: usize, _flags: c_ulonglong) -> Code {
    call(|| {
        let mut state = sound()?;
        let nodes = state.graphs.get(&graph).ok_or(INVALID_HANDLE)?;
        let tasks: Vec<Task> = nodes.iter().map(|(_, t)| t.clone()).collect();
        if overlap("instantiate") && tasks.iter().any(|t| matches!(t, Task::Kernel { early: true, .. })) {
            return Err(NOT_SUPPORTED);
        }
        let handle = state.handle();
        state.executables.insert(handle, tasks);
        set(target, handle)
    })
}

/// There is nothing to upload.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: usize, stream: usize) -> Code {
    call(|| {
        let state = sound()?;
        state.stream(stream)?;
        state.executables.get(&executable).map(|_| ()).ok_or(INVALID_HANDLE)
    })
}

/// Queues the work of a graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: usize, stream: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        let tasks = state.executables.get(&executable).ok_or(INVALID_HANDLE)?.clone();
        tasks.into_iter().try_for_each(|t| state.push(id, t))?;
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.after_kernel = false;
        }
        Ok(())
    })
}

/// The nodes of a graph, or their number.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize) -> Code {
    call(|| {
        let state = sound()?;
        let list = state.graphs.get(&graph).ok_or(INVALID_HANDLE)?;
        if count.is_null() {
            return Err(INVALID_VALUE);
        }
        if nodes.is_null() {
            return set(count, list.len());
        }
        // SAFETY: the caller says how many handles its array holds.
        let room = unsafe { *count };
        for i in 0..room {
            let handle = list.get(i).map_or(0, |(h, _)| *h);
            // SAFETY: within the caller's array.
            unsafe { nodes.add(i).write(handle) };
        }
        set(count, room.min(list.len()))
    })
}

/// What a node does.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetType(node: usize, target: *mut c_uint) -> Code {
    call(|| {
        let state = sound()?;
        let found = state.graphs.values().flatten().find(|(h, _)| *h == node);
        set(target, found.ok_or(INVALID_HANDLE)?.1.node_type())
    })
}

/// Destroys a graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: usize) -> Code {
    call(|| initialised()?.graphs.remove(&graph).map(drop).ok_or(INVALID_HANDLE))
}

/// Destroys a graph that can be launched.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: usize) -> Code {
    call(|| initialised()?.executables.remove(&executable).map(drop).ok_or(INVALID_HANDLE))
}
