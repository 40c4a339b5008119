//! `ccl compile`.

use std::path::{Path, PathBuf};

use ccl::error::Error;
use ccl::explain::kernels::carried;
use ccl::model_dir::ModelDir;
use ccl::planning::{add_kernels, target};
use ccl_codegen::gpu::Target;
use ccl_runtime::cuda::add_code;
use ccl_runtime::tuned::Tuned;
use ccl_runtime::{planfile, write};
use serde::Serialize;

use super::args::{ClipArgs, SpecArgs};
use super::log;
use super::prepare::{compile, memory_line, request, required_task, warn_drift};

/// Options of `ccl compile`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory; config.json alone is enough
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    clip: ClipArgs,
    /// What the plan is for: cpu, wgpu, cuda, or an NVIDIA architecture such as cuda:sm_90a
    #[arg(long, default_value = "cpu")]
    target: String,
    /// Take the tiles that were measured best on the device that the plan is for, from a file of `ccl bench tune` (wgpu and targets of cuda)
    #[arg(long, value_name = "F.json")]
    tuned: Option<PathBuf>,
    /// Plan file to write
    #[arg(short, long, value_name = "F.cclp")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Summary {
    plan: PathBuf,
    bytes: u64,
    calls: usize,
    kernels: usize,
    peak_bytes: u64,
    weights: bool,
}

/// Gives a target the tiles of a file.
///
/// # Errors
/// When the target has none to choose, or the file is wrong.
fn take_tiles(file: &Path, target: Option<&mut Target>) -> Result<(), Error> {
    let Some(target) = target else {
        return Err(Error::Usage(
            "--tuned: kernels of the CPU have no tiles to choose; use --target wgpu or cuda:sm_90a".into(),
        ));
    };
    let tuned = Tuned::load(file)?;
    let (choices, left_out) = tuned.choices(target);
    let (place, of, name) = (file.display(), &tuned.architecture, &target.name);
    if left_out > 0 {
        tracing::warn!("{place}: {left_out} tiles, measured for {of}, do not fit {name} and are left out");
    } else if !tuned.is_for(target) {
        tracing::warn!("{place}: was measured for {of}, and may be wrong about what is fast on {name}");
    }
    target.choices = choices;
    Ok(())
}

/// Compiles a plan and saves it.
///
/// # Errors
/// When the model or an option is wrong, or the file cannot be written.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let mut gpu = target(&args.target)?;
    if let Some(file) = &args.tuned {
        take_tiles(file, gpu.as_mut())?;
    }
    write::check_writable(&args.output)?;
    let model = ModelDir::open(&args.model)?;
    let task = required_task(&args.spec)?;
    let clip = args.clip.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))?;
    warn_drift(&model.config, task, &clip);
    let mut request = request(&model.config, &args.spec, task, clip, args.clip.batch.unwrap_or(1));
    request.gpu = gpu;
    let mut from = None;
    if model.has_weights() {
        let files = model.files()?;
        // Read now what would fail later: names and shapes.
        model.weights(&files, ccl::model_dir::FRESH_SEED)?;
        if args.spec.dtype.is_none() {
            request.dtype = model.stored_dtype(&files)?;
        }
        from = Some(model.weights_from(&files, &args.output)?);
    }
    let mut plan = compile(&model.config, &request)?;
    add_kernels(&mut plan, &request)?;
    if let Some(Err(why)) = plan.kernels.as_mut().map(add_code) {
        log::note(&format!("the plan carries its kernels' texts, not compiled: {why}"));
    }
    plan.weights_from = from;
    planfile::save(&args.output, &plan)?;
    let bytes = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    let calls = plan.entries.values().map(Vec::len).sum();
    let kernels = plan.kernels.as_ref().map_or(0, |k| k.kernels.len());
    if json {
        let weights = plan.weights_from.is_some();
        return super::print_json(&Summary {
            plan: args.output.clone(),
            bytes,
            calls,
            kernels,
            peak_bytes: plan.report.peak_bytes,
            weights,
        });
    }
    let carried = carried(&plan).map_or_else(String::new, |c| format!("{c}; "));
    super::print_line(&format!("{}: {calls} calls; {carried}{}", args.output.display(), memory_line(&plan)))?;
    if plan.weights_from.is_none() {
        super::print_line("made without weights: name them with --model DIR when the plan runs")?;
    }
    Ok(())
}
