//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};

use super::state::{Event, Stream, sound, with_context};
use super::task::Task;
use super::{CAPTURE_UNSUPPORTED, CAPTURED_EVENT, Code, INVALID_HANDLE, INVALID_VALUE, NOT_READY, Outcome, call, set};

fn create(target: *mut usize, flags: c_uint, priority: c_int) -> Outcome {
    let mut state = with_context()?;
    let handle = state.handle();
    state.streams.insert(handle, Stream { free_running: flags & 1 != 0, priority, ..Stream::default() });
    set(target, handle)
}

/// Creates a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(target: *mut usize, flags: c_uint) -> Code {
    call(|| create(target, flags, 0))
}

/// Creates a stream. The priority changes nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(target: *mut usize, flags: c_uint, priority: c_int) -> Code {
    call(|| create(target, flags, priority))
}

/// The priority that a stream was created with.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: usize, target: *mut c_int) -> Code {
    call(|| {
        let state = sound()?;
        let id = state.stream(stream)?;
        set(target, state.streams[&id].priority)
    })
}

/// Destroys a stream, after its work.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        if id == 0 {
            return Err(INVALID_HANDLE);
        }
        state.drain(id)?;
        state.streams.remove(&id);
        Ok(())
    })
}

/// Waits for a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        if state.streams[&id].capture.is_some() {
            return Err(CAPTURE_UNSUPPORTED);
        }
        if id == 0 {
            // The null stream's end is the end of all that it is ordered with.
            let ids: Vec<usize> = state.streams.iter().filter(|(_, s)| !s.free_running).map(|(i, _)| *i).collect();
            return ids.into_iter().try_for_each(|i| state.drain(i));
        }
        state.drain(id)
    })
}

/// Whether a stream has ended. Each question lets one more task run, so that programs that poll get on.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        if state.streams[&id].queue.is_empty() {
            return Ok(());
        }
        let until = state.streams[&id].done + 1;
        state.run_until(id, until)?;
        Err(NOT_READY)
    })
}

/// Lets a stream wait for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        let event = state.events.get(&event).ok_or(INVALID_HANDLE)?;
        let (capture, at) = (event.capture, event.at);
        if capture.is_some() {
            // The stream joins the capture that the event was recorded in.
            let own = state.streams[&id].capture;
            if own.is_some() && own != capture {
                return Err(CAPTURE_UNSUPPORTED);
            }
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.capture = capture;
            }
            return Ok(());
        }
        match at {
            Some((from, _)) if from == id => Ok(()),
            Some((stream, until)) => state.push(id, Task::Wait { stream, until }),
            None => Ok(()),
        }
    })
}

/// Queues a function of the host.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        let function = function.ok_or(INVALID_VALUE)?;
        state.push(id, Task::Host { function, data: data as usize })
    })
}

/// Creates an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(target: *mut usize, _flags: c_uint) -> Code {
    call(|| {
        let mut state = with_context()?;
        let handle = state.handle();
        state.events.insert(handle, Event::default());
        set(target, handle)
    })
}

/// Destroys an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: usize) -> Code {
    call(|| sound()?.events.remove(&event).map(drop).ok_or(INVALID_HANDLE))
}

/// Records an event at the end of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: usize, stream: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let id = state.stream(stream)?;
        let entry = state.events.get_mut(&event).ok_or(INVALID_HANDLE)?;
        entry.generation += 1;
        let generation = entry.generation;
        let capture = state.streams[&id].capture;
        state.push(id, Task::Record { event, generation })?;
        let queued = state.streams[&id].queued;
        if let Some(entry) = state.events.get_mut(&event) {
            entry.capture = capture;
            entry.at = capture.is_none().then_some((id, queued));
        }
        Ok(())
    })
}

/// Records an event at the end of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, _flags: c_uint) -> Code {
    cuEventRecord(event, stream)
}

/// Whether an event has happened. Each question lets one more task of its stream run.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let entry = state.events.get(&event).ok_or(INVALID_HANDLE)?;
        if entry.capture.is_some() {
            return Err(CAPTURED_EVENT);
        }
        let Some((stream, until)) = entry.at else { return Ok(()) };
        let Some(done) = state.streams.get(&stream).map(|s| s.done) else { return Ok(()) };
        if done >= until {
            return Ok(());
        }
        state.run_until(stream, done + 1)?;
        Err(NOT_READY)
    })
}

/// Waits for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let entry = state.events.get(&event).ok_or(INVALID_HANDLE)?;
        if entry.capture.is_some() {
            return Err(CAPTURED_EVENT);
        }
        match entry.at {
            Some((stream, until)) => state.run_until(stream, until),
            None => Ok(()),
        }
    })
}

/// Milliseconds between two events.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(target: *mut f32, start: usize, end: usize) -> Code {
    call(|| {
        let state = sound()?;
        let time = |event: usize| {
            let entry = state.events.get(&event).ok_or(INVALID_HANDLE)?;
            match (entry.generation, entry.finished == entry.generation, entry.time) {
                (0, ..) => Err(INVALID_HANDLE),
                (_, true, Some(time)) => Ok(time),
                _ => Err(NOT_READY),
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        set(target, end.saturating_duration_since(start).as_secs_f32() * 1e3)
    })
}

/// Milliseconds between two events.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(target: *mut f32, start: usize, end: usize) -> Code {
    cuEventElapsedTime(target, start, end)
}
