//! `ccl grad`.

use std::path::PathBuf;

use ccl::error::Error;
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl::training::loss::{evaluate, plan_loss, request_of_inputs};
use ccl_model::Task;
use ccl_passes::Training;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::write;

use super::args::{AlgebraArgs, RunArgs};
use super::forward::written;
use super::prepare::{memory_line, open_backend};

/// Options of `ccl grad`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Safetensors file with a batch: video [B,C,T,H,W], audio [B,C,L], noise.video, noise.audio, t [B], text [B,N,D]
    #[arg(long, value_name = "F")]
    inputs: PathBuf,
    /// What is produced from what: t2v t2a t2av a2v v2a joint
    #[arg(long, value_name = "TASK")]
    task: Task,
    /// Run the reference interpreter before and after every compiler pass
    #[arg(long)]
    validate: bool,
    #[command(flatten)]
    algebra: AlgebraArgs,
    #[command(flatten)]
    run: RunArgs,
    /// File to write: loss, loss.<stream>, and grad.<parameter> of every parameter that has a gradient
    #[arg(short, long, value_name = "F")]
    output: PathBuf,
}

/// Computes the training loss of a batch and its gradients.
///
/// # Errors
/// When a file, a tensor or an option is wrong, or the result is not finite.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    write::check_writable(&args.output)?;
    let backend = open_backend(&args.run)?;
    let model = ModelDir::open(&args.model)?;
    let inputs = Inputs::open(&args.inputs)?;
    let mut request = request_of_inputs(&model.config, args.task, &inputs)?;
    request.training = Some(Training::default());
    request.validate = args.validate;
    request.algebra = args.algebra.request();
    let weights = model.weights(&model.files()?, FRESH_SEED)?;
    let plan = plan_loss(&model.config, &request)?;
    super::log::note(&memory_line(&plan));
    let outputs = evaluate(plan, &weights, &inputs, backend.as_ref())?;
    write::write_tensors(&args.output, &outputs)?;
    written(&args.output, &outputs, json)
}
