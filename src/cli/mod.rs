//! The command line: one module per command.

pub mod args;
pub mod bench;
pub mod bisect;
pub mod compile;
pub mod data;
pub mod devices;
pub mod explain;
pub mod forward;
pub mod grad;
pub mod interrupt;
pub mod log;
pub mod prepare;
pub mod progress;
pub mod report;
pub mod sample;
pub mod study;
pub mod train;
pub mod verify;
pub mod world;

use clap::{Parser, Subcommand};

use ccl::Error;

/// Compiler and runtime for joint audio-video diffusion transformers of the CCL family.
///
/// A model is a directory with config.json and *.safetensors. A clip is written TxHxW@L: latent frames, height, width
/// and audio tokens. Start with
///
///     ccl sample --model examples/tiny --inputs examples/tiny/inputs.safetensors --task joint -o out.safetensors
#[derive(Parser, Debug)]
#[command(name = "ccl", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Log more: -v what is done, -vv details (or set CCL_LOG)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print one JSON document on standard output instead of text
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// What can run here, with limits and element types
    Devices(devices::Args),
    /// Compile a plan that runs without the compiler; needs no device, and without weights no weights
    Compile(compile::Args),
    /// What each pass did, what it cost or saved, what it refused and why, and the memory that the result takes
    Explain(explain::Args),
    /// One denoiser evaluation
    Forward(forward::Args),
    /// The sampling loop, from noise to latents
    Sample(sample::Args),
    /// The training loss of a batch and its gradients
    Grad(grad::Args),
    /// Train a model: losses per task, checkpoints that can be gone on from, metrics
    Train(train::Args),
    /// The paper's ablation on the bounce world: paired trainings, side by side, measured; a page with tables, curves and attention maps
    ///
    /// Stop it at any time: the same command goes on from there. The page is written anew whenever something is done.
    Study(study::Args),
    /// Compare everything that can be computed with a file of expected results
    Verify(verify::Args),
    /// Name the first rewrite of the compiler that changes a result
    Bisect(bisect::Args),
    /// Measure speed
    Bench(bench::Args),
    /// Make, check and describe datasets
    Data(data::Args),
    /// The bounce world: prompts, clips to watch and hear, measures of sync
    World(world::Args),
}

/// Runs the command.
///
/// # Errors
/// With one line for the user, and an exit code.
pub fn run(cli: &Cli) -> Result<(), Error> {
    match &cli.command {
        Command::Devices(a) => devices::run(a, cli.json),
        Command::Compile(a) => compile::run(a, cli.json),
        Command::Explain(a) => explain::run(a, cli.json),
        Command::Forward(a) => forward::run(a, cli.json),
        Command::Sample(a) => sample::run(a, cli.json),
        Command::Grad(a) => grad::run(a, cli.json),
        Command::Train(a) => train::run(a, cli.json),
        Command::Study(a) => study::run(a, cli.json),
        Command::Verify(a) => verify::run(a, cli.json),
        Command::Bisect(a) => bisect::run(a, cli.json),
        Command::Bench(a) => bench::run(a, cli.json),
        Command::Data(a) => data::run(a, cli.json),
        Command::World(a) => world::run(a, cli.json),
    }
}

/// Prints a JSON document.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Failed(format!("JSON: {e}")))?;
    print_line(&text)
}

/// Prints a line of the result. A closed pipe is no failure of the work: `ccl explain | head` ends quietly.
pub fn print_line(text: &str) -> Result<(), Error> {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::Failed(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}
