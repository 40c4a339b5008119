//! GPU backends: `cuda`, and `wgpu` for everything else.
//!
//! One implementation serves both, on what drives a device: an [`engine`]. An instance lowers every call of its plan once, when it is made; a
//! step then launches what was prepared, or replays what was recorded of it, and allocates nothing. What a device lacks (a type, a buffer size,
//! a grid) is refused then too, with the limit in the message, because CubeCL answers some of it with garbage. Results are the
//! same bytes run after run on one device.
//!
//! A device runs ahead of the host within an entry; at its end the instance waits and checks, so that no result is
//! ever read that some kernel did not write. The first run of an entry checks after every launch: whatever can go
//! wrong with a kernel itself (its expansion, its compilation) goes wrong then, and is reported with the call's place
//! in the model.
//!
//! Instances of several plans may share a state ([`state`]): they take turns, entry by entry.

mod bounds;
pub(crate) mod engine;
pub(crate) mod fault;
mod host;
pub(crate) mod instance;
mod layout;
mod memory;
pub(crate) mod residency;
mod state;

use std::sync::Arc;

use ccl_codegen::gpu::Target;
use ccl_codegen::gpu::tiles::Choices;
use ccl_ir::Plan;

use crate::backend::{Backend, Instance, StateMemory};
use crate::cuda::{self, CudaDevice};
use crate::device::DeviceInfo;
use crate::error::RuntimeError;
use crate::profile::Clock;
use crate::tuned;
use crate::weights::WeightSource;
use crate::wgpu::{WgpuEngine, find};
use engine::{Api, Engine, Facts};
use instance::GpuInstance;
use state::DeviceState;

/// A GPU that is ready.
#[derive(Clone)]
pub struct GpuBackend {
    device: Device,
    /// Bytes that a plan may take on the device.
    budget: Option<u64>,
}

#[derive(Clone)]
enum Device {
    Cuda(CudaDevice),
    Wgpu(WgpuEngine),
}

impl GpuBackend {
    /// The NVIDIA GPU of this number, counted from 0, with the tiles that were measured best on it ([`tuned::of_device`]).
    ///
    /// # Errors
    /// When there is no such GPU, or its driver cannot be used.
    pub fn cuda(index: usize) -> Result<Self, RuntimeError> {
        let found = cuda::devices()?;
        choose(Api::Cuda, found, index)?.map(|device| Self { device: Device::Cuda(device), budget: None }.measured())
    }

    /// The wgpu adapter of this number, counted from 0 in the order of [`gpus`]: GPUs before software adapters. With the tiles that were measured best.
    ///
    /// # Errors
    /// When there is no such adapter, or its driver cannot be used.
    pub fn wgpu(index: usize) -> Result<Self, RuntimeError> {
        let engine = WgpuEngine::open(&choose(Api::Wgpu, find::adapters(), index)?)?;
        Ok(Self { device: Device::Wgpu(engine), budget: None }.measured())
    }

    /// The best GPU: one of CUDA, then a hardware adapter of wgpu. `None` where there is none that works; software
    /// adapters are taken by number only.
    pub fn best() -> Option<Self> {
        let found = cuda::devices().inspect_err(|e| tracing::warn!("{e}")).unwrap_or_default();
        let cuda = found.into_iter().map(|d| d.map(Device::Cuda));
        let adapters = || if find::may_have_hardware() { find::adapters() } else { Vec::new() };
        let adapters = std::iter::once_with(adapters).flatten().filter(|a| !a.is_software());
        let opened = cuda.chain(adapters.map(|a| WgpuEngine::open(&a).map(Device::Wgpu)));
        let working = opened.filter_map(|d| d.inspect_err(|e| tracing::warn!("{e}")).ok());
        let mut gpus = working.map(|device| Self { device, budget: None });
        gpus.find(|gpu| !gpu.is_software()).map(Self::measured)
    }

    /// The device with the tiles that were measured best on it.
    fn measured(self) -> Self {
        let facts = self.facts();
        let choices = tuned::of_device(&facts.info.name, &facts.target);
        self.with_choices(choices)
    }

    /// The same device for plans that may take this many bytes there: weights that do not fit stay on the host and come while the plan runs.
    ///
    /// # Errors
    /// When the device keeps all weights.
    pub fn within(self, bytes: u64) -> Result<Self, RuntimeError> {
        let api = self.facts().api;
        if !api.streams() {
            let problem = format!("backend {} keeps all weights on the device; use --backend cuda", api.name());
            return Err(RuntimeError::option("--memory-budget", problem));
        }
        Ok(Self { budget: Some(bytes), ..self })
    }

