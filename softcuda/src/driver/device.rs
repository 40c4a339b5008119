//! Initialisation, the device, and the context.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::state::{CONTEXT, TOTAL_MEMORY, current, initialised, lock, set_current, with_context};
use super::{Code, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NOT_FOUND, Outcome, call, set};
use crate::module::MAX_SHARED;

const NAME: &str = "softcuda (PTX interpreter)";
const UUID: [u8; 16] = *b"softcuda-device0";

fn device(index: c_int) -> Outcome {
    drop(initialised()?);
    if index == 0 { Ok(()) } else { Err(INVALID_DEVICE) }
}

/// Initialises the driver.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> Code {
    call(|| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        lock().initialised = true;
        Ok(())
    })
}

/// The version of CUDA that the driver supports.
#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    call(|| match std::env::var("SOFTCUDA_VERSION") {
        Ok(asked) => match asked.parse() {
            Ok(number) => set(version, number),
            Err(_) => {
                eprintln!("softcuda: SOFTCUDA_VERSION is `{asked}`, not a number as 12080 for CUDA 12.8");
                Err(INVALID_VALUE)
            }
        },
        Err(_) => set(version, 13000),
    })
}

/// There is one device.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    call(|| {
        drop(initialised()?);
        set(count, 1)
    })
}

/// The device's handle.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(target: *mut c_int, index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(target, index)
    })
}

fn text(target: *mut c_char, len: c_int, text: &str) -> Outcome {
    if target.is_null() || len <= 0 {
        return Err(INVALID_VALUE);
    }
    let n = text.len().min(len as usize - 1);
    // SAFETY: the caller's buffer has `len` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), target.cast(), n);
        target.add(n).write(0);
    }
    Ok(())
}

/// The device's name.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(target: *mut c_char, len: c_int, index: c_int) -> Code {
    call(|| {
        device(index)?;
        text(target, len, NAME)
    })
}

/// The device's address on the bus.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(target: *mut c_char, len: c_int, index: c_int) -> Code {
    call(|| {
        device(index)?;
        text(target, len, "0000:00:00.0")
    })
}

/// The device's UUID.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(target: *mut [u8; 16], index: c_int) -> Code {
    cuDeviceGetUuid_v2(target, index)
}

/// The device's UUID.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(target: *mut [u8; 16], index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(target, UUID)
    })
}

/// The device's LUID.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetLuid(target: *mut [u8; 8], mask: *mut c_uint, index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(target, *b"softcuda")?;
        set(mask, 1)
    })
}

/// Bytes of device memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(bytes, TOTAL_MEMORY as usize)
    })
}

/// Properties as of an H200.
fn attribute(which: c_uint) -> Option<c_int> {
    Some(match which {
        1 => 1024,
        2 | 3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => 48 * 1024,
        9 => 64 * 1024,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65536,
        13 => 1_980_000,
        14 | 30 => 512,
        15 | 19 | 31 | 32 | 41 | 78 | 79 | 80 | 83 | 90 | 91 | 92 | 93 | 94 | 95 | 98 | 99 | 102 | 103 | 113 | 114
        | 115 => 1,
        16 => 132,
        36 => 3_201_000,
        37 => 6144,
        38 => 50 << 20,
        39 => 2048,
        40 => 3,
        51 => 32,
        75 => 9,
        76 => 0,
        81 => 228 * 1024,
        87 => 2,
        97 => MAX_SHARED as c_int,
        106 => 32,
        108 => 32 << 20,
        109 => 128 << 20,
        111 => 1024,
        119 => 1,
        120 => 1,
        // Features that this driver doesn't have, and those that later versions added.
        17..=170 => 0,
        _ => return None,
    })
}

/// A property of the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(target: *mut c_int, which: c_uint, index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(target, attribute(which).ok_or(INVALID_VALUE)?)
    })
}

/// The default memory pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(target: *mut usize, index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(target, 0x9001)
    })
}

/// The current memory pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(target: *mut usize, index: c_int) -> Code {
    cuDeviceGetDefaultMemPool(target, index)
}

/// Settings of memory pools have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(_pool: usize, _which: c_uint, _value: *mut u64) -> Code {
    call(|| initialised().map(drop))
}

/// Counters of memory pools are zero.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(_pool: usize, _which: c_uint, value: *mut u64) -> Code {
    call(|| {
        drop(initialised()?);
        set(value, 0)
    })
}

/// Memory pools hold nothing back.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(_pool: usize, _keep: usize) -> Code {
    call(|| initialised().map(drop))
}

/// The primary context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(target: *mut usize, index: c_int) -> Code {
    call(|| {
        device(index)?;
        set(target, CONTEXT)
    })
}

/// The primary context stays until the process ends.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(index: c_int) -> Code {
    call(|| device(index))
}

/// Makes a context current in this thread.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: usize) -> Code {
    call(|| {
        drop(initialised()?);
        if context != 0 && context != CONTEXT {
            return Err(INVALID_CONTEXT);
        }
        set_current(context);
        Ok(())
    })
}

/// The context that is current in this thread.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(target: *mut usize) -> Code {
    call(|| {
        drop(initialised()?);
        set(target, current())
    })
}

/// The device of the current context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(target: *mut c_int) -> Code {
    call(|| {
        drop(with_context()?);
        set(target, 0)
    })
}

/// Waits for everything.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    call(|| {
        let mut state = with_context()?;
        state.not_capturing()?;
        state.drain_all()
    })
}

/// Priorities that streams can have. They change nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Code {
    call(|| {
        drop(with_context()?);
        if !least.is_null() {
            set(least, 0)?;
        }
        if greatest.is_null() { Ok(()) } else { set(greatest, -5) }
    })
}

/// Limits of the context have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(_which: c_uint, _value: usize) -> Code {
    call(|| with_context().map(drop))
}

/// Scheduling flags have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(_flags: c_uint) -> Code {
    call(|| with_context().map(drop))
}

/// Tables of functions that NVIDIA's own libraries ask for, NVRTC among them: there are none. They call them without looking where this entry is
/// missing.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(target: *mut *const c_void, _id: *const c_void) -> Code {
    call(|| {
        set(target, std::ptr::null())?;
        Err(NOT_FOUND)
    })
}
