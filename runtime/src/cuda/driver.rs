//! The CUDA driver API, as far as it is used: each object gives itself back, each failure is a [`Fault`].
//!
//! Objects belong to a [`Context`] and keep it. A context that is lost is asked for nothing more, not even to free memory: it might
//! never answer.

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ccl_codegen::gpu::Target;
use ccl_codegen::gpu::tiles::RESERVED;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::stream::Stream;
use crate::error::one_line;
use crate::gpu::fault::Fault;

/// Words a driver's error.
pub(super) fn fault(what: &str, error: DriverError) -> Fault {
    let text = |t: Result<&std::ffi::CStr, DriverError>| t.ok().map(|t| t.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("error {}", error.0 as u32));
    let meaning = text(error.error_string()).map(|t| format!(", {t}")).unwrap_or_default();
    Fault { problem: one_line(&format!("{what}: {name}{meaning}")), lost: is_lost(error.0) }
}

/// Whether a context is of no use after an error.
fn is_lost(code: CUresult) -> bool {
    use CUresult::*;
    // CUDA_ERROR_NVLINK_UNCORRECTABLE, CUDA_ERROR_CONTAINED and CUDA_ERROR_TENSOR_MEMORY_LEAK, which older bindings do not name.
    let newer = [220, 226, 721].contains(&(code as u32));
    newer
        || matches!(
            code,
            CUDA_ERROR_DEINITIALIZED
                | CUDA_ERROR_ECC_UNCORRECTABLE
                | CUDA_ERROR_ILLEGAL_ADDRESS
                | CUDA_ERROR_LAUNCH_TIMEOUT
                | CUDA_ERROR_CONTEXT_IS_DESTROYED
                | CUDA_ERROR_ASSERT
                | CUDA_ERROR_HARDWARE_STACK_ERROR
                | CUDA_ERROR_ILLEGAL_INSTRUCTION
                | CUDA_ERROR_MISALIGNED_ADDRESS
                | CUDA_ERROR_INVALID_ADDRESS_SPACE
                | CUDA_ERROR_INVALID_PC
                | CUDA_ERROR_LAUNCH_FAILED
                | CUDA_ERROR_UNKNOWN
        )
}

/// A device's primary context.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    lost: AtomicBool,
}

// SAFETY: contexts may be used from any thread that has made them current.
unsafe impl Send for Context {}
// SAFETY: the driver orders calls itself.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the primary context of the device of this number.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn new(index: i32) -> Result<Arc<Self>, Fault> {
        let device = result::device::get(index).map_err(|e| fault("no device", e))?;
        // SAFETY: the device was found by the driver; the context is released once, in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| fault("no context", e))?;
        Ok(Arc::new(Self { device, context, lost: AtomicBool::new(false) }))
    }

    /// Makes the context this thread's.
    ///
    /// # Errors
    /// When it is lost.
    pub(super) fn enter(&self) -> Result<(), Fault> {
        if self.is_lost() {
            return Err(Fault { problem: "it was lost before".into(), lost: true });
        }
        // SAFETY: retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| fault("the context is not to be had", e))
    }

    /// Asks the device for nothing more.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Frees something, unless the context is lost.
    pub(super) fn free(&self, what: &str, free: impl FnOnce() -> Result<(), DriverError>) {
        if self.enter().is_err() {
            return;
        }
        if let Err(e) = free() {
            tracing::debug!("{what} was not given back: {}", fault("freeing", e).problem);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.is_lost() {
            // SAFETY: retained in `new`, and nothing that belongs to it is left: all of it keeps the context.
            if let Err(e) = unsafe { result::primary_ctx::release(self.device) } {
                tracing::debug!("a context was not released: {e:?}");
            }
        }
    }
}

/// Device memory.
pub(super) struct Allocation {
    context: Arc<Context>,
    at: sys::CUdeviceptr,
}

impl Allocation {
    /// So many bytes, whatever is in them.
    ///
    /// # Errors
    /// When there is no room.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<Self, Fault> {
        context.enter()?;
        // SAFETY: freed once, in `drop`; nothing reads it before something was written, by the plans' check.
        let at = unsafe { result::malloc_sync(bytes.max(1) as usize) };
        let at = at.map_err(|e| fault(&format!("{bytes} bytes cannot be allocated"), e))?;
        Ok(Self { context: Arc::clone(context), at })
    }

    /// Where it is.
    pub(super) fn address(&self) -> u64 {
        self.at
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; whoever launches work on it waits for that work before it lets go of it.
        self.context.free("memory", || unsafe { result::free_sync(self.at) });
    }
}

