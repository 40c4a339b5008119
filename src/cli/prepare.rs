//! What `forward`, `sample` and `compile` do first: a plan and its weights from the options.

use std::path::Path;

use ccl::error::Error;
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl::planning::{Request, plan};
use ccl::running::{backend, backend_within, clip_of_inputs, scales, weights_for_plan, weights_of_plan};
use ccl_ir::{DType, Plan};
use ccl_model::{Clip, Config, Guidance, Spec, Task, tarp};
use ccl_runtime::backend::Backend;
use ccl_runtime::checkpoint::Directory;
use ccl_runtime::denoise::Denoise;
use ccl_runtime::device::human_bytes;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::session::Session;
use ccl_runtime::weights::WeightStore;
use ccl_runtime::{HostTensor, planfile};

use super::args::{BackendName, BudgetArgs, ClipArgs, RunArgs, ScaleArgs, SourceArgs, SpecArgs};
use super::log;

/// A plan with its weights.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// Its weights.
    pub weights: WeightStore,
    /// The plan's guidance form.
    pub guidance: Guidance,
}

/// Reads the plan or makes one for this backend, and opens its weights.
///
/// # Errors
/// When options contradict the plan or each other, or a file is wrong.
pub fn prepare(
    source: &SourceArgs,
    spec: &SpecArgs,
    clip: &ClipArgs,
    inputs: &Inputs,
    backend: &dyn Backend,
) -> Result<Prepared, Error> {
    match (&source.plan, &source.model) {
        (Some(file), model) => from_plan(file, model.as_deref(), spec, clip, inputs),
        (None, Some(model)) => from_model(model, spec, clip, inputs, backend),
        (None, None) => Err(Error::Usage("give --model DIR or --plan F.cclp".into())),
    }
}

fn from_plan(
    file: &Path,
    model: Option<&Path>,
    spec: &SpecArgs,
    clip: &ClipArgs,
    inputs: &Inputs,
) -> Result<Prepared, Error> {
    let plan = planfile::load(file)?;
    agree(&plan, file, spec, clip)?;
    let guidance: Guidance = plan.about.guidance.parse().map_err(|source| model_error("plan", source))?;
    let weights = match model {
        Some(dir) => weights_for_plan(&plan, file, &ModelDir::open(dir)?, None)?,
        None => weights_of_plan(&plan, file)?,
    };
    warn_drift_of_plan(&plan);
    check_image(&plan, inputs)?;
    Ok(Prepared { plan, weights, guidance })
}

/// Checks that options say nothing else than the plan does.
///
/// # Errors
/// When one does, or belongs to compilation alone.
pub fn agree(plan: &Plan, file: &Path, spec: &SpecArgs, clip: &ClipArgs) -> Result<(), Error> {
    let about = &plan.about;
    let options = [
        ("--task", spec.task.map(|t| t.to_string()), about.task.clone()),
        ("--guidance", spec.guidance.map(|g| g.to_string()), about.guidance.clone()),
        ("--dtype", spec.dtype.map(|d| d.to_string()), about.dtype.to_string()),
        ("--clip", clip.clip.map(|c| c.to_string()), about.clip.clone()),
        ("--batch", clip.batch.map(|b| b.to_string()), about.batch.to_string()),
    ];
    for (option, given, has) in options {
        if let Some(given) = given.filter(|g| *g != has) {
            return Err(Error::Usage(format!("{}: is for {option} {has}, not {given}", file.display())));
        }
    }
    if spec.validate || spec.text_tokens.is_some() || spec.image_tokens.is_some() {
        let text = "--validate, --text-tokens and --image-tokens belong to compile, not to a plan";
        return Err(Error::Usage(text.into()));
    }
    if spec.algebra.is_given() {
        let text = "--rules, --disable-rule, --enable-lossy-rule and --device-spec belong to compile, not to a plan";
        return Err(Error::Usage(text.into()));
    }
    Ok(())
}

