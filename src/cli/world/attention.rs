//! `ccl world attention`.

use std::path::PathBuf;

use ccl::attention::{Look, Region, look};
use ccl::error::Error;
use ccl::evaluation::check_config;
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl_runtime::write::write_atomic;

use crate::cli::args::RunArgs;
use crate::cli::prepare::open_backend;

/// Options of `ccl world attention`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Clips to average over
    #[arg(long, value_name = "N", default_value_t = 32)]
    clips: usize,
    /// Audio tokens of a clip: 128 (eight to a frame) or 121 (no whole number)
    #[arg(long, value_name = "L", default_value_t = 128)]
    rate: usize,
    /// Noise level, from 0 to 1
    #[arg(long, value_name = "T", default_value_t = 0.5)]
    level: f64,
    /// Seed of clips and noise
    #[arg(long, value_name = "N", default_value_t = 99)]
    seed: u64,
    /// Picture of the first clip (SVG)
    #[arg(short, long, value_name = "F.svg")]
    out: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

/// Looks at a model's cross attention.
///
/// # Errors
/// When the model is not one of the world or has no context tokens, an option is wrong, or a kernel fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if args.clips == 0 {
        return Err(Error::Usage("--clips must be at least 1".into()));
    }
    if !(0.0..=1.0).contains(&args.level) {
        return Err(Error::Usage(format!("--level must be from 0 to 1, is {}", args.level)));
    }
    let backend = open_backend(&args.run)?;
    let model = ModelDir::open(&args.model)?;
    check_config(&model.config)?;
    let weights = model.weights(&model.files()?, FRESH_SEED)?;
    let how = Look { clips: args.clips, rate: args.rate, seed: args.seed, level: args.level };
    let found = look(&model.config, &weights, backend.as_ref(), how)?;
    if let Some(path) = &args.out {
        write_atomic(path, found.svg()?.as_bytes())?;
    }
    if json {
        return crate::cli::print_json(&found);
    }
    let blocks: String = (0..model.config.layers).map(|n| format!(" {:>8}", format!("block {n}"))).collect();
    crate::cli::print_line(&format!("{:<20} {:>6}{blocks}", "share on context", "all"))?;
    for region in Region::ALL {
        let each: String = found.regions[&region].iter().map(|x| format!(" {x:>8.3}")).collect();
        crate::cli::print_line(&format!("{:<20} {:>6.3}{each}", region.name(), found.mean(region)))?;
    }
    match &args.out {
        Some(path) => crate::cli::print_line(&format!("wrote {}", path.display())),
        None => Ok(()),
    }
}
