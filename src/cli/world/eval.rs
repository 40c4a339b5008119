//! `ccl world eval`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ccl::error::Error;
use ccl::evaluation::{Evaluation, Guiding, check_config, evaluate_world};
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl_model::{Guidance, Task};
use ccl_world::Measures;

use super::measure;
use crate::cli::args::RunArgs;
use crate::cli::prepare::open_backend;
use crate::cli::progress::Bar;

/// Options of `ccl world eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What to sample: t2av a2v v2a joint; more than once for several
    #[arg(long, value_name = "TASK", default_values = ["joint", "a2v", "v2a"])]
    task: Vec<Task>,
    /// Clips of each task
    #[arg(long, value_name = "N", default_value_t = 128)]
    clips: usize,
    /// Audio tokens of a clip: 128 (eight to a frame) or 121 (no whole number)
    #[arg(long, value_name = "L", default_value_t = 128)]
    rate: usize,
    /// Euler steps
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// Shift of the noise levels
    #[arg(long, value_name = "S", default_value_t = 5.0, allow_negative_numbers = true)]
    shift: f64,
    /// Guidance: none text two-pass modality-drop
    #[arg(long, value_name = "FORM", default_value = "two-pass")]
    guidance: Guidance,
    /// Guidance scale of both streams
    #[arg(long, value_name = "S", default_value_t = 2.0, allow_negative_numbers = true)]
    scale: f64,
    /// Seed of clips and noise; clips of another seed than the training's were never seen
    #[arg(long, value_name = "N", default_value_t = 99)]
    seed: u64,
    #[command(flatten)]
    run: RunArgs,
}

/// Samples clips that the model never saw, and measures them.
///
/// # Errors
/// When the model is not one of the world, an option is wrong, or a kernel fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if let Some(task) = args.task.iter().find(|t| !t.produces_video() && t.reference().is_none() || **t == Task::T2v) {
        return Err(Error::Usage(format!("--task {task}: has one stream alone, there is no sync to measure")));
    }
    if args.clips == 0 {
        return Err(Error::Usage("--clips must be at least 1".into()));
    }
    let backend = open_backend(&args.run)?;
    let model = ModelDir::open(&args.model)?;
    check_config(&model.config)?;
    let weights = model.weights(&model.files()?, FRESH_SEED)?;
    let mut found: BTreeMap<String, Measures> = BTreeMap::new();
    for &task in &args.task {
        let how = Evaluation {
            clips: args.clips,
            rate: args.rate,
            seed: args.seed,
            steps: args.steps,
            shift: args.shift,
            guiding: Guiding::Form(args.guidance),
            scale: args.scale,
            ..Evaluation::new(task)
        };
        let bar = Bar::start(task.name(), args.clips.div_ceil(how.batch.min(args.clips)) * args.steps);
        let measures = evaluate_world(&model.config, &weights, backend.as_ref(), &how, &mut |done, _| {
            bar.set_position(done as u64);
            ControlFlow::Continue(())
        });
        bar.finish();
        let measures = measures?;
        if !json {
            crate::cli::print_line(&format!("{task}:"))?;
            measure::say(&measures)?;
        }
        found.insert(task.to_string(), measures);
    }
    if json { crate::cli::print_json(&found) } else { Ok(()) }
}
