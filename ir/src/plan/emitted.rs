//! The kernels of a plan for one target: texts and launches, as plain data.
//!
//! A plan needs none to run: a backend lowers the calls itself, for the device at hand. A plan made for a target carries them so
//! that they can be read, compiled and compared on a machine without that device; and compiled ones ([`Code`]), where a compiler was at
//! hand, so that the device's machine needs none.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Call, Plan};
use crate::error::Problem;
use crate::graph::Binding;

/// Every kernel that a plan launches on a target, and every launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Emitted {
    /// Name of the target, as on the command line.
    pub target: String,
    /// Language of the texts: `cuda` or `wgsl`.
    pub language: String,
    /// What compiled the texts, where that was done: then every kernel has [`EmittedKernel::code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<Compiled>,
    /// Tiles that were chosen by measuring, in the code generator's words; null where there are none.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub choices: serde_json::Value,
    /// The kernels, each once, in the order of their first launch.
    pub kernels: Vec<EmittedKernel>,
    /// How each call of each entry runs, in the order of [`Plan::entries`].
    pub entries: BTreeMap<Binding, Vec<EmittedCall>>,
}

/// A compiler, and what it compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// Architecture that the machine code runs on, e.g. `sm_90a`.
    pub architecture: String,
    /// Name and version, e.g. `NVRTC 13.0`.
    pub compiler: String,
}

/// A compiled kernel. That it does what the text says is the compiler's promise, which no check of a plan can prove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// PTX, from which drivers compile for newer architectures.
    pub ptx: String,
    /// Machine code: an ELF file, base64 in a plan file.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub cubin: Vec<u8>,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// Type of a file of NVIDIA's machine code, in its ELF header.
const ELF_CUDA: [u8; 2] = 190u16.to_le_bytes();

impl Code {
    fn check(&self, architecture: &str) -> Result<(), Problem> {
        let elf = self.cubin.get(..4) == Some(b"\x7fELF") && self.cubin.get(18..20) == Some(&ELF_CUDA);
        crate::ensure!(elf, "its machine code is no CUDA ELF file");
        let target = format!(".target {architecture}");
        let for_target = self
            .ptx
            .lines()
            .any(|l| l.strip_prefix(&target).is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric())));
        crate::ensure!(for_target, "its PTX is not for {architecture}");
        crate::ensure!(!self.ptx.contains('\0'), "its PTX holds a zero");
        Ok(())
    }
}

/// A kernel's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmittedKernel {
    /// What it computes, for people; kernels that differ in types or tiles share a name.
    pub name: String,
    /// The source.
    pub text: String,
    /// Units (threads) of a cube (block) along each axis.
    pub units: [u32; 3],
    /// Shared memory in bytes that a launch asks for, beyond what the text declares.
    pub shared_bytes: u64,
    /// The kernel's identity, from which the code generator makes the text again.
    pub blueprint: serde_json::Value,
    /// The text, compiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// How a call runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmittedCall {
    /// On the host, by the operator's own evaluation.
    Host,
    /// As launches, in order.
    Launches(Vec<EmittedLaunch>),
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmittedLaunch {
    /// The kernel, by its index in [`Emitted::kernels`].
    pub kernel: u32,
    /// Cubes (blocks) along each axis.
    pub cubes: [u32; 3],
    /// The buffers that are bound, in the kernel's order; always whole.
    pub buffers: Vec<BufferRef>,
    /// Sizes, strides and first elements in the kernel's own order: its last argument.
    pub sizes: Vec<u32>,
}

/// The buffer under an operand of the launch's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BufferRef {
    /// An input of the call, by position.
    In(u16),
    /// An output of the call, by position.
    Out(u16),
}

impl EmittedCall {
    /// Its launches, none where the host does it.
    pub fn launches(&self) -> &[EmittedLaunch] {
        match self {
            Self::Host => &[],
            Self::Launches(all) => all,
        }
    }
}

impl Emitted {
    /// Launches of all entries.
    pub fn launches(&self) -> impl Iterator<Item = &EmittedLaunch> {
        self.entries.values().flatten().flat_map(EmittedCall::launches)
    }

    /// Proves that every index is in range, and that there is an [`EmittedCall`] for each call. Whether the kernels compute
    /// what the calls say is not its question.
    pub(super) fn check(&self, plan: &Plan) -> Result<(), Problem> {
        for (i, kernel) in self.kernels.iter().enumerate() {
            let units = kernel.units.iter().try_fold(1u32, |all, &n| all.checked_mul(n)).unwrap_or(0);
            crate::ensure!(units > 0, "kernel {i}: a cube of {:?} units", kernel.units);
            match (&self.compiled, &kernel.code) {
                (Some(by), Some(code)) => {
                    code.check(&by.architecture).map_err(|p| Problem(format!("kernel {i}: {p}")))?;
                }
                (None, None) => {}
                (Some(_), None) => return Err(Problem(format!("kernel {i}: is not compiled, others are"))),
                (None, Some(_)) => return Err(Problem(format!("kernel {i}: is compiled, by nobody"))),
            }
        }
        let listed = self.entries.keys().find(|&entry| !plan.entries.contains_key(entry));
        crate::ensure!(
            listed.is_none(),
            "kernels for entry `{}`, which has no calls",
            listed.unwrap_or(&Binding::Load)
        );
        for (&entry, calls) in &plan.entries {
            let launched = self.entries.get(&entry).map_or(&[][..], Vec::as_slice);
            let (have, want) = (launched.len(), calls.len());
            crate::ensure!(have == want, "kernels for {have} calls of entry `{entry}`, which has {want}");
            for (index, (call, launched)) in calls.iter().zip(launched).enumerate() {
                let EmittedCall::Launches(launches) = launched else { continue };
                for launch in launches {
                    self.check_launch(call, launch).map_err(|p| Problem(format!("{entry} call {index}: {p}")))?;
                }
            }
        }
        Ok(())
    }

    fn check_launch(&self, call: &Call, launch: &EmittedLaunch) -> Result<(), Problem> {
        let (kernel, count) = (launch.kernel as usize, self.kernels.len());
        crate::ensure!(kernel < count, "launches kernel {kernel}, there are {count}");
        crate::ensure!(!launch.cubes.contains(&0), "launches a grid of {:?} cubes", launch.cubes);
        for &buffer in &launch.buffers {
            let (side, index, count) = match buffer {
                BufferRef::In(i) => ("input", i, call.inputs.len()),
                BufferRef::Out(i) => ("output", i, call.outputs.len()),
            };
            crate::ensure!(usize::from(index) < count, "a launch binds {side} {index}, the call has {count}");
        }
        Ok(())
    }
}
