//! `ccl bench kernels`.

use std::time::Duration;

use ccl::calibrate::{Effort, calibrate};
use ccl::error::Error;
use ccl::explain::units::human_seconds;
use ccl::kernels::{Timing, cases};
use ccl_ir::DType;
use ccl_passes::DeviceSpec;
use ccl_runtime::backend::Backend;
use ccl_runtime::cpu::CpuBackend;
use serde::Serialize;

/// Options of `ccl bench kernels`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only kernels with this in their name or operator
    #[arg(long, value_name = "X")]
    filter: Option<String>,
    /// Milliseconds to measure each for, at least five calls
    #[arg(long, value_name = "MS", default_value_t = 300)]
    time: u64,
    /// Threads of the cpu backend [default: all cores]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<usize>,
}

/// What was measured.
#[derive(Serialize)]
struct Measured {
    device: String,
    threads: usize,
    simd: Vec<String>,
    /// Rate of a product of large matrices, measured just before, in floating point operations a second.
    peak_flops: f64,
    /// Rate of memory traffic of a large copy, measured just before, in bytes a second.
    peak_bandwidth: f64,
    kernels: Vec<Line>,
}

/// One kernel.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    timing: Timing,
    gflop_per_s: f64,
    gb_per_s: f64,
    /// The roofline's seconds over those that were measured. Above 1 where tensors stay in cache, which is faster than memory.
    roofline: f64,
}

impl Line {
    fn new(timing: Timing, peak: &DeviceSpec) -> Self {
        let (flops, bytes) = (timing.flops as f64, timing.bytes as f64);
        let least = (flops / peak.flops(DType::F32)).max(bytes / peak.bandwidth);
        let seconds = timing.seconds;
        Self { gflop_per_s: flops / seconds / 1e9, gb_per_s: bytes / seconds / 1e9, roofline: least / seconds, timing }
    }
}

/// Measures the cpu's kernels one by one.
///
/// # Errors
/// When an option is wrong, no kernel has the name, or one fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let wanted = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let list: Vec<_> = cases().into_iter().filter(|c| wanted(&c.name) || wanted(c.op())).collect();
    if list.is_empty() {
        let names: Vec<String> = cases().into_iter().map(|c| c.name).collect();
        return Err(Error::Usage(format!("--filter fits no kernel; there are: {}", names.join("; "))));
    }
    let backend = CpuBackend::new(args.threads)?;
    let peak = calibrate(&backend, Effort { side: 1024, numbers: 1 << 24, calls: 200, repeat: 3 })?;
    let mut kernels = Vec::new();
    for case in list {
        kernels.push(Line::new(case.measure(&backend, Duration::from_millis(args.time))?, &peak));
    }
    let info = backend.describe();
    let measured = Measured {
        device: info.name,
        threads: backend.threads(),
        simd: info.simd,
        peak_flops: peak.flops(DType::F32),
        peak_bandwidth: peak.bandwidth,
        kernels,
    };
    if json { crate::cli::print_json(&measured) } else { say(&measured) }
}

fn say(m: &Measured) -> Result<(), Error> {
    let print = crate::cli::print_line;
    print(&format!(
        "{}, {} threads; a large product runs at {:.1} GFLOP/s, a copy at {:.1} GB/s: the roofline",
        m.device,
        m.threads,
        m.peak_flops / 1e9,
        m.peak_bandwidth / 1e9
    ))?;
    for line in &m.kernels {
        let rate = if line.timing.flops > 0 { format!("{:.1} GFLOP/s", line.gflop_per_s) } else { String::new() };
        print(&format!(
            "  {:<46} {:>10} {rate:>15} {:>7.1} GB/s {:>6.1} % of the roofline",
            line.timing.name,
            human_seconds(line.timing.seconds),
            line.gb_per_s,
            100.0 * line.roofline
        ))?;
    }
    Ok(())
}
