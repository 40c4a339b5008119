//! `ccl bench kernels`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ccl::calibrate::{self, calibrate};
use ccl::error::Error;
use ccl::explain::units::human_seconds;
use ccl::kernels::{Case, Effort, Set, Timing, Types, measure};
use ccl_ir::DType;
use ccl_passes::DeviceSpec;
use ccl_runtime::backend::Backend;
use ccl_runtime::device::human_bytes;
use ccl_runtime::profile::Clock;
use ccl_runtime::write;
use serde::Serialize;

use crate::cli::args::{RunArgs, device_spec, dtype, size};
use crate::cli::prepare::open_backend;

/// Options of `ccl bench kernels`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only kernels with this in their id, name or operator
    #[arg(long, value_name = "X")]
    filter: Option<String>,
    /// Only the kernels with these ids; may be given several times
    #[arg(long, value_name = "ID", conflicts_with = "filter")]
    only: Vec<String>,
    /// Which kernels: small, of a small model; paper, of the 14B model at 21x44x80@158; tiny, the same with next to no size, to see
    /// that they run [default: paper on GPUs, else small]
    #[arg(long, value_name = "small|paper|tiny", value_parser = set)]
    set: Option<Set>,
    /// How tokens and matrices are stored; the cpu keeps tokens in f32 [default: bf16 or else f16 for paper on GPUs, else f32]
    #[arg(long, value_name = "f32|bf16|f16", value_parser = dtype)]
    dtype: Option<DType>,
    /// Milliseconds to measure each for, at least five runs
    #[arg(long, value_name = "MS", default_value_t = 300)]
    time: u64,
    /// Start no more after this many seconds
    #[arg(long, value_name = "S")]
    budget: Option<u64>,
    /// Go through copies of the inputs that are together this large, so that none is in a cache when it is read again
    /// [default: twice the second-level cache of a GPU; one copy on processors]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rotate: Option<u64>,
    /// Instead of measuring compare the results of each kernel with those of plain kernels on the same device (cuda)
    #[arg(long)]
    check: bool,
    /// What a kernel could reach: a TOML file (see `ccl bench calibrate`), or apple-m, cpu, h100, h200, rtx4090, wgpu [default: by device; a
    /// processor is measured]
    #[arg(long, value_name = "F.toml", value_parser = device_spec)]
    device_spec: Option<DeviceSpec>,
    /// File for the JSON document, beside the text
    #[arg(short, long, value_name = "F.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

/// Reads `--set`.
///
/// # Errors
/// When there is no such set.
pub(super) fn set(text: &str) -> Result<Set, String> {
    Set::from_name(text).ok_or_else(|| "known are small, paper and tiny".into())
}

/// What was measured.
#[derive(Serialize)]
struct Measured {
    device: String,
    backend: &'static str,
    /// `cpu`, `gpu`, `software driver`, ...
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    simd: Vec<String>,
    set: &'static str,
    /// How tokens and matrices of weights are stored.
    dtype: DType,
    matrix_dtype: DType,
    /// What was measured by.
    clock: Clock,
    /// Bytes of inputs that runs went through before they read the first again; 0: one copy.
    rotate_bytes: u64,
    /// Where the roofline comes from.
    roofline_of: String,
    /// Its rate of products of this type, in floating point operations a second.
    peak_flops: f64,
    /// Its memory traffic in bytes a second.
    peak_bandwidth: f64,
    kernels: Vec<Line>,
    /// Kernels that were not started, the time being up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<String>,
    /// Kernels that do not run here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Failure>,
}

/// A kernel that does not run.
#[derive(Serialize)]
struct Failure {
    id: String,
    problem: String,
}

/// One kernel.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    /// What it takes.
    Figures {
        #[serde(flatten)]
        timing: Timing,
        gflop_per_s: f64,
        gb_per_s: f64,
        /// The roofline's seconds over those that were measured. Above 1 where tensors stay in cache, which is faster than memory.
        roofline: f64,
    },
    /// What it gives.
    Checked {
        id: String,
        name: String,
        op: String,
        /// How far its results are from those of plain kernels in the worst 64 neighbours, relative to the root of their mean square.
        off: f64,
        /// How far they may be.
        most: f64,
    },
}

impl Line {
    fn figures(timing: Timing, peak: &DeviceSpec, dtype: DType) -> Self {
        let (flops, bytes) = (timing.flops as f64, timing.bytes as f64);
        let least = (flops / peak.flops(dtype)).max(bytes / peak.bandwidth);
        let seconds = timing.seconds;
        let [gflop_per_s, gb_per_s] = [flops, bytes].map(|n| n / seconds / 1e9);
        Self::Figures { gflop_per_s, gb_per_s, roofline: least / seconds, timing }
    }

