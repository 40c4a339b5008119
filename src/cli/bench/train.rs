//! `ccl bench train`.

use std::path::PathBuf;
use std::time::Instant;

use ccl::error::Error;
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl::training::config::Time;
use ccl::training::draws::{Draws, Place};
use ccl::training::engine::{Engine, EngineSpec, Pace, Sizes, half_of};
use ccl_ir::DType;
use ccl_model::{Clip, Task};
use ccl_runtime::session::Tensors;

use super::{Measured, Times, repeated};
use crate::cli::args::{AlgebraArgs, RunArgs, dtype};
use crate::cli::prepare::{memory_line, open_backend, warn_drift};

/// Options of `ccl bench train`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Draw the weights instead of reading them; config.json is enough then
    #[arg(long)]
    random_weights: bool,
    /// What is produced from what: t2v t2a t2av a2v v2a joint
    #[arg(long, value_name = "TASK")]
    task: Task,
    /// Latent sizes of the clip, e.g. 16x8x4@128
    #[arg(long, value_name = "TxHxW@L")]
    clip: Clip,
    /// Samples of a batch
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,
    /// Text tokens of every sample
    #[arg(long, value_name = "N", default_value_t = ccl_model::Spec::TEXT_TOKENS)]
    text_tokens: usize,
    /// Image tokens of every sample
    #[arg(long, value_name = "N", default_value_t = 0)]
    image_tokens: usize,
    /// What products read and tokens are stored in, on GPUs
    #[arg(long, value_name = "f32|bf16|f16", value_parser = dtype, default_value = "f32")]
    dtype: DType,
    /// Steps in one measurement
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// Measurements; the median counts
    #[arg(long, value_name = "R", default_value_t = 3)]
    repeat: usize,
    /// Seed of weights and inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Time every call of one more step and list the operators by their share
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    algebra: AlgebraArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Measures a training step with AdamW and an average of the parameters.
///
/// # Errors
/// When the model or an option is wrong, or a plan fails.
pub fn run(args: &Args) -> Result<Measured, Error> {
    if args.steps == 0 || args.repeat == 0 || args.batch == 0 {
        return Err(Error::Usage("--steps, --repeat and --batch must be at least 1".into()));
    }
    let device = open_backend(&args.run)?;
    let model = ModelDir::open(&args.model)?;
    let weights = match args.random_weights {
        true => model.random_weights(args.seed),
        false => model.weights(&model.files()?, FRESH_SEED)?,
    };
    warn_drift(&model.config, args.task, &args.clip);
    let (clip, batch) = (args.clip, args.batch);
    let sizes = Sizes { clip, batch, text_tokens: args.text_tokens, image_tokens: args.image_tokens };
    let begin = Instant::now();
    let defaults = EngineSpec::of_task(&model.config, args.task, sizes)?;
    let half = half_of(args.dtype, device.as_ref())?;
    let spec = EngineSpec { algebra: args.algebra.request(), half, ..defaults };
    let plans = spec.plans()?;
    let plan_s = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut engine = Engine::new(&spec, plans, device.as_ref())?;
    engine.load(&weights)?;
    let load_s = begin.elapsed().as_secs_f64();
    let plan = engine.learner().plan(args.task.name())?.clone();
    crate::cli::log::note(&memory_line(&plan));

    let place = Place::Step { step: 1, part: 0 };
    let draws = Draws::new(args.seed);
    let batch: Tensors = engine
        .inputs(args.task)?
        .into_iter()
        .map(|(name, ty)| match name.as_str() {
            "t" => (name, draws.times(place, args.batch, Time::Uniform)),
            _ => (name.clone(), draws.noise(place, &name, &ty.shape)),
        })
        .collect();
    // A rate of nothing: the weights stay, the work is the same.
    let pace = Pace { rates: vec![0.0; spec.optimiser.decays.len()], average: 0.01 };
    let step = |e: &mut Engine| e.step(args.task, [Ok(batch.clone())], &pace).map(drop);
    step(&mut engine)?;
    let times = repeated(args.repeat, args.steps, |_| Ok(step(&mut engine)?))?;
    let mut calls = Vec::new();
    if args.trace {
        engine.learner().instance(args.task.name())?.set_profiling(true);
        step(&mut engine)?;
        calls = engine.learner().instance(args.task.name())?.take_profile();
    }
    let flops = plan.report.flops.values().sum();
    let times = Times { steps: times, prologue_s: 0.0, plan_s, load_s };
    Ok(Measured::new(&plan, flops, device.describe(), times, &calls))
}
