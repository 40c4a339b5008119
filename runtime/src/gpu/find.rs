//! Which GPUs are there.
//!
//! Looking opens nothing and never fails: a machine without drivers has no devices, and says why. Opening a device
//! may fail, for instance where a driver is too old.

use ccl_codegen::gpu::{Language, Target, Tiles};
use ccl_ir::DType;
use cubecl::client::Client;
use cubecl::device::{CudaDevice, WgpuBackend, WgpuDevice, WgpuDeviceKind};
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, features::TypeUsage};

use super::watch::guarded;
use crate::device::{DeviceInfo, MemoryInfo, host_memory};
use crate::error::{RuntimeError, one_line};

/// Shared memory that a CUDA kernel may declare; more has to be asked for at each launch.
const CUDA_SHARED: usize = 48 * 1024;
/// Independent cubes that keep one multiprocessor busy.
const CUBES_PER_MULTIPROCESSOR: usize = 4;
/// Independent cubes for a software adapter: some for each core of a usual machine.
const SOFTWARE_PARALLELISM: usize = 8;

/// Which of CubeCL's runtimes drives a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Cuda,
    Wgpu,
}

impl Api {
    /// Name as on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }

    /// Why there may be no device, and what to do.
    pub(super) fn absent(self) -> &'static str {
        match self {
            Self::Cuda => "no NVIDIA GPU with a driver (libcuda) was found",
            Self::Wgpu => {
                "no adapter with a Vulkan, Metal or DirectX 12 driver was found (a software one: mesa-vulkan-drivers)"
            }
        }
    }
}

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
pub(super) struct Adapter {
    device: cubecl::Device,
    pub api: Api,
    /// `discrete gpu`, `software adapter`, ...
    pub kind: &'static str,
}

impl Adapter {
    /// Whether the adapter only imitates a GPU on the processor.
    pub(super) fn is_software(&self) -> bool {
        matches!(&self.device, cubecl::Device::Wgpu(d) if d.kind == WgpuDeviceKind::Cpu)
    }

    fn of(device: cubecl::Device) -> Option<Self> {
        let (api, kind) = match &device {
            cubecl::Device::Cuda(_) => (Api::Cuda, "gpu"),
            cubecl::Device::Wgpu(wgpu) => {
                let same = |kind: &WgpuDeviceKind| std::mem::discriminant(kind) == std::mem::discriminant(&wgpu.kind);
                (Api::Wgpu, KINDS.iter().find(|(kind, _)| same(kind))?.1)
            }
            _ => return None,
        };
        Some(Self { device, api, kind })
    }
}

/// The devices of an API on this machine: discrete GPUs before others and software last.
pub(super) fn adapters(api: Api) -> Vec<Adapter> {
    silence_layers();
    let found: Vec<cubecl::Device> = match api {
        Api::Cuda => like(&cubecl::Device::Cuda(CudaDevice::new(0))),
        Api::Wgpu => [WgpuBackend::Vulkan, WgpuBackend::Metal, WgpuBackend::Dx12]
            .into_iter()
            // OpenGL is left out: any GPU that is made for computing has one of these.
            .filter(|&on| !like(&wgpu(WgpuDeviceKind::DefaultDevice, on)).is_empty())
            .flat_map(|on| KINDS.iter().flat_map(move |(kind, _)| like(&wgpu(kind.clone(), on))))
            .collect(),
    };
    found.into_iter().filter_map(Adapter::of).collect()
}

/// Whether a hardware adapter of wgpu is possible. Loading Vulkan takes a while, and some of its layers write to
/// standard error where there is no display; on Linux a GPU has a device file, so a machine without one need not be
/// asked.
pub(super) fn may_have_hardware() -> bool {
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

/// A device that is ready.
#[derive(Clone)]
pub(super) struct Device {
    /// CubeCL's name of it.
    pub id: cubecl::Device,
    pub client: Client,
    pub api: Api,
    pub software: bool,
    pub target: Target,
    pub info: DeviceInfo,
}

impl Device {
    /// Opens a device.
    ///
    /// # Errors
    /// When its driver refuses.
    pub(super) fn open(adapter: &Adapter) -> Result<Self, RuntimeError> {
        let client = guarded(|| adapter.device.client()).map_err(|problem| RuntimeError::Backend {
            backend: adapter.api.name(),
            problem: format!("the device ({}) cannot be opened: {problem}", adapter.kind),
        })?;
        let software = adapter.is_software();
        let target = target(client.properties(), adapter.api, software);
        let info = info(client.properties(), adapter, &target);
        Ok(Self { id: adapter.device.clone(), client, api: adapter.api, software, target, info })
    }
}

/// What kernels are lowered for on this device.
fn target(properties: &DeviceProperties, api: Api, software: bool) -> Target {
    let hardware = &properties.hardware;
    let (x, y, z) = hardware.max_cube_count;
    let multiprocessors = hardware.num_streaming_multiprocessors.map_or(0, |n| n as usize);
    let usual = match api {
        Api::Cuda => Target::cuda("cuda", capability(&properties.identity.fingerprint)),
        Api::Wgpu => Target::wgpu(),
    };
    let parallelism = match (software, multiprocessors) {
        (true, _) => SOFTWARE_PARALLELISM,
        (false, 0) => usual.parallelism,
        (false, n) => n * CUBES_PER_MULTIPROCESSOR,
    };
    let shared = match api {
        Api::Cuda => hardware.max_shared_memory_size.min(CUDA_SHARED),
        Api::Wgpu => hardware.max_shared_memory_size,
    };
    Target {
        max_cubes: [x, y, z],
        max_units: hardware.max_units_per_cube,
        shared_bytes: u32::try_from(shared).unwrap_or(u32::MAX),
        max_buffers: hardware.max_bindings,
        max_buffer_bytes: match api {
            // Buffers that are allocated by themselves may take the whole device; only pools have pages.
            Api::Cuda => properties.memory.max_memory().unwrap_or(properties.memory.max_page_size),
            Api::Wgpu => properties.memory.max_page_size,
        },
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

/// The compute capability in CubeCL's name for what it compiles for, e.g. `ptx_sm90`; the oldest that CUDA 13 has
/// where there is none.
fn capability(fingerprint: &str) -> u32 {
    fingerprint.rsplit_once("sm").and_then(|(_, digits)| digits.parse().ok()).unwrap_or(75)
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
    if let Language::Cuda(n) = target.language {
        limits.push(("compute capability times 10", n.into()));
    }
    let element_types = [DType::F32].into_iter().chain(target.halves.iter().copied()).chain([DType::I32]).collect();
    DeviceInfo {
        backend: adapter.api.name().into(),
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
    fn capabilities_are_read_off_names() {
        for (name, want) in [("ptx_sm90", 90), ("ptx_sm100", 100), ("hip", 75), ("", 75)] {
            assert_eq!(capability(name), want, "{name}");
        }
    }

    #[test]
    fn adapters_come_best_first() {
        let found = adapters(Api::Wgpu);
        assert!(found.iter().map(Adapter::is_software).is_sorted(), "{found:?}");
        assert!(may_have_hardware() || found.iter().all(Adapter::is_software), "{found:?}");
    }
}