    fn checked(case: &Case, backend: &dyn Backend, plain: &dyn Backend) -> Result<Self, Error> {
        let [off, most] = case.check(backend, plain)?;
        if off <= most {
            return Ok(Self::Checked { id: case.id.clone(), name: case.name.clone(), op: case.op().into(), off, most });
        }
        Err(Error::Failed(format!(
            "its result is off by {off:.1e} from that of plain kernels; at most {most:.0e} is right"
        )))
    }

    /// The kernel and what was found, in a line.
    fn text(&self, set: Set) -> String {
        let called = |id: &str, name: &str| if set == Set::Small { name.to_owned() } else { id.to_owned() };
        match self {
            Self::Figures { timing, gflop_per_s, gb_per_s, roofline } => {
                let by = if timing.library { ", by cuBLASLt" } else { "" };
                let rate = if timing.flops > 0 { format!("{gflop_per_s:.1} GFLOP/s") } else { String::new() };
                format!(
                    "  {:<46} {:>10} {rate:>17} {gb_per_s:>8.1} GB/s {:>6.1} % of the roofline{by}",
                    called(&timing.id, &timing.name),
                    human_seconds(timing.seconds),
                    100.0 * roofline
                )
            }
            Self::Checked { id, name, off, most, .. } => {
                format!("  {:<46} off by {off:.1e} (at most {most:.0e})", called(id, name))
            }
        }
    }
}

/// Whether a device is a GPU, and not something that imitates one.
fn is_gpu(backend: &dyn Backend) -> bool {
    backend.target().is_some() && !backend.describe().kind.contains("software")
}

/// The half precision that a device has, for what is too large in single precision.
fn half(backend: &dyn Backend) -> DType {
    let types = backend.describe().element_types;
    [DType::Bf16, DType::F16].into_iter().find(|d| types.contains(d)).unwrap_or(DType::F32)
}

/// What kernels could reach: as given, by the device's name, or measured.
fn roofline(given: Option<&DeviceSpec>, backend: &dyn Backend) -> Result<DeviceSpec, Error> {
    let (Some(target), None) = (backend.target(), given) else {
        let effort = calibrate::Effort { side: 1024, numbers: 1 << 24, calls: 200, repeat: 3 };
        return given.map_or_else(|| calibrate(backend, effort), |spec| Ok(spec.clone()));
    };
    let name = backend.describe().name;
    Ok(DeviceSpec::for_device(&name).unwrap_or_else(|| DeviceSpec::for_target(&target.name)))
}

/// The kernels that the options name.
fn chosen<'a>(all: &'a [Case], args: &Args, set: Set) -> Result<Vec<&'a Case>, Error> {
    let ids = || all.iter().map(|c| c.id.as_str()).collect::<Vec<_>>().join(" ");
    if let Some(id) = args.only.iter().find(|id| all.iter().all(|c| c.id != **id)) {
        return Err(Error::Usage(format!("--only {id}: set {} has no such kernel; there are: {}", set.name(), ids())));
    }
    let wanted = |case: &&Case| match args.only.as_slice() {
        [] => args.filter.as_ref().is_none_or(|f| case.fits(f)),
        only => only.contains(&case.id),
    };
    let list: Vec<_> = all.iter().filter(wanted).collect();
    if list.is_empty() {
        return Err(Error::Usage(format!("--filter fits no kernel of set {}; there are: {}", set.name(), ids())));
    }
    Ok(list)
}

/// What results are compared with.
fn plain(backend: &dyn Backend) -> Result<Box<dyn Backend>, Error> {
    backend.plain().ok_or_else(|| {
        let name = backend.name();
        Error::Usage(format!(
            "--check: {name} has one kernel for each call here, and no plainer one; use --backend cuda"
        ))
    })
}

