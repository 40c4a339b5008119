//! `ccl forward`.

use std::path::PathBuf;

use ccl::error::Error;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::session::Tensors;
use ccl_runtime::write;

use super::args::{BudgetArgs, ClipArgs, RunArgs, ScaleArgs, SourceArgs, SpecArgs};
use super::prepare::{add_scales, open_backend_within, prepare, start};

/// Options of `ccl forward`.
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
    /// Safetensors file with video [B,C,T,H,W], audio [B,C,L], text [B,N,D], negative_text, t [B], ...
    #[arg(long, value_name = "F")]
    inputs: PathBuf,
    /// File to write: velocity.<stream>, or guided.<stream> with guidance
    #[arg(short, long, value_name = "F")]
    output: PathBuf,
}

/// Evaluates the denoiser once.
///
/// # Errors
/// When a file, a tensor or an option is wrong, or the result is not finite.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    write::check_writable(&args.output)?;
    let backend = open_backend_within(&args.run, &args.budget)?;
    let mut inputs = Inputs::open(&args.inputs)?;
    let prepared = prepare(&args.source, &args.spec, &args.clip, &inputs, backend.as_ref())?;
    add_scales(&mut inputs, prepared.guidance, &args.scales)?;
    let mut session = start(prepared, backend.as_ref(), &inputs, None)?;
    session.prologue(&inputs)?;
    let outputs = session.step(&Tensors::new(), 0)?;
    write::write_tensors(&args.output, &outputs)?;
    written(&args.output, &outputs, json)
}

/// Says what was written where.
pub fn written(path: &std::path::Path, tensors: &Tensors, json: bool) -> Result<(), Error> {
    if json {
        let shapes: std::collections::BTreeMap<&str, &[usize]> =
            tensors.iter().map(|(name, t)| (name.as_str(), t.shape.as_slice())).collect();
        return super::print_json(&serde_json::json!({ "output": path, "tensors": shapes }));
    }
    let list: Vec<String> = tensors.iter().map(|(name, t)| format!("{name} {:?}", t.shape)).collect();
    super::print_line(&format!("wrote {}: {}", path.display(), list.join(", ")))
}
