//! `ccl compile`.

use std::path::PathBuf;

use ccl::error::Error;
use ccl::model_dir::ModelDir;
use ccl_runtime::{planfile, write};
use serde::Serialize;

use super::args::{ClipArgs, SpecArgs};
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
    /// What the plan is for: cpu
    #[arg(long, default_value = "cpu")]
    target: String,
    /// Plan file to write
    #[arg(short, long, value_name = "F.cclp")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Summary {
    plan: PathBuf,
    bytes: u64,
    calls: usize,
    peak_bytes: u64,
    weights: bool,
}

/// Compiles a plan and saves it.
///
/// # Errors
/// When the model or an option is wrong, or the file cannot be written.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    check_target(&args.target)?;
    write::check_writable(&args.output)?;
    let model = ModelDir::open(&args.model)?;
    let task = required_task(&args.spec)?;
    let clip = args.clip.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))?;
    warn_drift(&model.config, task, &clip);
    let mut request = request(&model.config, &args.spec, task, clip, args.clip.batch.unwrap_or(1));
    request.target = args.target.clone();
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
    plan.weights_from = from;
    planfile::save(&args.output, &plan)?;
    let bytes = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    let calls = plan.entries.values().map(Vec::len).sum();
    if json {
        let weights = plan.weights_from.is_some();
        return super::print_json(&Summary {
            plan: args.output.clone(),
            bytes,
            calls,
            peak_bytes: plan.report.peak_bytes,
            weights,
        });
    }
    super::print_line(&format!("{}: {calls} calls; {}", args.output.display(), memory_line(&plan)))?;
    if plan.weights_from.is_none() {
        super::print_line("made without weights: name them with --model DIR when the plan runs")?;
    }
    Ok(())
}

/// The targets that this build knows.
///
/// # Errors
/// When it is another one.
pub fn check_target(target: &str) -> Result<(), Error> {
    match target {
        "cpu" => Ok(()),
        other => Err(Error::Usage(format!("target `{other}` is not part of this build: use --target cpu"))),
    }
}
