//! Modules, functions and launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::state::{Function, State, sound, with_context};
use super::task::Task;
use super::{
    CAPTURE_UNSUPPORTED, Code, INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND, NOT_SUPPORTED,
    Outcome, call, set,
};
use crate::module::{Grid, MAX_SHARED, Module};

/// Shared memory of a block unless its function asks for more.
const DEFAULT_SHARED: u32 = 48 * 1024;

/// Loads PTX. Machine code of real devices is refused.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(target: *mut usize, image: *const c_void) -> Code {
    call(|| {
        let mut state = with_context()?;
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: an image has at least four bytes.
        let head = unsafe { image.cast::<[u8; 4]>().read_unaligned() };
        if head == *b"\x7fELF" || head == [0x50, 0xed, 0x55, 0xba] {
            eprintln!("softcuda: machine code can't be interpreted; compile to PTX");
            return Err(NO_BINARY_FOR_GPU);
        }
        // SAFETY: other images are texts with a NUL at their end.
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
        let module = Module::parse(&text).map_err(|error| {
            eprintln!("softcuda: {error}");
            INVALID_PTX
        })?;
        for (_, begin, end) in module.ranges() {
            state.memory.register(*begin, (end - begin) as usize);
        }
        let handle = state.handle();
        state.modules.insert(handle, Arc::new(module));
        set(target, handle)
    })
}

/// Loads PTX; the options change nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    target: *mut usize,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> Code {
    cuModuleLoadData(target, image)
}

/// Unloads a module, after all the work.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: usize) -> Code {
    call(|| {
        let mut state = sound()?;
        state.drain_all()?;
        let removed = state.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        for (_, begin, _) in removed.ranges() {
            state.memory.unregister(*begin);
        }
        state.functions.retain(|_, f| !Arc::ptr_eq(&f.module, &removed));
        Ok(())
    })
}

fn name(text: *const c_char) -> Outcome<String> {
    if text.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller gave a C string.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The kernel of a name.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(target: *mut usize, module: usize, text: *const c_char) -> Code {
    call(|| {
        let mut state = with_context()?;
        let name = name(text)?;
        let module = state.modules.get(&module).ok_or(INVALID_HANDLE)?.clone();
        if module.kernel(&name).is_none() {
            return Err(NOT_FOUND);
        }
        let handle = state.handle();
        state.functions.insert(handle, Function { module, name: name.into(), dynamic_limit: 0 });
        set(target, handle)
    })
}

/// Address and size of a variable of a module.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(
    target: *mut u64,
    bytes: *mut usize,
    module: usize,
    text: *const c_char,
) -> Code {
    call(|| {
        let state = with_context()?;
        let module = state.modules.get(&module).ok_or(INVALID_HANDLE)?;
        let (at, size) = module.global(&name(text)?).ok_or(NOT_FOUND)?;
        if !target.is_null() {
            set(target, at)?;
        }
        if bytes.is_null() { Ok(()) } else { set(bytes, size) }
    })
}

/// Sets a property of a kernel. Only the limit of dynamic shared memory matters.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: usize, which: c_uint, value: c_int) -> Code {
    call(|| {
        let mut state = sound()?;
        let f = state.functions.get_mut(&function).ok_or(INVALID_HANDLE)?;
        if which == 8 {
            let fixed = f.module.static_shared(&f.name).unwrap_or(0);
            if value < 0 || value as u32 + fixed > MAX_SHARED {
                return Err(INVALID_VALUE);
            }
            f.dynamic_limit = value as u32;
        }
        Ok(())
    })
}

/// A property of a kernel.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(target: *mut c_int, which: c_uint, function: usize) -> Code {
    call(|| {
        let state = sound()?;
        let f = state.functions.get(&function).ok_or(INVALID_HANDLE)?;
        let kernel = f.module.kernel(&f.name).ok_or(INVALID_HANDLE)?;
        let value = match which {
            0 => f.module.max_threads(&f.name).unwrap_or(1024) as c_int,
            1 => kernel.static_shared as c_int,
            3 => kernel.local_bytes as c_int,
            4 => 32,
            5 | 6 => 90,
            8 if f.dynamic_limit == 0 => DEFAULT_SHARED.saturating_sub(kernel.static_shared) as c_int,
            8 => f.dynamic_limit as c_int,
            _ => 0,
        };
        set(target, value)
    })
}

/// Cache preferences have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(_function: usize, _config: c_uint) -> Code {
    call(|| sound().map(drop))
}

/// Packs the parameters of a launch as the kernel declares them.
///
/// # Safety
///
/// `params` points to as many pointers as the kernel has parameters, or `extra` follows the driver's convention.
unsafe fn pack(f: &Function, params: *mut *mut c_void, extra: *mut *mut c_void) -> Outcome<Vec<u8>> {
    let kernel = f.module.kernel(&f.name).ok_or(INVALID_HANDLE)?;
    let mut out = vec![0u8; kernel.param_bytes as usize];
    if params.is_null() && !extra.is_null() {
        let (mut at, mut buffer, mut size) = (extra, std::ptr::null::<u8>(), 0usize);
        // SAFETY: the list ends with a null.
        unsafe {
            while !(*at).is_null() {
                match *at as usize {
                    1 => buffer = (*at.add(1)).cast(),
                    2 => size = *(*at.add(1)).cast::<usize>(),
                    _ => return Err(INVALID_VALUE),
                }
                at = at.add(2);
            }
            let size = size.min(out.len());
            std::ptr::copy_nonoverlapping(buffer, out.as_mut_ptr(), size);
        }
        return Ok(out);
    }
    for (i, &(offset, size)) in kernel.params.iter().enumerate() {
        if params.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: by the caller's promise.
        unsafe {
            let source = *params.add(i);
            if source.is_null() {
                return Err(INVALID_VALUE);
            }
            std::ptr::copy_nonoverlapping(source.cast(), out.as_mut_ptr().add(offset as usize), size as usize);
        }
    }
    Ok(out)
}