fn from_model(
    dir: &Path,
    spec: &SpecArgs,
    clip: &ClipArgs,
    inputs: &Inputs,
    backend: &dyn Backend,
) -> Result<Prepared, Error> {
    let model = ModelDir::open(dir)?;
    let task = required_task(spec)?;
    let (clip, batch) = clip_of_inputs(&model.config, task, inputs, clip.clip, clip.batch)?;
    let files = model.files()?;
    let mut request = request_for_inputs(&model, &files, spec, task, clip, batch, inputs)?;
    request.gpu = backend.target().cloned();
    let weights = model.weights(&files, FRESH_SEED)?;
    let fresh = weights.fresh_names().count();
    if fresh > 0 {
        tracing::warn!("{}: holds one stream; {fresh} tensors of the other and of the CCA start fresh", dir.display());
    }
    warn_drift(&model.config, task, &clip);
    let plan = compile(&model.config, &request)?;
    Ok(Prepared { plan, weights, guidance: request.guidance })
}

/// A request that has room for the inputs, in the type that the weights are stored in.
///
/// # Errors
/// When the weights cannot be read.
pub fn request_for_inputs(
    model: &ModelDir,
    files: &Directory,
    spec: &SpecArgs,
    task: Task,
    clip: Clip,
    batch: usize,
    inputs: &Inputs,
) -> Result<Request, Error> {
    let mut request = request(&model.config, spec, task, clip, batch);
    // Inputs without an image run without; longer ones than usual get the room that they need.
    request.image_tokens = match (spec.image_tokens, inputs.shape("image")) {
        (Some(n), _) => n,
        (None, Some([_, n, _])) if model.config.image_dim > 0 => Spec::IMAGE_TOKENS.max(*n),
        _ => 0,
    };
    if spec.text_tokens.is_none() {
        let given = ["text", "negative_text"].iter().filter_map(|n| inputs.shape(n)?.get(1).copied());
        request.text_tokens = given.fold(Spec::TEXT_TOKENS, usize::max);
    }
    request.dtype = match spec.dtype {
        Some(dtype) => dtype,
        None => model.stored_dtype(files)?,
    };
    Ok(request)
}

/// The task that `--task` names.
///
/// # Errors
/// When it is missing.
pub fn required_task(spec: &SpecArgs) -> Result<Task, Error> {
    spec.task
        .ok_or_else(|| Error::Usage(format!("say what to produce: --task {}", Task::ALL.map(Task::name).join("|"))))
}

/// Compiles a plan; where the passes were validated, it says so.
///
/// # Errors
/// When the clip or a setting does not fit the model, or a pass fails.
pub fn compile(config: &Config, request: &Request) -> Result<Plan, Error> {
    let plan = plan(config, request)?;
    if request.validate {
        log::note("validated every pass against the reference interpreter, on a small model of the same structure");
    }
    Ok(plan)
}

/// A request from options alone.
pub fn request(config: &Config, spec: &SpecArgs, task: Task, clip: Clip, batch: usize) -> Request {
    let mut request = Request::new(config, task, spec.guidance.unwrap_or(Guidance::None), clip);
    request.batch = batch;
    request.dtype = spec.dtype.unwrap_or(DType::F32);
    request.text_tokens = spec.text_tokens.unwrap_or(request.text_tokens);
    request.image_tokens = spec.image_tokens.unwrap_or(request.image_tokens);
    request.validate = spec.validate;
    request.algebra = spec.algebra.request();
    request
}

/// Warns where TARP's windows drift (SPEC 3) and the task looks through them.
pub fn warn_drift(config: &Config, task: Task, clip: &Clip) {
    if task.sees_other(ccl_model::Stream::Video)
        && let Some(drift) = tarp::drift(config, clip)
    {
        tracing::warn!("{drift}");
    }
}

fn warn_drift_of_plan(plan: &Plan) {
    let config = Config::from_json(&plan.about.config.to_string());
    if let (Ok(config), Ok(task), Ok(clip)) = (config, plan.about.task.parse(), plan.about.clip.parse()) {
        warn_drift(&config, task, &clip);
    }
}

/// A plan that reads images cannot do without one.
fn check_image(plan: &Plan, inputs: &Inputs) -> Result<(), Error> {
    if plan.input("image").is_some() && !inputs.contains("image") {
        return Err(Error::Failed(
            "the plan reads `image`, the inputs have none: compile it with --image-tokens 0 to do without".into(),
        ));
    }
    Ok(())
}

