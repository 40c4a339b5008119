//! `ccl bench step`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ccl::error::Error;
use ccl::explain::Trace;
use ccl::model_dir::ModelDir;
use ccl::running::{scales, weights_for_plan};
use ccl_ir::{DType, Plan};
use ccl_model::Guidance;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::profile::{CallTime, Copies};
use ccl_runtime::random::Stream;
use ccl_runtime::sampler::SamplerKind;
use ccl_runtime::session::{Session, Tensors};
use ccl_runtime::weights::WeightStore;
use ccl_runtime::{Backend, HostData, HostTensor, planfile};

use super::{Measured, Times, repeated};
use crate::cli::args::{BudgetArgs, ClipArgs, RunArgs, SpecArgs};
use crate::cli::log;
use crate::cli::prepare::{
    agree, compile, memory_line, model_error, open_backend_within, request, required_task, warn_drift,
};

/// Options of `ccl bench step`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Draw the weights instead of reading them; config.json is enough then
    #[arg(long)]
    random_weights: bool,
    #[command(flatten)]
    spec: SpecArgs,
    /// Run this compiled plan of the model instead of making one; it says task, clip, guidance and type
    #[arg(long, value_name = "F.cclp")]
    plan: Option<PathBuf>,
    /// Latent sizes of the clip, e.g. 9x16x28@68
    #[arg(long, value_name = "TxHxW@L", required_unless_present = "plan")]
    clip: Option<ccl_model::Clip>,
    /// Clips at once [default: 1]
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    batch: Option<usize>,
    /// Steps in one measurement
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// Measurements; the median counts
    #[arg(long, value_name = "R", default_value_t = 3)]
    repeat: usize,
    /// Seed of weights and inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Time every call of one more step and list the operators by their share; into a file for `ccl explain --trace`, where
    /// one is named
    #[arg(long, value_name = "F")]
    trace: Option<Option<PathBuf>>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    budget: BudgetArgs,
}

/// Measures a denoising step.
///
/// # Errors
/// When the model or an option is wrong, or the plan fails.
pub fn run(args: &Args) -> Result<Measured, Error> {
    if args.steps == 0 || args.repeat == 0 {
        return Err(Error::Usage("--steps and --repeat must be at least 1".into()));
    }
    if let Some(Some(file)) = &args.trace {
        ccl_runtime::write::check_writable(file)?;
    }
    let start = Instant::now();
    let device = open_backend_within(&args.run, &args.budget)?;
    let model = ModelDir::open(&args.model)?;
    let Prepared { plan, weights, guidance, plan_s } = match &args.plan {
        Some(file) => from_file(args, file, &model)?,
        None => from_model(args, &model, device.as_ref())?,
    };
    let info = device.describe();
    log::note(&memory_line(&plan));

    let begin = Instant::now();
    let mut session = Session::new(device.as_ref(), plan.into(), &weights)?;
    let load_s = begin.elapsed().as_secs_f64();
    // After loading, which refuses a plan that is too large.
    let inputs = random_inputs(session.plan(), guidance, args.seed)?;
    session.prologue(&inputs)?;
    let none = Tensors::new();
    session.step(&none, 0)?;
    let first_step_s = start.elapsed().as_secs_f64();
    // Not the first time: some drivers compile kernels when they are launched.
    let begin = Instant::now();
    session.prologue(&inputs)?;
    let prologue_s = begin.elapsed().as_secs_f64();
    let times = repeated(args.repeat, args.steps, |k| Ok(drop(session.step(&none, k % ROWS)?)))?;
    let mut times = Times { steps: times, prologue_s, plan_s, load_s };
    let timed = args.trace.is_some() || args.budget.memory_budget.is_some();
    let (mut calls, copies) = if timed { trace(&mut session)? } else { Default::default() };
    let resident = session.instance().resident_bytes();
    let plan = session.plan();
    if let Some(Some(file)) = &args.trace {
        let device = format!("{} ({})", info.name, info.backend);
        Trace::new(plan, device, times.step_s(), &calls, copies).save(file)?;
    }
    if args.trace.is_none() {
        calls.clear();
    }
    let flops = plan.report.flops.get("step").copied().unwrap_or(0);
    let measured = Measured::new(plan, flops, info, times, &calls);
    Ok(Measured {
        first_step_s: Some(first_step_s),
        resident_bytes: args.budget.memory_budget.map(|_| resident),
        copies: copies.map(Into::into),
        ..measured
    })
}

