//! `ccl bench tune`.

mod apart;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ccl::error::Error;
use ccl::explain::units::human_seconds;
use ccl::kernels::Set;
use ccl::model_dir::ModelDir;
use ccl::tuning::journal::Journal;
use ccl::tuning::{self, effort, plan_calls, problems, set_calls, tile_name};
use ccl_codegen::gpu::tiles::Choices;
use ccl_ir::DType;
use ccl_runtime::tuned::{Tried, Tuned, path_of, today};
use ccl_runtime::{Backend, GpuBackend, write};
use serde::Serialize;

use crate::cli::args::{BackendName, ClipArgs, SpecArgs, size};
use crate::cli::log;
use crate::cli::prepare::{backend_name, compile, request, required_task};

/// Seconds after which a tile hangs, unless the user says how many.
const PATIENCE: u64 = 20;

/// Options of `ccl bench tune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Which GPU: auto takes cuda, then a hardware wgpu adapter
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendName,
    /// Model directory whose calls are tried; config.json alone is enough [default: --set]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Without a model: small (of a small model), paper (of the 14B model at 21x44x80@158) or tiny (next to no size) [default: paper on cuda, else small]
    #[arg(long, value_name = "SET", value_parser = super::kernels::set, conflicts_with = "model")]
    set: Option<Set>,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    clip: ClipArgs,
    /// Milliseconds to measure each tile for, at least five runs
    #[arg(long, value_name = "MS", default_value_t = 5)]
    time: u64,
    /// Start no more after this many seconds
    #[arg(long, value_name = "S")]
    budget: Option<u64>,
    /// Leave out a tile that has not ended after this many seconds, and four times what it is measured for, and go on in a new process
    /// [default: 20 on hardware]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    patience: Option<u64>,
    /// Go through copies of the inputs that are together this large [default: twice the second-level cache of a GPU]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rotate: Option<u64>,
    /// Only problems with this in their name, e.g. x18480x
    #[arg(long, value_name = "X")]
    filter: Option<String>,
    /// File to write; what it says of other sizes stays [default: tuned/<device>.json, for wgpu tuned/<device>-wgpu.json, in CCL_CACHE_DIR or ~/.cache/ccl, where it is found
    /// when the device is opened]
    #[arg(short, long, value_name = "F.json")]
    output: Option<PathBuf>,
}

/// What was found.
#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    backend: &'a str,
    file: Option<&'a PathBuf>,
    problems: &'a [Tried],
}

/// The GPU that the options name, without what was measured on it before, and that.
fn open(name: BackendName) -> Result<(GpuBackend, Choices), Error> {
    let gpu = match name {
        BackendName::Cuda => GpuBackend::cuda(0)?,
        BackendName::Wgpu => GpuBackend::wgpu(0)?,
        BackendName::Auto => GpuBackend::best().ok_or_else(|| {
            Error::Failed("there is no GPU here to tune for; name a software one with --backend cuda or wgpu".into())
        })?,
        other => {
            let name = backend_name(other);
            return Err(Error::Usage(format!(
                "--backend {name}: only kernels of GPUs have tiles to choose; use cuda or wgpu"
            )));
        }
    };
    let known = gpu.target().map(|target| target.choices.clone()).unwrap_or_default();
    Ok((gpu.with_choices(Choices::default()), known))
}

