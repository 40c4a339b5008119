//! `ccl devices`.

use ccl::error::Error;
use ccl::running::backend;
use ccl_runtime::device::human_bytes;

/// Options of `ccl devices`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Lists what can run here.
///
/// # Errors
/// When a device cannot be asked.
pub fn run(_: &Args, json: bool) -> Result<(), Error> {
    let devices = vec![backend("cpu", None)?.describe()];
    if json {
        return super::print_json(&devices);
    }
    for d in devices {
        super::print_line(&format!("{}: {} ({})", d.backend, d.name, d.kind))?;
        if let (Some(threads), Some(cores)) = (d.threads, d.cores) {
            super::print_line(&format!("  threads: {threads} of {cores} cores"))?;
        }
        super::print_line(&format!(
            "  vector instructions: {}",
            if d.simd.is_empty() { "none".into() } else { d.simd.join(" ") }
        ))?;
        let bytes = |b: Option<u64>| b.map_or_else(|| "unknown".into(), human_bytes);
        super::print_line(&format!(
            "  memory: {}, available {}",
            bytes(d.memory.total_bytes),
            bytes(d.memory.available_bytes)
        ))?;
        let types: Vec<&str> = d.element_types.iter().map(|t| t.name()).collect();
        super::print_line(&format!("  element types: {} (arithmetic in f32)", types.join(" ")))?;
        for (name, value) in d.limits {
            super::print_line(&format!("  {name}: {value}"))?;
        }
    }
    Ok(())
}