    /// The same device with these tiles for its kernels, and what is expected to be best where they name none.
    pub fn with_choices(mut self, choices: Choices) -> Self {
        match &mut self.device {
            Device::Cuda(device) => *device = device.clone().with_choices(choices),
            Device::Wgpu(engine) => engine.facts.target.choices = choices,
        }
        self
    }

    /// Name and version of the library of the device's maker that may do products.
    ///
    /// # Errors
    /// When there is none; the message says what to do.
    pub fn library(&self) -> Result<String, String> {
        match &self.device {
            Device::Cuda(device) => device.library(),
            Device::Wgpu(_) => Err("wgpu has no library of products".into()),
        }
    }

    fn facts(&self) -> &Facts {
        match &self.device {
            Device::Cuda(device) => device.facts(),
            Device::Wgpu(engine) => engine.facts(),
        }
    }

    /// Whether this is a software adapter, which only imitates a GPU on the processor.
    pub fn is_software(&self) -> bool {
        self.facts().software
    }

    /// The device with another description, to see what happens where the two disagree.
    #[cfg(test)]
    pub(crate) fn target_mut(&mut self) -> &mut Target {
        match &mut self.device {
            Device::Cuda(device) => device.target_mut(),
            Device::Wgpu(engine) => &mut engine.facts.target,
        }
    }
}

/// Takes one of the devices that were found.
fn choose<T>(api: Api, mut found: Vec<T>, index: usize) -> Result<T, RuntimeError> {
    let count = found.len();
    if index < count {
        return Ok(found.swap_remove(index));
    }
    let problem = match count {
        0 => api.absent().into(),
        n => format!("device {index} was asked for, there are {n}, counted from 0"),
    };
    Err(RuntimeError::Backend { backend: api.name(), problem })
}

fn instantiate<E: Engine>(
    engine: E,
    plan: Arc<Plan>,
    weights: &dyn WeightSource,
    state: Option<&StateMemory>,
    budget: Option<u64>,
) -> Result<Box<dyn Instance>, RuntimeError> {
    plan.check()?;
    let engine = Arc::new(engine);
    let state = match state {
        Some(state) => state.of::<DeviceState<E>>(&plan)?,
        None => Arc::new(DeviceState::new(Arc::clone(&engine))),
    };
    state.check(&engine)?;
    Ok(Box::new(GpuInstance::new(engine, plan, weights, state, budget)?))
}

impl Backend for GpuBackend {
    fn name(&self) -> &'static str {
        self.facts().api.name()
    }

    fn describe(&self) -> DeviceInfo {
        self.facts().info.clone()
    }

    fn target(&self) -> Option<&Target> {
        Some(&self.facts().target)
    }

    fn memory_budget(&self) -> Option<u64> {
        self.budget
    }

    fn plain(&self) -> Option<Box<dyn Backend>> {
        match self.device.clone() {
            Device::Cuda(device) => {
                let device = Device::Cuda(device.plain()?);
                Some(Box::new(Self { device, budget: self.budget }))
            }
            Device::Wgpu(_) => None,
        }
    }

    fn clock(&self) -> Clock {
        match &self.device {
            Device::Cuda(_) => Clock::Device,
            Device::Wgpu(engine) => engine.clock(),
        }
    }

    fn instantiate_with(
        &self,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Option<&StateMemory>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        match &self.device {
            Device::Cuda(device) => instantiate(device.engine()?, plan, weights, state, self.budget),
            Device::Wgpu(engine) => instantiate(engine.engine(), plan, weights, state, self.budget),
        }
    }
}

/// All GPUs of this machine, software adapters last, and why there are not more.
#[derive(Clone, Debug, Default)]
pub struct Gpus {
    /// Devices that are ready.
    pub devices: Vec<DeviceInfo>,
    /// Backends without a device, and devices that cannot be used: the backend's name and the reason.
    pub missing: Vec<(&'static str, String)>,
}

/// Looks for GPUs and opens each.
pub fn gpus() -> Gpus {
    let mut gpus = Gpus::default();
    let cuda = cuda::devices().unwrap_or_else(|e| vec![Err(e)]);
    let wgpu = find::adapters().iter().map(WgpuEngine::open).collect();
    list(&mut gpus, Api::Cuda, cuda, CudaDevice::facts);
    list(&mut gpus, Api::Wgpu, wgpu, |engine| &engine.facts);
    gpus
}

fn list<T>(gpus: &mut Gpus, api: Api, found: Vec<Result<T, RuntimeError>>, facts: impl Fn(&T) -> &Facts) {
    if found.is_empty() {
        gpus.missing.push((api.name(), api.absent().into()));
    }
    for device in found {
        match device {
            Ok(device) => gpus.devices.push(facts(&device).info.clone()),
            Err(RuntimeError::Backend { problem, .. }) => gpus.missing.push((api.name(), problem)),
            Err(other) => gpus.missing.push((api.name(), other.to_string())),
        }
    }
}
