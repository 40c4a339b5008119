//! What kernels are generated for, described without a device.

use ccl_ir::DType;
use serde::{Deserialize, Serialize};

use super::tensor::tiles::Choices;

/// Independent cubes that keep one multiprocessor busy.
pub const CUBES_PER_MULTIPROCESSOR: usize = 4;

/// Limits and tiles of a target. Kernels for a device at hand and kernels for a plan file are lowered by the same description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Name as on the command line: `wgpu`, `cuda`, `cuda:sm_90a`.
    pub name: String,
    /// The language that kernels are emitted in.
    pub language: Language,
    /// Largest number of cubes along each axis.
    pub max_cubes: [u32; 3],
    /// Most units of a cube.
    pub max_units: u32,
    /// Shared memory of a cube in bytes.
    pub shared_bytes: u32,
    /// Most buffers of a kernel.
    pub max_buffers: u32,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Half precision types that buffers may hold.
    pub halves: Vec<DType>,
    /// Independent cubes that fill the device.
    pub parallelism: usize,
    /// Sizes of tiles.
    pub tiles: Tiles,
    /// Tiles that were chosen by measuring.
    pub choices: Choices,
}

/// The language of a target's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// CUDA C++ for a compute capability, e.g. 90.
    Cuda(u32),
    /// WebGPU's shading language.
    Wgsl,
}

/// How much a cube works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tiles {
    /// For software adapters: little to compile, little to keep.
    Small,
    /// For GPUs.
    Large,
}

/// Instructions that multiply matrices of half precision numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TensorCores {
    /// `mma.sync`: a warp, fragments in registers. From compute capability 8.0 on.
    Mma,
    /// `wgmma`: four warps, tiles in shared memory. Compute capability 9.0 alone.
    Wgmma,
}

impl Target {
    /// The instructions for matrices, the best last; none on most targets.
    pub fn tensor_cores(&self) -> &'static [TensorCores] {
        match self.language {
            Language::Cuda(90) => &[TensorCores::Mma, TensorCores::Wgmma],
            Language::Cuda(80..) => &[TensorCores::Mma],
            _ => &[],
        }
    }

    /// A GPU behind wgpu with the limits that WebGPU guarantees nearly everywhere.
    pub fn wgpu() -> Self {
        Self {
            name: "wgpu".into(),
            language: Language::Wgsl,
            max_cubes: [65535; 3],
            max_units: 256,
            shared_bytes: 16384,
            max_buffers: 16,
            max_buffer_bytes: 1 << 30,
            halves: vec![DType::F16],
            parallelism: 512,
            tiles: Tiles::Large,
            choices: Choices::default(),
        }
    }

    /// An NVIDIA GPU of this compute capability.
    pub fn cuda(name: &str, capability: u32) -> Self {
        Self {
            name: name.into(),
            language: Language::Cuda(capability),
            max_cubes: [i32::MAX as u32, 65535, 65535],
            max_units: 1024,
            shared_bytes: shared_bytes(capability),
            max_buffers: 1024,
            max_buffer_bytes: 1 << 40,
            halves: vec![DType::F16, DType::Bf16],
            parallelism: 528,
            tiles: Tiles::Large,
            choices: Choices::default(),
        }
    }

    /// Multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        (self.parallelism / CUBES_PER_MULTIPROCESSOR).max(1)
    }

    /// The target with this name on the command line; `None` where it is none of ours.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "wgpu" => Some(Self::wgpu()),
            "cuda" => Some(Self::cuda(name, 80)),
            _ => {
                let capability = name.strip_prefix("cuda:sm_")?;
                let digits = capability.strip_suffix('a').unwrap_or(capability);
                let n: u32 = digits.parse().ok()?;
                (70..=121).contains(&n).then(|| Self::cuda(name, n))
            }
        }
    }
}

/// Shared memory that a cube may ask for on an NVIDIA GPU, in bytes (CUDA C++ Programming Guide, technical specifications per compute
/// capability).
fn shared_bytes(capability: u32) -> u32 {
    1024 * match capability {
        90 | 100..=110 => 227,
        80 | 87 => 163,
        86 | 89 | 120.. => 99,
        75 => 64,
        70 | 72 => 96,
        _ => 48,
    }
}
