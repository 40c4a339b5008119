//! GPU backends: `cuda`, and `wgpu` for everything else.
//!
//! One implementation on CubeCL serves both. An instance lowers every call of its plan once, when it is made; a step
//! then launches what was prepared and allocates nothing. What a device lacks (a type, a buffer size, a grid) is
//! refused then too, with the limit in the message, because CubeCL answers some of it with garbage. Results are the
//! same bytes run after run on one device.
//!
//! A device runs ahead of the host within an entry; at its end the instance waits and checks, so that no result is
//! ever read that some kernel did not write. The first run of an entry checks after every launch: whatever can go
//! wrong with a kernel itself (its expansion, its compilation) goes wrong then, and is reported with the call's place
//! in the model.
//!
//! Instances of several plans may share a state ([`state`]): they take turns, entry by entry.

mod bounds;
mod find;
mod host;
mod instance;
mod layout;
mod memory;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use ccl_codegen::gpu::Target;
use ccl_ir::Plan;

use crate::backend::{Backend, Instance, StateMemory};
use crate::device::DeviceInfo;
use crate::error::RuntimeError;
use crate::weights::WeightSource;
use find::{Api, Device};
use state::DeviceState;

/// A GPU that is ready.
#[derive(Clone)]
pub struct GpuBackend {
    device: Device,
}

impl GpuBackend {
    /// The NVIDIA GPU of this number, counted from 0.
    ///
    /// # Errors
    /// When there is no such GPU, or its driver cannot be used.
    pub fn cuda(index: usize) -> Result<Self, RuntimeError> {
        Self::open(Api::Cuda, index)
    }

    /// The wgpu adapter of this number, counted from 0 in the order of [`gpus`]: GPUs before software adapters.
    ///
    /// # Errors
    /// When there is no such adapter, or its driver cannot be used.
    pub fn wgpu(index: usize) -> Result<Self, RuntimeError> {
        Self::open(Api::Wgpu, index)
    }

    /// The best GPU: one of CUDA, then a hardware adapter of wgpu. `None` where there is none that works; software
    /// adapters are taken by [`GpuBackend::wgpu`] only.
    pub fn best() -> Option<Self> {
        let wgpu = || if find::may_have_hardware() { find::adapters(Api::Wgpu) } else { Vec::new() };
        let hardware = find::adapters(Api::Cuda).into_iter().chain(std::iter::once_with(wgpu).flatten());
        let opened = hardware.filter(|a| !a.is_software()).map(|a| Device::open(&a));
        let mut working = opened.filter_map(|d| d.inspect_err(|e| tracing::warn!("{e}")).ok());
        working.next().map(|device| Self { device })
    }

    fn open(api: Api, index: usize) -> Result<Self, RuntimeError> {
        let adapters = find::adapters(api);
        let adapter = adapters.get(index).ok_or_else(|| {
            let problem = match adapters.len() {
                0 => api.absent().into(),
                n => format!("device {index} was asked for, there are {n}, counted from 0"),
            };
            RuntimeError::Backend { backend: api.name(), problem }
        })?;
        Ok(Self { device: Device::open(adapter)? })
    }

    /// Whether this is a software adapter, which only imitates a GPU on the processor.
    pub fn is_software(&self) -> bool {
        self.device.software
    }
}

impl Backend for GpuBackend {
    fn name(&self) -> &'static str {
        self.device.api.name()
    }

    fn describe(&self) -> DeviceInfo {
        self.device.info.clone()
    }

    fn target(&self) -> Option<&Target> {
        Some(&self.device.target)
    }

    fn instantiate_with(
        &self,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Option<&StateMemory>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        plan.check()?;
        let state = match state {
            Some(state) => state.of::<DeviceState>(&plan)?,
            None => Arc::new(DeviceState::new(&self.device)),
        };
        state.check(&self.device)?;
        Ok(Box::new(instance::GpuInstance::new(self.device.clone(), plan, weights, state)?))
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
    for api in [Api::Cuda, Api::Wgpu] {
        let adapters = find::adapters(api);
        for adapter in &adapters {
            match Device::open(adapter) {
                Ok(device) => gpus.devices.push(device.info),
                Err(RuntimeError::Backend { problem, .. }) => gpus.missing.push((api.name(), problem)),
                Err(other) => gpus.missing.push((api.name(), other.to_string())),
            }
        }
        if adapters.is_empty() {
            gpus.missing.push((api.name(), api.absent().into()));
        }
    }
    gpus
}
