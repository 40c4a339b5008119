//! `ccl bench calibrate`.

use std::path::PathBuf;

use ccl::calibrate::{Effort, calibrate};
use ccl::error::Error;
use ccl_runtime::write;

use crate::cli::args::RunArgs;
use crate::cli::prepare::open_backend;

/// Options of `ccl bench calibrate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "F.toml")]
    output: Option<PathBuf>,
    /// Measure less, and less well
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Measures a backend for the cost model.
///
/// # Errors
/// When an option is wrong, or the device fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if let Some(path) = &args.output {
        write::check_writable(path)?;
    }
    let device = open_backend(&args.run)?;
    let full = Effort::default();
    let quick = Effort { side: 256, numbers: 1 << 20, calls: 200, repeat: 2 };
    let spec = calibrate(device.as_ref(), if args.quick { quick } else { full })?;
    let text = spec.to_toml();
    match &args.output {
        Some(path) => write::write_atomic(path, text.as_bytes())?,
        None if !json => crate::cli::print_line(text.trim_end())?,
        None => {}
    }
    if json { crate::cli::print_json(&spec) } else { Ok(()) }
}
