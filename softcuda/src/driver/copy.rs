//! Memory: allocation, pinning, copies and fills.

use std::alloc::Layout;
use std::ffi::{c_uint, c_void};

use super::state::{State, TOTAL_MEMORY, sound, with_context};
use super::task::Task;
use super::{Code, INVALID_VALUE, OUT_OF_MEMORY, Outcome, call, set};

fn allocate(state: &mut State, target: *mut u64, size: usize) -> Outcome {
    if size == 0 {
        return Err(INVALID_VALUE);
    }
    if state.memory.allocated() + size as u64 > TOTAL_MEMORY {
        return Err(OUT_OF_MEMORY);
    }
    set(target, state.memory.alloc(size).ok_or(OUT_OF_MEMORY)?)
}

/// Allocates device memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(target: *mut u64, size: usize) -> Code {
    call(|| {
        let mut state = with_context()?;
        state.may_wait()?;
        allocate(&mut state, target, size)
    })
}

/// Frees device memory, after all the work that may use it.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: u64) -> Code {
    call(|| {
        let mut state = with_context()?;
        state.may_wait()?;
        if at == 0 {
            return Ok(());
        }
        state.drain_all()?;
        if state.memory.free(at) { Ok(()) } else { Err(INVALID_VALUE) }
    })
}

/// Allocates device memory in the order of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(target: *mut u64, size: usize, stream: usize) -> Code {
    call(|| {
        let mut state = with_context()?;
        let stream = state.stream(stream)?;
        state.push(stream, Task::Alloc)?;
        allocate(&mut state, target, size)
    })
}

/// Frees device memory in the order of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(at: u64, stream: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        let stream = state.stream(stream)?;
        state.push(stream, Task::Free { at })
    })
}

/// Free and total device memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    call(|| {
        let state = with_context()?;
        set(free, TOTAL_MEMORY.saturating_sub(state.memory.allocated()) as usize)?;
        set(total, TOTAL_MEMORY as usize)
    })
}

/// Allocates pinned host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(target: *mut *mut c_void, size: usize) -> Code {
    cuMemHostAlloc(target, size, 0)
}

/// Allocates pinned host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(target: *mut *mut c_void, size: usize, _flags: c_uint) -> Code {
    call(|| {
        let mut state = with_context()?;
        let layout = Layout::from_size_align(size.max(1), 4096).map_err(|_| INVALID_VALUE)?;
        // SAFETY: the layout has a size above zero.
        let block = unsafe { std::alloc::alloc(layout) };
        if block.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        // SAFETY: the block is as long as its layout.
        unsafe { block.write_bytes(0xff, layout.size()) };
        state.pinned.insert(block as u64, (block as u64 + size as u64, Some(layout)));
        state.memory.register(block as u64, size);
        set(target, block.cast())
    })
}

/// Frees pinned host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(at: *mut c_void) -> Code {
    call(|| {
        let mut state = sound()?;
        let Some((_, Some(layout))) = state.pinned.get(&(at as u64)).copied() else { return Err(INVALID_VALUE) };
        state.drain_all()?;
        state.pinned.remove(&(at as u64));
        state.memory.unregister(at as u64);
        // SAFETY: `cuMemHostAlloc` made the block with this layout, and its entry is gone.
        unsafe { std::alloc::dealloc(at.cast(), layout) };
        Ok(())
    })
}

/// Pins host memory of the program.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(at: *mut c_void, size: usize, _flags: c_uint) -> Code {
    call(|| {
        let mut state = with_context()?;
        if at.is_null() || size == 0 {
            return Err(INVALID_VALUE);
        }
        state.pinned.insert(at as u64, (at as u64 + size as u64, None));
        state.memory.register(at as u64, size);
        Ok(())
    })
}

/// Ends the pinning of host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(at: *mut c_void) -> Code {
    call(|| {
        let mut state = with_context()?;
        state.drain_all()?;
        match state.pinned.remove(&(at as u64)) {
            Some((_, None)) => {
                state.memory.unregister(at as u64);
                Ok(())
            }
            _ => Err(INVALID_VALUE),
        }
    })
}

/// Pinned memory has the same address on the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetDevicePointer_v2(target: *mut u64, at: *mut c_void, _flags: c_uint) -> Code {
    call(|| {
        drop(with_context()?);
        set(target, at as u64)
    })
}

fn linear(dst: u64, src: u64, size: usize, dst_device: bool, src_device: bool) -> Task {
    Task::Copy { dst, src, width: size, height: 1, dst_pitch: size, src_pitch: size, dst_device, src_device }
}

/// Queues a copy; sources in pageable host memory are read at once.
fn queue(stream: usize, task: Task, wait: bool) -> Outcome {
    let mut state = with_context()?;
    if wait {
        state.may_wait()?;
    }
    let stream = state.stream(stream)?;
    let task = match task {
        Task::Copy { dst, src, width, height: 1, src_device: false, dst_device: true, .. }
            if !state.is_pinned(src, width) && state.streams[&stream].capture.is_none() =>
        {
            // SAFETY: the program promises that the source has `width` bytes.
            let bytes: &[u8] =
                if width == 0 { &[] } else { unsafe { std::slice::from_raw_parts(src as *const u8, width) } };
            Task::Upload { dst, bytes: bytes.into() }
        }
        other => other,
    };
    state.push(stream, task)?;
    if wait { state.drain(stream) } else { Ok(()) }
}

