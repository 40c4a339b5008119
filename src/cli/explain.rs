//! `ccl explain`.

use std::path::{Path, PathBuf};

use ccl::error::Error;
use ccl::explain::{Diff, Trace, dot, html, text};
use ccl::model_dir::ModelDir;
use ccl::planning::{add_kernels, target};
use ccl_codegen::gpu::Target;
use ccl_ir::Plan;
use ccl_runtime::planfile;
use clap::ValueEnum;

use super::args::{ClipArgs, SourceArgs, SpecArgs};
use super::prepare::{agree, compile, request, required_task, warn_drift};
use super::report::report;

/// Options of `ccl explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    clip: ClipArgs,
    /// What to plan for: cpu, wgpu, cuda, or an NVIDIA architecture such as cuda:sm_90a
    #[arg(long, default_value = "cpu")]
    target: String,
    /// text for people, json for programs, html for a browser, dot for graphviz
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// List every event, not one line per rule
    #[arg(long)]
    events: bool,
    /// Say how another plan differs from this one, as text, json or html
    #[arg(long, value_name = "OTHER.cclp", conflicts_with_all = ["events", "trace"])]
    diff: Option<PathBuf>,
    /// With --format html: measured times, from `ccl bench step --trace F`
    #[arg(long, value_name = "F")]
    trace: Option<PathBuf>,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "F")]
    output: Option<PathBuf>,
}

/// Forms of the explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// One page for a browser that needs nothing else.
    Html,
    /// The calls and what flows between them, for graphviz.
    Dot,
}

/// Explains a plan.
///
/// # Errors
/// When the model, the plan or an option is wrong.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let format = if json { Format::Json } else { args.format };
    if args.trace.is_some() && format != Format::Html {
        return Err(Error::Usage("--trace is for --format html".into()));
    }
    let gpu = target(&args.target)?;
    let plan = match (&args.source.plan, &args.source.model) {
        (Some(file), None) => {
            let plan = planfile::load(file)?;
            agree(&plan, file, &args.spec, &args.clip)?;
            plan
        }
        (None, Some(model)) => from_model(args, gpu, model)?,
        _ => return Err(Error::Usage("explain takes either --model DIR or --plan F.cclp".into())),
    };
    let text = match &args.diff {
        Some(other) => difference(args, &plan, other, format)?,
        None => match format {
            Format::Json => pretty(&report(&plan))?,
            Format::Text => text::text(&plan, args.events),
            Format::Dot => dot::dot(&plan),
            Format::Html => {
                let trace = args.trace.as_ref().map(|file| Trace::load(file, &plan)).transpose()?;
                html::page(&plan, trace.as_ref())
            }
        },
    };
    match &args.output {
        Some(path) => Ok(ccl_runtime::write::write_atomic(path, text.as_bytes())?),
        None => super::print_line(text.trim_end()),
    }
}

/// How the plan of a file differs.
fn difference(args: &Args, plan: &Plan, other: &Path, format: Format) -> Result<String, Error> {
    let name = |path: &Path| path.display().to_string();
    let this = args.source.plan.as_deref().or(args.source.model.as_deref()).map(name).unwrap_or_default();
    let diff = Diff::new([this, name(other)], plan, &planfile::load(other)?);
    match format {
        Format::Json => pretty(&diff),
        Format::Text => Ok(diff.text()),
        Format::Html => Ok(html::diff_page(&diff)),
        Format::Dot => Err(Error::Usage("--diff has no dot form: use --format text, json or html".into())),
    }
}

fn from_model(args: &Args, gpu: Option<Target>, dir: &Path) -> Result<Plan, Error> {
    let model = ModelDir::open(dir)?;
    let task = required_task(&args.spec)?;
    let clip = args.clip.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))?;
    warn_drift(&model.config, task, &clip);
    let mut request = request(&model.config, &args.spec, task, clip, args.clip.batch.unwrap_or(1));
    if args.spec.dtype.is_none() && model.has_weights() {
        request.dtype = model.stored_dtype(&model.files()?)?;
    }
    request.gpu = gpu;
    let mut plan = compile(&model.config, &request)?;
    add_kernels(&mut plan, &request)?;
    Ok(plan)
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Failed(format!("JSON: {e}")))
}
