//! `ccl sample`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use ccl::error::Error;
use ccl_runtime::denoise::{Denoise, Progress};
use ccl_runtime::inputs::Inputs;
use ccl_runtime::sampler::SamplerKind;
use ccl_runtime::{RuntimeError, write};

use super::args::{BudgetArgs, ClipArgs, RunArgs, ScaleArgs, SourceArgs, SpecArgs};
use super::forward::written;
use super::prepare::{add_scales, open_backend_within, prepare, start};
use super::progress::Bar;

/// Options of `ccl sample`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    clip: ClipArgs,
    #[command(flatten)]
    scales: ScaleArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Safetensors file with text, negative_text, noise.<stream>, and the clean `video` or `audio` of v2a and a2v
    #[arg(long, value_name = "F")]
    inputs: Option<PathBuf>,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 50, allow_negative_numbers = true)]
    steps: usize,
    /// Shift of the noise levels
    #[arg(long, value_name = "S", default_value_t = 5.0, allow_negative_numbers = true)]
    shift: f64,
    /// euler or unipc
    #[arg(long, value_name = "NAME", default_value = "euler", value_parser = sampler)]
    sampler: SamplerKind,
    /// Seed of the noise that the inputs do not give
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// File to write: sample.<stream>
    #[arg(short, long, value_name = "F")]
    output: PathBuf,
}

fn sampler(name: &str) -> Result<SamplerKind, String> {
    SamplerKind::from_name(name).ok_or_else(|| "known are euler and unipc".into())
}

/// Samples a clip.
///
/// # Errors
/// When a file, a tensor or an option is wrong, or a result is not finite.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    write::check_writable(&args.output)?;
    // Wrong numbers are said before anything is read.
    args.sampler.levels(args.steps, args.shift)?;
    let backend = open_backend_within(&args.run, &args.budget)?;
    let mut inputs = match &args.inputs {
        Some(path) => Inputs::open(path)?,
        None => Inputs::new(),
    };
    let prepared = prepare(&args.source, &args.spec, &args.clip, &inputs, backend.as_ref())?;
    add_scales(&mut inputs, prepared.guidance, &args.scales)?;
    let denoise = Denoise { sampler: args.sampler, steps: args.steps, shift: args.shift, seed: args.seed };
    let mut session = start(prepared, backend.as_ref(), &inputs, Some(&denoise)).map_err(|e| match e {
        Error::Runtime(e @ RuntimeError::Input { .. }) if args.inputs.is_none() => {
            Error::Usage(format!("{e}; give it in a file with --inputs F"))
        }
        other => other,
    })?;
    let bar = Bar::start("step", args.steps);
    let outputs = denoise.run(&mut session, &inputs, &mut |p: Progress| {
        if p.done == 0 {
            tracing::info!("prologue: {:.2} s", p.seconds);
        }
        bar.set_position(p.done as u64);
        ControlFlow::Continue(())
    });
    bar.finish();
    let outputs = outputs?;
    write::write_tensors(&args.output, &outputs)?;
    written(&args.output, &outputs, json)
}