/// Copies from the host and waits.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(dst: u64, src: *const c_void, size: usize) -> Code {
    call(|| queue(0, linear(dst, src as u64, size, true, false), true))
}

/// Copies to the host and waits.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(dst: *mut c_void, src: u64, size: usize) -> Code {
    call(|| queue(0, linear(dst as u64, src, size, false, true), true))
}

/// Copies on the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(dst: u64, src: u64, size: usize) -> Code {
    call(|| queue(0, linear(dst, src, size, true, true), true))
}

/// Queues a copy from the host.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(dst: u64, src: *const c_void, size: usize, stream: usize) -> Code {
    call(|| queue(stream, linear(dst, src as u64, size, true, false), false))
}

/// Queues a copy to the host.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: u64, size: usize, stream: usize) -> Code {
    call(|| queue(stream, linear(dst as u64, src, size, false, true), false))
}

/// Queues a copy on the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, size: usize, stream: usize) -> Code {
    call(|| queue(stream, linear(dst, src, size, true, true), false))
}

/// A copy whose sides are told apart by address.
fn unified(dst: u64, src: u64, size: usize, stream: usize, wait: bool) -> Outcome {
    let (to, from) = {
        let state = with_context()?;
        (state.memory.find(dst).is_some(), state.memory.find(src).is_some())
    };
    queue(stream, linear(dst, src, size, to, from), wait)
}

/// Copies between any addresses and waits.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy(dst: u64, src: u64, size: usize) -> Code {
    call(|| unified(dst, src, size, 0, true))
}

/// Queues a copy between any addresses.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(dst: u64, src: u64, size: usize, stream: usize) -> Code {
    call(|| unified(dst, src, size, stream, false))
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_type: c_uint,
    src_host: u64,
    src_device: u64,
    src_array: usize,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: c_uint,
    dst_host: u64,
    dst_device: u64,
    dst_array: usize,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

fn rows(copy: *const Copy2D, stream: usize, wait: bool) -> Outcome {
    if copy.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller gave a pointer to this structure.
    let copy = unsafe { &*copy };
    let side = |kind: c_uint, host: u64, device: u64| match kind {
        1 => Ok((host, false)),
        2 | 4 => Ok((device, true)),
        _ => Err(INVALID_VALUE),
    };
    let (src, src_device) = side(copy.src_type, copy.src_host, copy.src_device)?;
    let (dst, dst_device) = side(copy.dst_type, copy.dst_host, copy.dst_device)?;
    let src_pitch = if copy.src_pitch == 0 { copy.width } else { copy.src_pitch };
    let dst_pitch = if copy.dst_pitch == 0 { copy.width } else { copy.dst_pitch };
    let mut src = src + (copy.src_y * src_pitch + copy.src_x) as u64;
    let dst = dst + (copy.dst_y * dst_pitch + copy.dst_x) as u64;
    if src_device || copy.height == 0 {
        let (width, height) = (copy.width, copy.height);
        return queue(
            stream,
            Task::Copy { dst, src, width, height, dst_pitch, src_pitch, dst_device, src_device },
            wait,
        );
    }
    // Rows from the host go one by one, so that pageable ones are read at once.
    for row in 0..copy.height {
        let last = row + 1 == copy.height;
        queue(stream, linear(dst + (row * dst_pitch) as u64, src, copy.width, dst_device, false), wait && last)?;
        src += src_pitch as u64;
    }
    Ok(())
}

/// Copies rows and waits.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2D_v2(copy: *const Copy2D) -> Code {
    call(|| rows(copy, 0, true))
}

/// Queues a copy of rows.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2DAsync_v2(copy: *const Copy2D, stream: usize) -> Code {
    call(|| rows(copy, stream, false))
}

fn fill(dst: u64, pattern: u32, size: usize, count: usize, stream: usize, wait: bool) -> Outcome {
    let mut state = with_context()?;
    let stream = state.stream(stream)?;
    if dst % size as u64 != 0 {
        return Err(INVALID_VALUE);
    }
    state.push(stream, Task::Fill { dst, pattern, size, count })?;
    if wait { state.drain(stream) } else { Ok(()) }
}

/// Fills with bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) -> Code {
    call(|| fill(dst, value.into(), 1, count, 0, true))
}

/// Fills with 16-bit words.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(dst: u64, value: u16, count: usize) -> Code {
    call(|| fill(dst, value.into(), 2, count, 0, true))
}

/// Fills with 32-bit words.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(dst: u64, value: u32, count: usize) -> Code {
    call(|| fill(dst, value, 4, count, 0, true))
}

/// Queues a fill with bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: usize) -> Code {
    call(|| fill(dst, value.into(), 1, count, stream, false))
}

/// Queues a fill with 16-bit words.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: usize) -> Code {
    call(|| fill(dst, value.into(), 2, count, stream, false))
}

/// Queues a fill with 32-bit words.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(dst: u64, value: u32, count: usize, stream: usize) -> Code {
    call(|| fill(dst, value, 4, count, stream, false))
}
