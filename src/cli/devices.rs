//! `ccl devices`.

use ccl::error::Error;
use ccl::running::backend;
use ccl_runtime::device::{DeviceInfo, human_bytes};
use ccl_runtime::gpu::gpus;

/// Options of `ccl devices`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Lists what can run here, and what is missing: as part of the text, or beside the JSON on standard error.
///
/// # Errors
/// When the cpu cannot be asked.
pub fn run(_: &Args, json: bool) -> Result<(), Error> {
    let found = gpus();
    let devices: Vec<DeviceInfo> = [backend("cpu", None)?.describe()].into_iter().chain(found.devices).collect();
    let mut missing = found.missing.into_iter().map(|(backend, why)| format!("{backend}: {why}"));
    if json {
        missing.for_each(|line| eprintln!("{line}"));
        return super::print_json(&devices);
    }
    devices.iter().try_for_each(print)?;
    missing.try_for_each(|line| super::print_line(&line))
}

fn print(d: &DeviceInfo) -> Result<(), Error> {
    super::print_line(&format!("{}: {} ({})", d.backend, d.name, d.kind))?;
    if let (Some(threads), Some(cores)) = (d.threads, d.cores) {
        super::print_line(&format!("  threads: {threads} of {cores} cores"))?;
    }
    if d.backend == "cpu" {
        let simd = if d.simd.is_empty() { "none".into() } else { d.simd.join(" ") };
        super::print_line(&format!("  vector instructions: {simd}"))?;
    }
    if let Some(total) = d.memory.total_bytes {
        let available = d.memory.available_bytes.map(|b| format!(", available {}", human_bytes(b)));
        super::print_line(&format!("  memory: {}{}", human_bytes(total), available.unwrap_or_default()))?;
    } else {
        super::print_line("  memory: unknown")?;
    }
    let types: Vec<&str> = d.element_types.iter().map(|t| t.name()).collect();
    super::print_line(&format!("  element types: {} (arithmetic in f32)", types.join(" ")))?;
    d.limits.iter().try_for_each(|(name, value)| super::print_line(&format!("  {name}: {value}")))
}