/// Memory of the host that the device copies from without help.
pub(super) struct Pinned {
    context: Arc<Context>,
    at: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory that nothing else refers to.
unsafe impl Send for Pinned {}
// SAFETY: it is written through `&mut` only.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// So many bytes.
    ///
    /// # Errors
    /// When the host has no room.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Fault> {
        context.enter()?;
        // SAFETY: freed once, in `drop`.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) };
        let at = at.map_err(|e| fault(&format!("{bytes} bytes of the host's memory cannot be pinned"), e))?;
        Ok(Self { context: Arc::clone(context), at, bytes })
    }

    /// The bytes, to write.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated in `new`; the system gives zeros or what was there before, any of which is a byte.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.bytes) }
    }

    /// Starts a copy of the first bytes to the device.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Safety
    /// Nothing writes the bytes and nothing frees either side until the stream has done the copy; the target has room.
    pub(super) unsafe fn copy(&self, to: u64, bytes: usize, stream: &Stream) -> Result<(), Fault> {
        // SAFETY: allocated in `new`, and as many bytes as it has at most.
        let from = unsafe { std::slice::from_raw_parts(self.at.cast::<u8>(), bytes.min(self.bytes)) };
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(to, from, stream.handle()) }.map_err(|e| fault("a copy to the device", e))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; copies from it are waited for before.
        self.context.free("pinned memory", || unsafe { result::free_host(self.at) });
    }
}

/// A kernel on a device.
pub(super) struct Kernel {
    context: Arc<Context>,
    module: sys::CUmodule,
    pub(super) function: sys::CUfunction,
    pub(super) units: [u32; 3],
    pub(super) shared_bytes: u32,
    /// Where it waits for earlier kernels itself, before it touches memory and before it ends: how its cubes are kept apart when it is launched early.
    pub(super) early: Option<Spread>,
}

/// A device's multiprocessors. Cubes that are placed while another kernel runs go where there is room then, several to one multiprocessor where others will
/// soon have none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    multiprocessors: u64,
    /// Shared memory of one in bytes, as much of it as a cube may have.
    shared_bytes: u32,
}

impl Spread {
    /// Those of a target.
    pub(super) fn of(target: &Target) -> Self {
        Self { multiprocessors: target.multiprocessors().max(1) as u64, shared_bytes: target.shared_bytes }
    }

    /// Shared memory for each of `cubes` cubes, so much that no multiprocessor has room for more than its share of them; at least the `bytes` that
    /// they need, and no more where they need none: then they are small, and what they have of the first-level cache counts.
    pub(super) fn shared(&self, cubes: [u32; 3], bytes: u32) -> u32 {
        let share = cubes.iter().map(|&n| u64::from(n)).product::<u64>().div_ceil(self.multiprocessors).max(1);
        let room = u64::from(self.shared_bytes) / share;
        // One more than its share must not fit.
        let apart = (room as u32).saturating_sub(RESERVED);
        if bytes == 0 { 0 } else { bytes.max(apart) }
    }
}

// SAFETY: functions may be launched from any thread whose context is theirs.
unsafe impl Send for Kernel {}
// SAFETY: it never changes.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Loads machine code, or PTX with a zero at its end, and finds the function `name` in it. `early`: it waits for earlier kernels itself.
    ///
    /// # Errors
    /// When the driver does not take it, or the device has less shared memory.
    pub(super) fn load(
        context: &Arc<Context>,
        code: &[u8],
        name: &str,
        units: [u32; 3],
        shared_bytes: u32,
        early: Option<Spread>,
    ) -> Result<Self, Fault> {
        context.enter()?;
        // SAFETY: the code is whole: an ELF file says its own size, and PTX ends with a zero.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = module.map_err(|e| fault("the driver does not load it", e))?;
        let name = CString::new(name).map_err(|_| Fault::failed("its name has a zero"))?;
        // SAFETY: loaded above.
        let function = unsafe { result::module::get_function(module, name) };
        let mut kernel =
            Self { context: Arc::clone(context), module, function: std::ptr::null_mut(), units, shared_bytes, early };
        kernel.function = function.map_err(|e| fault("it has no entry", e))?;
        if shared_bytes > 0 {
            // Room for cubes that are kept apart, where what the kernel has besides leaves it.
            let most = early.map_or(shared_bytes, |spread| spread.shared_bytes.max(shared_bytes));
            if kernel.allow(most).is_err() {
                kernel.early = None;
                kernel
                    .allow(shared_bytes)
                    .map_err(|e| fault(&format!("it asks for {shared_bytes} bytes of shared memory"), e))?;
            }
        }
        Ok(kernel)
    }

    /// Lets launches ask for so much shared memory.
    fn allow(&self, bytes: u32) -> Result<(), DriverError> {
        let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: found when the kernel was loaded.
        unsafe {
            result::function::set_function_attribute(self.function, what, i32::try_from(bytes).unwrap_or(i32::MAX))
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded in `load`; instances wait for their launches before they let go of kernels.
        self.context.free("a kernel", || unsafe { result::module::unload(self.module) });
    }
}