/// Measures the tiles and writes the file.
///
/// # Errors
/// When an option is wrong, there is no GPU, or it fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let stray = args.spec.task.is_some()
        || args.spec.guidance.is_some()
        || args.clip.clip.is_some()
        || args.clip.batch.is_some();
    if args.model.is_none() && stray {
        return Err(Error::Usage(
            "--task, --guidance, --clip and --batch are for a model: name it with --model DIR".into(),
        ));
    }
    if let Some(path) = &args.output {
        write::check_writable(path)?;
    }
    let Some(folder) = apart::journal() else { return apart::run() };
    let (gpu, known) = open(args.backend)?;
    let Some(target) = gpu.target().cloned() else { return Ok(()) };
    let device = gpu.describe();
    let half = [DType::Bf16, DType::F16].into_iter().find(|d| target.halves.contains(d)).unwrap_or(DType::F32);
    let calls = match &args.model {
        None => {
            let usual = if target.capability().is_some() { Set::Paper } else { Set::Small };
            set_calls(args.set.unwrap_or(usual), &target, args.spec.dtype.unwrap_or(half))?
        }
        Some(dir) => {
            let model = ModelDir::open(dir)?;
            let task = required_task(&args.spec)?;
            let clip = args.clip.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))?;
            let mut request = request(&model.config, &args.spec, task, clip, args.clip.batch.unwrap_or(1));
            (request.dtype, request.gpu) = (args.spec.dtype.unwrap_or(half), Some(target.clone()));
            plan_calls(&compile(&model.config, &request)?)
        }
    };
    let mut found = problems(calls, &target)?;
    if found.is_empty() {
        let text =
            format!("{}: none of these calls has a kernel with tiles to choose from; nothing is written", device.name);
        if json {
            log::note(&text);
            return crate::cli::print_json(&Report {
                device: &device.name,
                backend: gpu.name(),
                file: None,
                problems: &[],
            });
        }
        return crate::cli::print_line(&text);
    }
    found.retain(|f| args.filter.as_ref().is_none_or(|x| f.problem.key().contains(x.as_str())));
    if found.is_empty() {
        return Err(Error::Usage("--filter fits no problem of these calls".into()));
    }
    let path = args.output.clone().or_else(|| path_of(&device.name, &target)).ok_or_else(|| {
        Error::Usage(
            "this system has no directory for caches: say where to write with -o F.json or CCL_CACHE_DIR".into(),
        )
    })?;
    let effort = effort(&gpu, Duration::from_millis(args.time), args.rotate);
    let count = found.len();
    let mut tuned = Tuned::new(&device.name, &target, &today(), concat!("ccl ", env!("CARGO_PKG_VERSION")));
    if found.iter().any(|f| f.library) {
        tuned.library = gpu.library().ok();
    }
    let mut old = None;
    if path.exists() {
        match Tuned::load(&path) {
            Ok(found) if found.device == tuned.device && found.is_for(&target) => old = Some(found),
            Ok(found) => tracing::warn!(
                "{}: is of {} ({}) and is written anew",
                path.display(),
                found.device,
                found.architecture
            ),
            Err(e) => tracing::warn!("{e}; it is written anew"),
        }
    }
    // The time may be up before the end. What was measured here before comes last; of the others tensor cores' first, an attention's gradient last, and
    // what comes with the program behind what nothing is known of.
    let here: BTreeSet<String> = old.iter().flat_map(Tuned::names).map(String::from).collect();
    found.sort_by_key(|f| (here.contains(&f.problem.key()), f.is_gradient(), f.problem.plain, known.knows(&f.problem)));
    // Written after every problem: what ends the run early loses nothing.
    // Software takes as long as it takes.
    let usual = (!device.kind.contains("software")).then_some(PATIENCE);
    let patience = args.patience.or(usual).map(|s| Duration::from_secs(s) + 4 * effort.time);
    let journal = Journal::open(&folder).with_patience(patience);
    let budget = args.budget.map(|seconds| Duration::from_secs(seconds).saturating_sub(journal.spent()));
    let problems = tuning::tune(&gpu, &found, effort, budget, &journal, |done| {
        if let Some(last) = done.last() {
            log::note(&format!("{}/{count} {}", done.len(), line(last)));
        }
        tuned.problems = done.to_vec();
        old.iter().for_each(|old| tuned.keep(old.clone()));
        Ok(tuned.save(&path)?)
    })?;
    let (problems, done) = (problems.as_slice(), problems.len());
    if json {
        let report = Report { device: &device.name, backend: gpu.name(), file: Some(&path), problems };
        return crate::cli::print_json(&report);
    }
    problems.iter().try_for_each(|tried| crate::cli::print_line(&line(tried)))?;
    crate::cli::print_line(&format!(
        "wrote {}: tiles of {done} of {count} problems for {}",
        path.display(),
        device.name
    ))
}

/// A problem and its best tile.
fn line(tried: &Tried) -> String {
    let Some((best, seconds)) = tried.tiles.first().and_then(|t| Some((t, t.seconds?))) else {
        return format!("{:<28} no tile runs", tried.problem);
    };
    let expected = tried.expected_s.map_or_else(String::new, |s| format!(", {:.2} of the expected one's", seconds / s));
    let (name, of) = (tile_name(&best.tile), tried.tiles.len());
    format!("{:<28} {:>10}{expected}: {name} (of {of})", tried.problem, human_seconds(seconds))
}
