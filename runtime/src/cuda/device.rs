//! NVIDIA GPUs as the driver lists them.
//!
//! Looking opens no context: a device that is not used costs neither time nor memory.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ccl_codegen::gpu::target::CUBES_PER_MULTIPROCESSOR;
use ccl_codegen::gpu::tiles::Choices;
use ccl_codegen::gpu::{Target, Tiles};
use ccl_ir::DType;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::blas::Blas;
use super::driver::{Context, fault};
use super::engine::CudaEngine;
use super::kernels::Loaded;
use crate::device::{CACHE, DeviceInfo, MemoryInfo, host_memory};
use crate::error::{RuntimeError, one_line};
use crate::gpu::engine::{Api, Facts};
use crate::wgpu::watch::guarded;

/// Independent cubes for a software driver.
const SOFTWARE_PARALLELISM: usize = 8;
/// What the names of software drivers' devices start with.
const SOFTWARE: &str = "softcuda";
/// The oldest CUDA version whose driver has everything that is called here.
const OLDEST_DRIVER: i32 = 11040;
/// The oldest compute capability that kernels are compiled for.
const OLDEST_CAPABILITY: u32 = 75;

/// A device that is there.
#[derive(Clone)]
pub(crate) struct CudaDevice {
    index: i32,
    facts: Facts,
    /// CUDA version of the driver, e.g. 13000.
    driver: i32,
    open: Arc<Mutex<Option<Arc<Open>>>>,
}

/// What all instances on a device share.
pub(super) struct Open {
    pub index: i32,
    pub context: Arc<Context>,
    pub facts: Facts,
    /// CUDA version of the driver, e.g. 13000.
    pub driver: i32,
    pub loaded: Loaded,
    blas: OnceLock<Result<Arc<Blas>, String>>,
}

impl Open {
    /// cuBLASLt, looked for when it is first asked for.
    ///
    /// # Errors
    /// When it is not there; the message says what to do.
    pub(super) fn blas(&self) -> Result<Arc<Blas>, String> {
        self.blas.get_or_init(|| Blas::find(&self.context, self.facts.software).map(Arc::new)).clone()
    }
}

/// All devices, GPUs before software ones, or what is wrong with each; none where there is no driver.
///
/// # Errors
/// When there is a driver that does not work.
pub(crate) fn devices() -> Result<Vec<Result<CudaDevice, RuntimeError>>, RuntimeError> {
    // A driver that lacks a function makes a panic.
    let found = guarded(list).map_err(|problem| RuntimeError::Backend { backend: Api::Cuda.name(), problem })??;
    let mut found: Vec<_> = found.into_iter().map(|found| found.map_err(backend)).collect();
    found.sort_by_key(|d| d.as_ref().map_or(1, |d| if d.facts.software { 2 } else { 0 }));
    Ok(found)
}

fn backend(problem: String) -> RuntimeError {
    RuntimeError::Backend { backend: Api::Cuda.name(), problem }
}

fn list() -> Result<Vec<Result<CudaDevice, String>>, RuntimeError> {
    // SAFETY: loading NVIDIA's library runs its initialisers, which ask nothing of the caller.
    if !unsafe { sys::is_culib_present() } {
        return Ok(Vec::new());
    }
    let wrong = |e: DriverError| backend(fault("the driver (libcuda) does not start", e).problem);
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        other => other.map_err(wrong)?,
    }
    let mut driver = 0;
    // SAFETY: a number to write to.
    unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result().map_err(wrong)?;
    if driver < OLDEST_DRIVER {
        let (have, need) = (version(driver), version(OLDEST_DRIVER));
        return Err(backend(format!("the driver is of CUDA {have}, {need} or newer is needed: update it")));
    }
    let count = result::device::get_count().map_err(wrong)?;
    Ok((0..count).map(|i| CudaDevice::find(i, driver).map_err(|e| fault(&format!("device {i}"), e).problem)).collect())
}

/// A version as people write it.
pub(super) fn version(n: i32) -> String {
    format!("{}.{}", n / 1000, n % 1000 / 10)
}