/// Adds the guidance scales to the inputs.
///
/// # Errors
/// When a scale is given that the form does not use, or is no number.
pub fn add_scales(inputs: &mut Inputs, guidance: Guidance, given: &ScaleArgs) -> Result<(), Error> {
    let used = scales(guidance, |name| given.given(name));
    for (option, input) in given.all_given() {
        if !used.iter().any(|(name, _)| name == input) {
            return Err(Error::Usage(format!("{option} has no effect with --guidance {guidance}")));
        }
    }
    for (name, value) in used {
        let value = value as f32;
        if !value.is_finite() {
            let option = name.replace(['.', '_'], "-");
            return Err(Error::Usage(format!("--{option} must be a number that f32 holds")));
        }
        inputs.insert(name, HostTensor::f32([], vec![value]));
    }
    Ok(())
}

/// The backend that the options name, within a budget of its memory.
///
/// # Errors
/// When it is not there, or keeps all weights.
pub fn open_backend_within(run: &RunArgs, budget: &BudgetArgs) -> Result<Box<dyn Backend>, Error> {
    backend_within(backend_name(run.backend), run.threads, budget.memory_budget)
}

/// The backend that the options name.
///
/// # Errors
/// When it is not there.
pub fn open_backend(run: &RunArgs) -> Result<Box<dyn Backend>, Error> {
    backend(backend_name(run.backend), run.threads)
}

/// Checks the inputs of one evaluation, or of a whole `run`, says what memory the plan takes, and loads it.
///
/// # Errors
/// When an input is missing or does not fit, a weight is damaged, or memory does not suffice.
pub fn start(
    prepared: Prepared,
    backend: &dyn Backend,
    inputs: &Inputs,
    run: Option<&Denoise>,
) -> Result<Session, Error> {
    check_inputs(&prepared.plan, inputs, run)?;
    log::note(&memory_line(&prepared.plan));
    load(prepared, backend)
}

/// Checks inputs before anything is loaded.
///
/// # Errors
/// When one is missing or does not fit.
pub fn check_inputs(plan: &Plan, inputs: &Inputs, run: Option<&Denoise>) -> Result<(), Error> {
    match run {
        Some(run) => Ok(run.check(plan, inputs)?),
        None => Ok(Session::check_inputs(plan, inputs, false)?),
    }
}

/// Loads a plan.
///
/// # Errors
/// When a weight is damaged, or memory does not suffice.
pub fn load(prepared: Prepared, backend: &dyn Backend) -> Result<Session, Error> {
    let Prepared { plan, weights, .. } = prepared;
    let device = backend.describe();
    let (peak, memory) = (plan.report.peak_bytes, device.memory);
    let room = memory.available_bytes.or(memory.total_bytes);
    if let Some(room) = room.filter(|&room| peak > room && backend.memory_budget().is_none()) {
        let free = if memory.available_bytes.is_some() { "free now" } else { "in all" };
        tracing::warn!("the plan takes {}, {} has {} {free}", human_bytes(peak), device.name, human_bytes(room));
    }
    Ok(Session::new(backend, plan.into(), &weights)?)
}

/// The option's text.
pub fn backend_name(name: BackendName) -> &'static str {
    match name {
        BackendName::Auto => "auto",
        BackendName::Cpu => "cpu",
        BackendName::Wgpu => "wgpu",
        BackendName::Cuda => "cuda",
        BackendName::Reference => "reference",
    }
}

/// One line on memory: weights, kept values, working memory.
pub fn memory_line(plan: &Plan) -> String {
    format!(
        "memory: {} (weights {}, kept between steps {}, working {})",
        human_bytes(plan.report.peak_bytes),
        human_bytes(plan.report.weight_bytes),
        human_bytes(plan.persistent_bytes),
        human_bytes(plan.scratch_bytes)
    )
}

/// Puts an option or file in front of a model error.
pub fn model_error(place: &str, source: ccl_model::ModelError) -> Error {
    Error::Model { place: place.into(), source }
}
