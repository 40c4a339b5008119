//! Which adapters of wgpu are there.
//!
//! Looking opens nothing and never fails: a machine without drivers has no devices, and says why. Opening a device
//! may fail, for instance where a driver is too old.

use ccl_codegen::gpu::target::CUBES_PER_MULTIPROCESSOR;
use ccl_codegen::gpu::{Target, Tiles};
use ccl_ir::DType;
use cubecl::client::Client;
use cubecl::device::{WgpuBackend, WgpuDevice, WgpuDeviceKind};
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, features::TypeUsage};

use super::watch::guarded;
use crate::device::{DeviceInfo, MemoryInfo, host_memory};
use crate::error::{RuntimeError, one_line};
use crate::gpu::engine::{Api, Facts};

/// Independent cubes for a software adapter: some for each core of a usual machine.
const SOFTWARE_PARALLELISM: usize = 8;

/// Kinds of wgpu adapters, best first, with their names.
const KINDS: [(WgpuDeviceKind, &str); 5] = [
    (WgpuDeviceKind::DiscreteGpu(0), "discrete gpu"),
    (WgpuDeviceKind::IntegratedGpu(0), "integrated gpu"),
    (WgpuDeviceKind::VirtualGpu(0), "virtual gpu"),
    (WgpuDeviceKind::Other(0), "gpu of unknown kind"),
    (WgpuDeviceKind::Cpu, "software adapter"),
];

/// A device that is there, not yet opened.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    device: WgpuDevice,
    /// `discrete gpu`, `software adapter`, ...
    pub kind: &'static str,
}

impl Adapter {
    /// Whether the adapter only imitates a GPU on the processor.
    pub(crate) fn is_software(&self) -> bool {
        self.device.kind == WgpuDeviceKind::Cpu
    }

    fn of(device: cubecl::Device) -> Option<Self> {
        let cubecl::Device::Wgpu(device) = device else { return None };
        let same = |kind: &WgpuDeviceKind| std::mem::discriminant(kind) == std::mem::discriminant(&device.kind);
        let kind = KINDS.iter().find(|(kind, _)| same(kind))?.1;
        Some(Self { device, kind })
    }
}

/// The devices of this machine: discrete GPUs before others and software last.
pub(crate) fn adapters() -> Vec<Adapter> {
    silence_layers();
    let found = [WgpuBackend::Vulkan, WgpuBackend::Metal, WgpuBackend::Dx12]
        .into_iter()
        // OpenGL is left out: any GPU that is made for computing has one of these.
        .filter(|&on| !like(&wgpu(WgpuDeviceKind::DefaultDevice, on)).is_empty())
        .flat_map(|on| KINDS.iter().flat_map(move |(kind, _)| like(&wgpu(kind.clone(), on))));
    found.filter_map(Adapter::of).collect()
}

/// Whether a hardware adapter of wgpu is possible. Loading Vulkan takes a while, and some of its layers write to
/// standard error where there is no display; on Linux a GPU has a device file, so a machine without one need not be
/// asked.
pub(crate) fn may_have_hardware() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let names = |dir: &str| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    let gpus = ["nvidia", "nvhost", "nvgpu", "dxg", "mali", "kgsl", "pvr"];
    let is_gpu = |name: &std::ffi::OsStr| gpus.iter().any(|g| name.to_string_lossy().starts_with(g));
    names("/dev").any(|n| is_gpu(&n)) || names("/dev/dri").next().is_some()
}

/// Turns off the layer that sorts Mesa's devices by what the display uses: where there is no display it finds nothing
/// and writes lines to standard error that look like errors of ours.
fn silence_layers() {
    const OFF: &str = "NODEVICE_SELECT";
    let set = |name: &str| std::env::var_os(name).is_some();
    // The layer is of use where there is a display or the user has a wish.
    if ["XDG_RUNTIME_DIR", OFF, "MESA_VK_DEVICE_SELECT", "DRI_PRIME"].into_iter().any(set) {
        return;
    }
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if threads.is_ok_and(|n| n == 1) {
        // SAFETY: the system says that this is the only thread of the process, so no other reads the environment.
        unsafe { std::env::set_var(OFF, "1") };
    }
}

fn wgpu(kind: WgpuDeviceKind, on: WgpuBackend) -> cubecl::Device {
    cubecl::Device::Wgpu(WgpuDevice::new(kind).on(on))
}

