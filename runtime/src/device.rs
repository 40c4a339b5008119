//! What a device is and can do, for people and for `ccl devices`.

use ccl_ir::DType;
use serde::Serialize;

/// Name, in [`DeviceInfo::limits`], of the size of a GPU's second-level cache.
pub const CACHE: &str = "second-level cache in bytes";

/// Memory of a machine in bytes; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryInfo {
    /// All of it.
    pub total_bytes: Option<u64>,
    /// What programs can still get without swapping.
    pub available_bytes: Option<u64>,
}

/// A device, as found at run time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// Backend that drives it, as on the command line.
    pub backend: String,
    /// What it calls itself, e.g. a processor's brand.
    pub name: String,
    /// `cpu`, `integrated gpu`, `discrete gpu`, ...
    pub kind: String,
    /// Threads that plans run on; `None` where that has no meaning.
    pub threads: Option<usize>,
    /// Hardware threads of the machine; `None` where that has no meaning.
    pub cores: Option<usize>,
    /// Vector instruction sets that are there, names as in Rust's `target_feature`.
    pub simd: Vec<String>,
    /// Memory for weights and values.
    pub memory: MemoryInfo,
    /// Element types that weights and values can be stored in.
    pub element_types: Vec<DType>,
    /// Bounds that the device sets, name and value, e.g. the largest buffer in bytes.
    pub limits: Vec<(String, u64)>,
}

/// The host's memory. Reads `/proc/meminfo` on Linux and knows nothing elsewhere.
pub fn host_memory() -> MemoryInfo {
    std::fs::read_to_string("/proc/meminfo").map_or_else(|_| MemoryInfo::default(), |text| parse_meminfo(&text))
}

/// Reads the kernel's `name: n kB` lines; what is not there stays unknown.
fn parse_meminfo(text: &str) -> MemoryInfo {
    MemoryInfo { total_bytes: kib_field(text, "MemTotal"), available_bytes: kib_field(text, "MemAvailable") }
}

/// The bytes that a line `name: n kB` says.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Memory that this process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Now.
    pub resident_bytes: Option<u64>,
    /// At most so far.
    pub peak_bytes: Option<u64>,
}

/// What Linux says of this process's memory; knows nothing elsewhere.
pub fn process_memory() -> ProcessMemory {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ProcessMemory { resident_bytes: kib_field(&text, "VmRSS"), peak_bytes: kib_field(&text, "VmHWM") }
}

/// A number of bytes for people: `512 B`, `12.3 GB` (powers of ten).
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// The processor's brand as Linux tells it, else the architecture.
pub(crate) fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let brand = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    match brand {
        Some(name) if !name.is_empty() => crate::error::one_line(name),
        _ => std::env::consts::ARCH.into(),
    }
}

/// Vector instruction sets of this processor.
pub(crate) fn cpu_simd() -> Vec<String> {
    #[allow(unused_mut)]
    let mut found: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
            ("avx", std::arch::is_x86_feature_detected!("avx")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("f16c", std::arch::is_x86_feature_detected!("f16c")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ];
        found.extend(features.iter().filter(|f| f.1).map(|f| f.0));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let features = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
            ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
            ("sve", std::arch::is_aarch64_feature_detected!("sve")),
        ];
        found.extend(features.iter().filter(|f| f.1).map(|f| f.0));
    }
    found.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_and_nonsense_is_not() {
        let text = "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n";
        let got = parse_meminfo(text);
        assert_eq!(got, MemoryInfo { total_bytes: Some(16000 * 1024), available_bytes: Some(8000 * 1024) });
        for text in ["", "MemTotal: many kB", "MemTotal: 5", "MemTotalAll: 5 kB", "MemTotal: 99999999999999999 kB"] {
            assert_eq!(parse_meminfo(text), MemoryInfo::default(), "{text}");
        }
    }

    #[test]
    fn sizes_are_readable() {
        let texts = [7, 999, 1000, 12_345_000_000, 999_999_999].map(human_bytes);
        assert_eq!(texts, ["7 B", "999 B", "1.0 kB", "12.3 GB", "1.0 GB"]);
    }
}