/// A plan and its weights.
struct Prepared {
    plan: Plan,
    weights: WeightStore,
    guidance: Guidance,
    /// Seconds that the plan took to make, or to read.
    plan_s: f64,
}

/// A plan made for the device.
fn from_model(args: &Args, model: &ModelDir, device: &dyn Backend) -> Result<Prepared, Error> {
    let task = required_task(&args.spec)?;
    let clip = args.clip.ok_or_else(|| Error::Usage("say the clip: --clip TxHxW@L".into()))?;
    let mut request = request(&model.config, &args.spec, task, clip, args.batch.unwrap_or(1));
    request.gpu = device.target().cloned();
    let weights = if args.random_weights {
        model.random_weights(args.seed)
    } else {
        let files = model.files()?;
        if args.spec.dtype.is_none() {
            request.dtype = model.stored_dtype(&files)?;
        }
        model.weights(&files, args.seed)?
    };
    warn_drift(&model.config, task, &clip);
    let begin = Instant::now();
    let plan = compile(&model.config, &request)?;
    Ok(Prepared { plan, weights, guidance: request.guidance, plan_s: begin.elapsed().as_secs_f64() })
}

/// A plan that was compiled before.
fn from_file(args: &Args, file: &Path, model: &ModelDir) -> Result<Prepared, Error> {
    let begin = Instant::now();
    let plan = planfile::load(file)?;
    let plan_s = begin.elapsed().as_secs_f64();
    agree(&plan, file, &args.spec, &ClipArgs { clip: args.clip, batch: args.batch })?;
    let guidance = plan.about.guidance.parse().map_err(|source| model_error("plan", source))?;
    let weights = match args.random_weights {
        true => model.random_weights(args.seed),
        false => weights_for_plan(&plan, file, model, None)?,
    };
    Ok(Prepared { plan, weights, guidance, plan_s })
}

/// Levels that the benchmark walks through.
const ROWS: usize = 16;

/// Random inputs for every port of a plan, prompts at full length.
fn random_inputs(plan: &Plan, guidance: Guidance, seed: u64) -> Result<Inputs, Error> {
    let mut inputs = Inputs::new();
    for (name, value) in scales(guidance, |_| None) {
        inputs.insert(name, HostTensor::f32([], vec![value as f32]));
    }
    for port in &plan.inputs {
        let name = port.name.as_str();
        let ty = &port.operand.ty;
        if inputs.contains(name) || ty.dtype == DType::I32 || name == "schedule" {
            continue;
        }
        let mut tensor = HostTensor::zeros(ty);
        if let HostData::F32(data) = &mut tensor.data {
            Stream::new(seed, name).normal(data);
        }
        inputs.insert(name, tensor);
    }
    let levels = SamplerKind::Euler.levels(ROWS, 5.0)?;
    inputs.insert("schedule", levels.table(plan.about.batch));
    Ok(inputs)
}

/// Times of one step's calls, and of the weights that came meanwhile.
fn trace(session: &mut Session) -> Result<(Vec<CallTime>, Option<Copies>), Error> {
    session.instance().set_profiling(true);
    session.instance().take_profile();
    session.step(&Tensors::new(), 0)?;
    let measured = (session.instance().take_profile(), session.instance().take_copies());
    session.instance().set_profiling(false);
    Ok(measured)
}