/// The devices of the same API and kind as this one, which need not be there itself.
fn like(device: &cubecl::Device) -> Vec<cubecl::Device> {
    let look = || cubecl::Device::enumerate(device.to_id()).into_iter().map(cubecl::Device::from_id).collect();
    guarded(look).unwrap_or_else(|problem| {
        tracing::warn!("looking for devices like {device:?} failed: {problem}");
        Vec::new()
    })
}

/// Opens a device.
///
/// # Errors
/// When its driver refuses.
pub(super) fn open(adapter: &Adapter) -> Result<(cubecl::Device, Client, Facts), RuntimeError> {
    let device = cubecl::Device::Wgpu(adapter.device.clone());
    let client = guarded(|| device.client()).map_err(|problem| RuntimeError::Backend {
        backend: Api::Wgpu.name(),
        problem: format!("the device ({}) cannot be opened: {problem}", adapter.kind),
    })?;
    let software = adapter.is_software();
    let target = target(client.properties(), software);
    let info = info(client.properties(), adapter, &target);
    Ok((device, client, Facts { api: Api::Wgpu, software, target, info }))
}

/// What kernels are lowered for on this device.
fn target(properties: &DeviceProperties, software: bool) -> Target {
    let hardware = &properties.hardware;
    let (x, y, z) = hardware.max_cube_count;
    let multiprocessors = hardware.num_streaming_multiprocessors.map_or(0, |n| n as usize);
    let usual = Target::wgpu();
    let parallelism = match (software, multiprocessors) {
        (true, _) => SOFTWARE_PARALLELISM,
        (false, 0) => usual.parallelism,
        (false, n) => n * CUBES_PER_MULTIPROCESSOR,
    };
    Target {
        max_cubes: [x, y, z],
        max_units: hardware.max_units_per_cube,
        shared_bytes: u32::try_from(hardware.max_shared_memory_size).unwrap_or(u32::MAX),
        max_buffers: hardware.max_bindings,
        max_buffer_bytes: properties.memory.max_page_size,
        halves: halves(properties),
        parallelism,
        tiles: if software { Tiles::Small } else { Tiles::Large },
        ..usual
    }
}

/// Half precision types that kernels can read, write and convert. A kernel with any other ends in garbage.
fn halves(properties: &DeviceProperties) -> Vec<DType> {
    let whole = TypeUsage::Buffer | TypeUsage::Conversion;
    [(DType::F16, FloatKind::F16), (DType::Bf16, FloatKind::BF16)]
        .into_iter()
        .filter(|(_, kind)| properties.type_usage(ElemType::Float(*kind)).is_superset(whole))
        .map(|(dtype, _)| dtype)
        .collect()
}

fn info(properties: &DeviceProperties, adapter: &Adapter, target: &Target) -> DeviceInfo {
    let hardware = &properties.hardware;
    let mut limits = vec![
        ("largest buffer in bytes", target.max_buffer_bytes),
        ("buffers of a kernel", target.max_buffers.into()),
        ("shared memory of a cube in bytes", hardware.max_shared_memory_size as u64),
        ("units of a cube", target.max_units.into()),
        ("cubes along x", target.max_cubes[0].into()),
        ("cubes along y", target.max_cubes[1].into()),
        ("cubes along z", target.max_cubes[2].into()),
    ];
    if let Some(n) = hardware.num_streaming_multiprocessors {
        limits.push(("multiprocessors", n.into()));
    }
    let element_types = [DType::F32].into_iter().chain(target.halves.iter().copied()).chain([DType::I32]).collect();
    DeviceInfo {
        backend: Api::Wgpu.name().into(),
        name: one_line(&properties.identity.name),
        kind: adapter.kind.into(),
        threads: None,
        cores: None,
        simd: Vec::new(),
        memory: match adapter.is_software() {
            true => host_memory(),
            false => MemoryInfo { total_bytes: properties.memory.max_memory(), available_bytes: None },
        },
        element_types,
        limits: limits.into_iter().map(|(name, value)| (name.into(), value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_come_best_first() {
        let found = adapters();
        assert!(found.iter().map(Adapter::is_software).is_sorted(), "{found:?}");
        assert!(may_have_hardware() || found.iter().all(Adapter::is_software), "{found:?}");
    }
}