fn launch(
    state: &mut State,
    function: usize,
    (grid, early): (Grid, bool),
    stream: usize,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let id = state.stream(stream)?;
    let f = state.functions.get(&function).ok_or(INVALID_HANDLE)?;
    let kernel = f.module.kernel(&f.name).ok_or(INVALID_HANDLE)?;
    let threads = grid.units.iter().map(|u| u64::from(*u)).product::<u64>();
    let most = f.module.max_threads(&f.name).unwrap_or(1024);
    let refuse = |message: String| {
        eprintln!("softcuda: launch of `{}` refused: {message}", f.name);
        Err(INVALID_VALUE)
    };
    if let Err(message) = grid.check(kernel) {
        return refuse(message);
    }
    if threads == 0 || threads > u64::from(most) || grid.units[2] > 64 {
        return refuse(format!("blocks of {:?} threads; {most} are allowed", grid.units));
    }
    let limit = f.dynamic_limit.max(DEFAULT_SHARED.saturating_sub(kernel.static_shared));
    if grid.dynamic_shared > limit {
        return refuse(format!("{} bytes of dynamic shared memory; {limit} are allowed", grid.dynamic_shared));
    }
    // SAFETY: the caller of the entry point gave parameters for this kernel.
    let params = unsafe { pack(f, params, extra)? };
    let task = Task::Kernel { module: f.module.clone(), name: f.name.clone(), grid, params, early };
    state.push(id, task)
}

/// Queues a kernel.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub extern "C" fn cuLaunchKernel(
    function: usize,
    cubes_x: c_uint,
    cubes_y: c_uint,
    cubes_z: c_uint,
    units_x: c_uint,
    units_y: c_uint,
    units_z: c_uint,
    dynamic_shared: c_uint,
    stream: usize,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    call(|| {
        let mut state = with_context()?;
        let grid = Grid { cubes: [cubes_x, cubes_y, cubes_z], units: [units_x, units_y, units_z], dynamic_shared };
        launch(&mut state, function, (grid, false), stream, params, extra)
    })
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    cubes: [c_uint; 3],
    units: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: usize,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C, align(8))]
pub struct LaunchAttribute {
    id: c_uint,
    pad: [u8; 4],
    value: [u32; 16],
}

/// Whether `SOFTCUDA_OVERLAP` is this word.
pub(super) fn overlap(word: &str) -> bool {
    std::env::var_os("SOFTCUDA_OVERLAP").is_some_and(|said| said == word)
}

/// Fails where a kernel may not begin while earlier ones run: where it does not wait for them, or where what it comes behind is no kernel, as drivers say
/// too little of what happens then.
fn may_begin_early(state: &mut State, function: usize, stream: usize) -> Outcome {
    let id = state.stream(stream)?;
    if overlap("refuse") {
        return Err(NOT_SUPPORTED);
    }
    if let Some(capture) = state.streams[&id].capture.filter(|_| overlap("capture")) {
        let capture = state.captures.get_mut(&capture).ok_or(CAPTURE_UNSUPPORTED)?;
        capture.broken = true;
        return Err(CAPTURE_UNSUPPORTED);
    }
    let f = state.functions.get(&function).ok_or(INVALID_HANDLE)?;
    if !f.module.kernel(&f.name).is_some_and(|kernel| kernel.awaits) {
        eprintln!("softcuda: `{}` may begin while earlier kernels run, and does not wait for them", f.name);
        return Err(INVALID_VALUE);
    }
    if !state.streams[&id].after_kernel {
        eprintln!("softcuda: `{}` may begin early, and what it comes behind is no kernel", f.name);
        return Err(INVALID_VALUE);
    }
    Ok(())
}

/// Queues a kernel with attributes. Clusters of more than one block are refused unless the kernel itself asks for them.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: usize,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    call(|| {
        let mut state = with_context()?;
        if config.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller gave a pointer to this structure.
        let config = unsafe { &*config };
        let f = state.functions.get(&function).ok_or(INVALID_HANDLE)?;
        let kernel = f.module.kernel(&f.name).ok_or(INVALID_HANDLE)?;
        let size = kernel.cluster;
        let mut early = false;
        for i in 0..config.count as usize {
            // SAFETY: the array has `count` elements.
            let attribute = unsafe { &*config.attributes.add(i) };
            let [x, y, z, ..] = attribute.value.map(|n| n.max(1));
            if attribute.id == 4 && [x, y, z] != [size, 1, 1] {
                eprintln!("softcuda: clusters of {:?} blocks aren't supported: `{}` has {size}", [x, y, z], f.name);
                return Err(NOT_SUPPORTED);
            }
            // Programmatic stream serialisation.
            early |= attribute.id == 6 && attribute.value[0] != 0;
        }
        if early {
            may_begin_early(&mut state, function, config.stream)?;
        }
        let grid = Grid { cubes: config.cubes, units: config.units, dynamic_shared: config.dynamic_shared };
        launch(&mut state, function, (grid, early), config.stream, params, extra)
    })
}

/// Blocks of a kernel that run on one multiprocessor: always one.
#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    target: *mut c_int,
    _function: usize,
    _units: c_int,
    _dynamic_shared: usize,
) -> Code {
    call(|| {
        drop(sound()?);
        set(target, 1)
    })
}

/// Blocks of a kernel that run on one multiprocessor: always one.
#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    target: *mut c_int,
    function: usize,
    units: c_int,
    dynamic_shared: usize,
    _flags: c_uint,
) -> Code {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(target, function, units, dynamic_shared)
}