impl CudaDevice {
    fn find(index: i32, driver: i32) -> Result<Self, DriverError> {
        let device = result::device::get(index)?;
        // SAFETY: the driver has just named the device.
        let attribute = |a: Attribute| unsafe { result::device::get_attribute(device, a) };
        let positive = |a| attribute(a).map(|n| u32::try_from(n).unwrap_or(0));
        let capability = 10 * positive(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
            + positive(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = positive(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let max_cubes = [
            positive(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
            positive(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
            positive(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
        ];
        let name = one_line(&result::device::get_name(device)?);
        let software = name.starts_with(SOFTWARE);
        // SAFETY: the driver has just named the device.
        let memory = unsafe { result::device::total_mem(device) }? as u64;
        let usual = Target::cuda("cuda", capability);
        let halves = [(53, DType::F16), (80, DType::Bf16)];
        let target = Target {
            max_cubes: [0, 1, 2].map(|i| max_cubes[i].min(usual.max_cubes[i])),
            max_units: positive(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            shared_bytes: positive(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            max_buffer_bytes: memory,
            halves: halves.into_iter().filter(|(least, _)| capability >= *least).map(|(_, t)| t).collect(),
            parallelism: match software {
                true => SOFTWARE_PARALLELISM,
                false => (multiprocessors as usize * CUBES_PER_MULTIPROCESSOR).max(1),
            },
            // The kernels of real devices, which a software driver is for checking.
            tiles: Tiles::Large,
            ..usual
        };
        let cache = positive(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let info = info(&name, software, [capability, multiprocessors, cache], memory, &target);
        let facts = Facts { api: Api::Cuda, software, target, info };
        Ok(Self { index, facts, driver, open: Arc::default() })
    }

    /// The same device with these tiles for its kernels.
    pub(crate) fn with_choices(mut self, choices: Choices) -> Self {
        self.facts.target.choices = choices;
        self
    }

    /// The same device with plain kernels alone; `None` where it has no others.
    pub(crate) fn plain(mut self) -> Option<Self> {
        let others = self.facts.target.is_wide();
        (self.facts.target.choices, self.facts.target.plain) = (Choices::default(), true);
        others.then_some(self)
    }

    /// What is known of the device.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The device with another description.
    #[cfg(test)]
    pub(crate) fn target_mut(&mut self) -> &mut Target {
        &mut self.facts.target
    }

    /// Opens the device, for one plan.
    ///
    /// # Errors
    /// When the driver refuses, or the device is too old.
    pub(crate) fn engine(&self) -> Result<CudaEngine, RuntimeError> {
        CudaEngine::new(self.opened()?, self.facts.clone()).map_err(|f| self.not_opened(f.problem))
    }

    /// Name and version of cuBLASLt.
    ///
    /// # Errors
    /// When it is not there, or the device cannot be opened.
    pub(crate) fn library(&self) -> Result<String, String> {
        let open = self.opened().map_err(|e| e.to_string())?;
        open.blas().map(|blas| blas.version().to_owned())
    }

    fn not_opened(&self, problem: String) -> RuntimeError {
        backend(format!("{} cannot be opened: {problem}", self.facts.info.name))
    }

    fn opened(&self) -> Result<Arc<Open>, RuntimeError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let word = |problem: String| self.not_opened(problem);
        if open.is_none() {
            let capability = self.facts.target.capability().unwrap_or(0);
            if capability < OLDEST_CAPABILITY {
                let [have, need] = [capability, OLDEST_CAPABILITY].map(|n| format!("{}.{}", n / 10, n % 10));
                return Err(word(format!("its compute capability is {have}, {need} is needed; use --backend wgpu")));
            }
            let context = guarded(|| Context::new(self.index)).map_err(word)?.map_err(|f| word(f.problem))?;
            let (index, driver, facts) = (self.index, self.driver, self.facts.clone());
            *open = Some(Arc::new(Open {
                index,
                context,
                facts,
                driver,
                loaded: Loaded::default(),
                blas: OnceLock::new(),
            }));
        }
        open.clone().ok_or_else(|| word("nothing was opened".into()))
    }
}

fn info(name: &str, software: bool, has: [u32; 3], memory: u64, target: &Target) -> DeviceInfo {
    let [capability, multiprocessors, cache] = has;
    let limits = [
        ("largest buffer in bytes", target.max_buffer_bytes),
        ("shared memory of a cube in bytes", target.shared_bytes.into()),
        ("units of a cube", target.max_units.into()),
        ("cubes along x", target.max_cubes[0].into()),
        ("cubes along y", target.max_cubes[1].into()),
        ("cubes along z", target.max_cubes[2].into()),
        ("multiprocessors", multiprocessors.into()),
        (CACHE, cache.into()),
        ("compute capability times 10", capability.into()),
    ];
    DeviceInfo {
        backend: Api::Cuda.name().into(),
        name: name.into(),
        kind: if software { "software driver" } else { "gpu" }.into(),
        threads: None,
        cores: None,
        simd: Vec::new(),
        memory: match software {
            true => host_memory(),
            false => MemoryInfo { total_bytes: Some(memory), available_bytes: None },
        },
        element_types: [DType::F32].into_iter().chain(target.halves.iter().copied()).chain([DType::I32]).collect(),
        limits: limits.into_iter().map(|(name, value)| (name.into(), value)).collect(),
    }
}
