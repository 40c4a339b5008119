//! `ccl bisect`.

use std::path::PathBuf;

use ccl::bisect::{Found, Results, bisect};
use ccl::error::Error;
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl::planning::plan_some;
use ccl::running::clip_of_inputs;
use ccl_model::Guidance;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::session::{Session, Tensors};

use super::args::{ClipArgs, RunArgs, ScaleArgs, SpecArgs};
use super::prepare::{add_scales, check_inputs, open_backend, request_for_inputs, required_task};

/// Options of `ccl bisect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Safetensors file with the inputs
    #[arg(long, value_name = "F")]
    inputs: PathBuf,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    clip: ClipArgs,
    #[command(flatten)]
    scales: ScaleArgs,
    /// Largest relative L2 difference that is no change
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    tolerance: f64,
    #[command(flatten)]
    run: RunArgs,
}

/// Names the first rewrite that changes a result.
///
/// # Errors
/// When a file or an option is wrong; when a rewrite does change a result.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if args.tolerance.is_nan() || args.tolerance < 0.0 {
        return Err(Error::Usage(format!("--tolerance must be a number from 0, is {}", args.tolerance)));
    }
    let backend = open_backend(&args.run)?;
    let mut inputs = Inputs::open(&args.inputs)?;
    let model = ModelDir::open(&args.model)?;
    let task = required_task(&args.spec)?;
    let (clip, batch) = clip_of_inputs(&model.config, task, &inputs, args.clip.clip, args.clip.batch)?;
    let files = model.files()?;
    let request = request_for_inputs(&model, &files, &args.spec, task, clip, batch, &inputs)?;
    let weights = model.weights(&files, FRESH_SEED)?;
    add_scales(&mut inputs, args.spec.guidance.unwrap_or(Guidance::None), &args.scales)?;
    let options = request.options()?;
    let found = bisect(args.tolerance, |fuel| {
        let (plan, spent) = plan_some(&model.config, &request, &options, fuel)?;
        check_inputs(&plan, &inputs, None)?;
        let mut session = Session::new(backend.as_ref(), plan.into(), &weights)?;
        session.prologue(&inputs)?;
        let outputs = session.step(&Tensors::new(), 0)?;
        let results = outputs.into_iter().map(|(name, t)| (name, t.as_f32().unwrap_or_default().to_vec()));
        tracing::info!("{} rewrites", spent.count);
        Ok((results.collect::<Results>(), spent))
    })?;
    say(&found, json)?;
    match found.guilty {
        Some(g) => Err(Error::Check(format!("{}: `{}` at `{}` changes `{}`", g.pass, g.rule, g.at, g.output))),
        None => Ok(()),
    }
}

fn say(found: &Found, json: bool) -> Result<(), Error> {
    if json {
        return super::print_json(found);
    }
    let size = |x: Option<f64>| x.map_or_else(|| "a result that is not finite".into(), |x| format!("{x:.2e}"));
    let all = format!("{} rewrites together: {}", found.rewrites, size(found.relative_l2));
    super::print_line(&match &found.guilty {
        None => format!("{all}; no rewrite changes a result"),
        Some(g) => format!(
            "{all}\nnumber {} is the first that changes a result: {}: `{}` at `{}` changes `{}`: {} ({} evaluations)",
            g.number,
            g.pass,
            g.rule,
            g.at,
            g.output,
            size(g.relative_l2),
            found.evaluations
        ),
    })
}
