//! What kernels are generated for, described without a device.

use ccl_ir::DType;
use serde::{Deserialize, Serialize};

use super::tiles::Choices;

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
    /// Shared memory of a cube in bytes. On CUDA more than 48 KiB lets fewer cubes share a multiprocessor: kernels that gain by company keep
    /// a budget of their own.
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
    /// Whether kernels are left out that only some GPUs have, on tensor cores and by sixteen bytes: those that are left prove them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
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
    /// `wgmma` on tiles that the copy engine (TMA) brings.
    Bulk,
}

impl Target {
    /// The instructions for matrices, the best last; none on most targets.
    pub fn tensor_cores(&self) -> &'static [TensorCores] {
        match self.language {
            _ if self.plain => &[],
            Language::Cuda(90) => &[TensorCores::Mma, TensorCores::Wgmma, TensorCores::Bulk],
            Language::Cuda(80..) => &[TensorCores::Mma],
            _ => &[],
        }
    }

    /// Whether kernels that move sixteen bytes at a time ([`super::wide`]) run there.
    pub fn is_wide(&self) -> bool {
        !self.plain && matches!(self.language, Language::Cuda(80..))
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
            plain: false,
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
            plain: false,
        }
    }

    /// Compute capability times 10, of a target for CUDA.
    pub fn capability(&self) -> Option<u32> {
        match self.language {
            Language::Cuda(capability) => Some(capability),
            Language::Wgsl => None,
        }
    }

    /// The architecture that CUDA texts are compiled for, e.g. `sm_90a`: with what only this one has, where there is such.
    pub fn architecture(&self) -> Option<String> {
        let own = |n: u32| if n >= 90 { "a" } else { "" };
        self.capability().map(|n| format!("sm_{n}{}", own(n)))
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

/// Shared memory that a cube may ask for on this compute capability: table 15 of the CUDA C++ Programming Guide.
fn shared_bytes(capability: u32) -> u32 {
    1024 * match capability {
        90 | 100..=119 => 227,
        80 | 87 => 163,
        86 | 89 | 120.. => 99,
        75 => 64,
        70 | 72 => 96,
        _ => 48,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_their_names_and_shared_memory() {
        let of = |name: &str| Target::from_name(name).map(|t| (t.architecture(), t.shared_bytes));
        for (name, architecture, shared) in [
            ("cuda:sm_75", "sm_75", 65536),
            ("cuda", "sm_80", 166912),
            ("cuda:sm_86", "sm_86", 101376),
            ("cuda:sm_89", "sm_89", 101376),
            ("cuda:sm_90", "sm_90a", 232448),
            ("cuda:sm_90a", "sm_90a", 232448),
            ("cuda:sm_100a", "sm_100a", 232448),
            ("cuda:sm_120", "sm_120a", 101376),
        ] {
            assert_eq!(of(name), Some((Some(architecture.to_owned()), shared)), "{name}");
        }
        assert_eq!(of("wgpu"), Some((None, 16384)));
    }
}