/// Measures kernels one by one, or checks them.
///
/// # Errors
/// When an option is wrong, no kernel has the name, or one fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if let Some(path) = &args.output {
        write::check_writable(path)?;
    }
    let backend = open_backend(&args.run)?;
    let backend = backend.as_ref();
    let info = backend.describe();
    let set = args.set.unwrap_or(if is_gpu(backend) { Set::Paper } else { Set::Small });
    let usual = if set == Set::Paper && backend.target().is_some() { half(backend) } else { DType::F32 };
    let dtype = args.dtype.unwrap_or(usual);
    if !info.element_types.contains(&dtype) {
        let has: Vec<&str> = info.element_types.iter().filter(|d| d.is_float()).map(|d| d.name()).collect();
        return Err(Error::Usage(format!("--dtype {dtype}: {} stores {}", info.name, has.join(", "))));
    }
    let types = Types::of(dtype, backend);
    let all = set.cases(types);
    let list = chosen(&all, args, set)?;
    let plain = if args.check { Some(plain(backend)?) } else { None };
    let peak = roofline(args.device_spec.as_ref(), backend)?;
    let effort = Effort {
        time: Duration::from_millis(args.time),
        rotate: args.rotate.unwrap_or_else(|| measure::rotation(backend)),
    };
    let mut measured = Measured {
        device: info.name,
        backend: backend.name(),
        kind: info.kind,
        threads: info.threads,
        simd: info.simd,
        set: set.name(),
        dtype: types.tokens,
        matrix_dtype: types.matrices,
        clock: backend.clock(),
        rotate_bytes: effort.rotate,
        roofline_of: peak.name.clone(),
        peak_flops: peak.flops(types.tokens),
        peak_bandwidth: peak.bandwidth,
        kernels: Vec::new(),
        skipped: Vec::new(),
        failed: Vec::new(),
    };
    let print = |text: &str| if json { Ok(()) } else { crate::cli::print_line(text) };
    print(&measured.heading(backend, args.check))?;
    let begin = Instant::now();
    for case in list {
        if args.budget.is_some_and(|s| begin.elapsed() >= Duration::from_secs(s)) {
            measured.skipped.push(case.id.clone());
            continue;
        }
        tracing::info!("measuring {}", case.id);
        let line = match &plain {
            Some(plain) => Line::checked(case, backend, plain.as_ref()),
            None => case.measure(backend, effort).map(|timing| Line::figures(timing, &peak, types.tokens)),
        };
        match line {
            Ok(line) => {
                print(&line.text(set))?;
                measured.kernels.push(line);
            }
            // The others may run all the same.
            Err(e) => {
                print(&format!("  {:<46} does not run: {e}", case.id))?;
                measured.failed.push(Failure { id: case.id.clone(), problem: e.to_string() });
            }
        }
        // Written after every kernel: what ends the run early loses nothing.
        measured.save(args.output.as_deref())?;
    }
    measured.save(args.output.as_deref())?;
    if !measured.skipped.is_empty() {
        print(&format!("not measured, the time was up: {}", measured.skipped.join(" ")))?;
    }
    if json {
        crate::cli::print_json(&measured)?;
    }
    match measured.failed.as_slice() {
        [] => Ok(()),
        [f, rest @ ..] => {
            let more =
                if rest.is_empty() { String::new() } else { format!(" ({} more kernels do not run)", rest.len()) };
            Err(Error::Failed(format!("{}: {}{more}", f.id, f.problem)))
        }
    }
}

impl Measured {
    /// What is measured, where, and how.
    fn heading(&self, backend: &dyn Backend, check: bool) -> String {
        let threads = self.threads.map_or_else(String::new, |n| format!(", {n} threads"));
        let types = if self.matrix_dtype == self.dtype {
            self.dtype.to_string()
        } else {
            format!("{}, matrices {}", self.dtype, self.matrix_dtype)
        };
        let (flops, bytes) = (self.peak_flops / 1e9, self.peak_bandwidth / 1e9);
        let of = if backend.target().is_some() { "the roofline of" } else { "the roofline, measured on" };
        let inputs = match self.rotate_bytes {
            0 => "one copy of the inputs, which caches may keep".into(),
            bytes => format!("inputs rotated through copies of {} together", human_bytes(bytes)),
        };
        let what = format!("{} ({}){threads}; set {}, {types}", self.device, self.backend, self.set);
        if check {
            return format!(
                "{what}\nresults beside those of plain kernels: the worst 64 neighbours, against the root mean square"
            );
        }
        [
            what,
            format!("{of} {}: products at {flops:.1} GFLOP/s, memory at {bytes:.1} GB/s", self.roofline_of),
            format!("medians by {}; {inputs}", self.clock),
        ]
        .join("\n")
    }

    /// Writes the document to a file, if there is to be one.
    fn save(&self, path: Option<&Path>) -> Result<(), Error> {
        let Some(path) = path else { return Ok(()) };
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Failed(format!("JSON: {e}")))?;
        Ok(write::write_atomic(path, format!("{text}\n").as_bytes())?)
    }
}
