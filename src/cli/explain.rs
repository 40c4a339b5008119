//! `ccl explain`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccl::error::Error;
use ccl::explain::cost::Machine;
use ccl::explain::{Diff, Trace, dot, html, text};
use ccl::model_dir::ModelDir;
use ccl::planning::{add_kernels, target};
use ccl::training::engine::{EngineSpec, Sizes};
use ccl_codegen::gpu::Target;
use ccl_ir::{DType, Plan};
use ccl_model::{Clip, Guidance};
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
    /// Explain a training step of the task (loss, gradients, AdamW with an average) instead of a denoising step
    #[arg(long, conflicts_with = "plan")]
    train: bool,
    /// With --train: bytes that the step may take; as many blocks as it takes are computed again for their backward pass
    #[arg(long, value_name = "BYTES", requires = "train")]
    memory: Option<u64>,
    /// What to plan for: cpu, wgpu, cuda, or an NVIDIA architecture such as cuda:sm_90a
    #[arg(long, default_value = "cpu", conflicts_with = "train")]
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
        (None, Some(model)) if args.train => training(args, model)?,
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
                let machine = Machine::for_plan(&plan, args.spec.algebra.device_spec.clone());
                html::page(&plan, &machine, trace.as_ref())
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

/// The plan of a training step, as `ccl train` makes it.
fn training(args: &Args, dir: &Path) -> Result<Plan, Error> {
    let spec = &args.spec;
    if spec.guidance.is_some_and(|g| g != Guidance::None) || spec.dtype.is_some_and(|d| d != DType::F32) {
        return Err(Error::Usage("--train is without guidance and in f32: leave --guidance and --dtype out".into()));
    }
    if spec.validate {
        return Err(Error::Usage("--validate with --train: `ccl grad --validate` holds the passes of training".into()));
    }
    let model = ModelDir::open(dir)?;
    let task = required_task(spec)?;
    let clip = clip(args)?;
    warn_drift(&model.config, task, &clip);
    let request = request(&model.config, spec, task, clip, args.clip.batch.unwrap_or(1));
    let (text_tokens, image_tokens) = (request.text_tokens, request.image_tokens);
    let sizes = Sizes { clip, batch: request.batch, text_tokens, image_tokens };
    let defaults = EngineSpec::of_task(&model.config, task, sizes)?;
    let plans = EngineSpec { memory: args.memory, algebra: request.algebra, ..defaults }.plans()?;
    let plan = plans.into_iter().next().ok_or_else(|| Error::Failed(format!("no plan trains {task}")))?.1;
    Ok(Arc::unwrap_or_clone(plan))
}

fn clip(args: &Args) -> Result<Clip, Error> {
    args.clip.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))
}

fn from_model(args: &Args, gpu: Option<Target>, dir: &Path) -> Result<Plan, Error> {
    let model = ModelDir::open(dir)?;
    let task = required_task(&args.spec)?;
    let clip = clip(args)?;
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
