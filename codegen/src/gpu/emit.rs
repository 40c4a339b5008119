//! A kernel's text for a target, without a device.

use std::sync::Arc;

use ccl_ir::DType;
use cubecl::prelude::*;
use cubecl_core::ir::features::{Features, Plane};
use cubecl_core::ir::{
    AddressType, DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties,
};
use cubecl_core::{Compiler, WgpuCompilationOptions};
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use cubecl_runtime::kernel::CubeKernel;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::launch::{Launch, Ref};
use super::renumber::renumber;
use super::target::{Language, Target};
use super::text::in_turn;
use super::universal::universal::Universal;

/// Why a kernel has no text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("kernel for {target}: {problem}")]
pub struct EmitError {
    /// Name of the target.
    pub target: String,
    /// What went wrong.
    pub problem: String,
}

/// The text of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelText {
    /// `cuda` or `wgsl`.
    pub language: String,
    /// The source.
    pub text: String,
    /// Shared memory that a launch asks for, in bytes, beyond what the text declares itself.
    pub shared_bytes: usize,
    /// Units of a cube.
    pub units: [u32; 3],
}

/// What a kernel is told of its target: what CubeCL would read off the device.
pub fn properties(target: &Target) -> Arc<DeviceProperties> {
    let cuda = matches!(target.language, Language::Cuda(_));
    let plane = if cuda { 32 } else { 8 };
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: plane,
        plane_size_max: plane,
        max_bindings: target.max_buffers,
        max_shared_memory_size: target.shared_bytes as usize,
        max_cube_count: (target.max_cubes[0], target.max_cubes[1], target.max_cubes[2]),
        max_units_per_cube: target.max_units,
        max_cube_dim: (target.max_units, target.max_units, 64),
        num_streaming_multiprocessors: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        max_vector_size: if cuda { cubecl_core::ir::VectorSize::MAX } else { 4 },
        cube_mma_reserved_shared_memory: 0,
    };
    let mut p = DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(target.max_buffer_bytes, 256),
        hardware,
        cubecl_core::profile::TimingMethod::Device,
        DeviceIdentity { name: target.name.clone(), fingerprint: target.name.clone(), physical: None },
    );
    cubecl_cpp::register_supported_types(&mut p);
    if let Language::Cuda(version) = target.language {
        p.features.plane.insert(Plane::Sync);
        let arch = CudaArchitecture { version, tensor_cores: true };
        cubecl_cpp::shared::register_mma_features(cubecl_cpp::cuda::supported_mma_combinations(&arch), &mut p);
    }
    Arc::new(p)
}

fn kernel(launch: &Launch, properties: &Arc<DeviceProperties>) -> Box<dyn CubeKernel> {
    match launch.blueprint.half {
        DType::F16 => build::<half::f16>(launch, properties),
        DType::Bf16 => build::<half::bf16>(launch, properties),
        DType::F32 | DType::I32 => build::<f32>(launch, properties),
    }
}

fn build<H: Float + CubeElement>(launch: &Launch, properties: &Arc<DeviceProperties>) -> Box<dyn CubeKernel> {
    let [x, y, z] = launch.blueprint.units;
    let settings = KernelSettings::new(CubeDim::new_3d(x, y, z).into(), ExecutionMode::Unchecked, AddressType::U32);
    Box::new(Universal::<H>::new(
        settings,
        properties.clone(),
        Arc::new(TargetProperties::default()),
        buffers(&launch.halves),
        buffers(&launch.floats),
        buffers(&launch.ints),
        buffers(&launch.half_outs),
        buffers(&launch.float_outs),
        SequenceCompilationArg { values: launch.sizes.iter().map(|_| ()).collect() },
        launch.blueprint.clone(),
    ))
}

/// Arguments for the buffers of a list, none of which is another's alias.
fn buffers<T>(list: &[Ref]) -> SequenceCompilationArg<Box<[T]>>
where
    Box<[T]>: LaunchArg<CompilationArg = BufferCompilationArg>,
{
    SequenceCompilationArg { values: list.iter().map(|_| BufferCompilationArg { inplace: None }).collect() }
}

/// The text of a launch's kernel.
///
/// # Errors
/// When CubeCL cannot compile it for the target.
pub fn emit(launch: &Launch, target: &Target) -> Result<KernelText, EmitError> {
    if let Some(text) = super::text::text(launch) {
        return Ok(text);
    }
    let wrong = |problem: String| EmitError { target: target.name.clone(), problem };
    let properties = properties(target);
    let kernel = kernel(launch, &properties);
    let definition = cubecl_core::define_kernel(&*kernel).map_err(|e| wrong(format!("{e:?}")))?;
    let units = launch.blueprint.units;
    match target.language {
        Language::Cuda(_) => {
            let features = CppSupportedFeatures {
                grid_constants: true,
                clusters: false,
                fast_math: false,
                fast_tanh: false,
                elect_sync: false,
                dp4a: false,
            };
            let options = CompilationOptions { warp_size: 32, amd_wmma: None, supports_features: features };
            let source = CppCompiler::<Cuda>::default().compile(definition, &options);
            let source = source.map_err(|e| wrong(format!("{e:?}")))?;
            let shared_bytes = source.shared_memory_size;
            let text = in_turn(&renumber(&source.to_string())).ok_or_else(|| wrong("the text has no kernel".into()))?;
            Ok(KernelText { language: "cuda".into(), text, shared_bytes, units })
        }
        Language::Wgsl => {
            let source = cubecl_wgpu::WgslCompiler.compile(definition, &WgpuCompilationOptions::default());
            let source = source.map_err(|e| wrong(format!("{e:?}")))?;
            Ok(KernelText { language: "wgsl".into(), text: source.to_string(), shared_bytes: 0, units })
        }
    }
}
