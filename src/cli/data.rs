//! `ccl data`.

use std::path::PathBuf;

use ccl::error::Error;
use ccl_data::index::Index;
use ccl_data::{Report, Source, Writer, WriterOptions, check};
use ccl_ir::DType;
use ccl_runtime::device::human_bytes;
use ccl_runtime::tensorfile::FileDType;
use ccl_world::World;
use ccl_world::space::{EVEN_RATE, FRAMES, ODD_RATE};
use clap::Subcommand;
use serde_json::json;

use super::log;
use super::progress::Bar;

/// Options of `ccl data`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make a dataset of the bounce world: balls that bounce and sound, prompts without timing
    ///
    /// A ball of one of 4 colours bounces 2 to 4 times; each impact starts a burst whose pitch the prompt gives and whose timbre is the
    /// ball's colour. Clips are latents: video [4,16,8,4], audio [8,L], text [4,32]. Clip N depends on --seed, --rate and N alone, so that
    /// a longer dataset begins with the shorter one's clips.
    Synth(Synth),
    /// Look at every sample and name each that is broken; exit code 1 when there is one
    Check(Look),
    /// Say what is in a dataset, from its index
    Info(Look),
}

/// Options of `ccl data synth`.
#[derive(clap::Args, Debug)]
struct Synth {
    /// Directory to make; new, or empty
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Number of clips
    #[arg(long, value_name = "N", default_value_t = 4096, allow_negative_numbers = true)]
    clips: usize,
    /// Audio tokens of a clip: 128, eight to a frame, or 121, no whole number to a frame
    #[arg(long, value_name = "128|121", default_value_t = EVEN_RATE, allow_negative_numbers = true)]
    rate: usize,
    /// Seed of the clips
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Clips in one file
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true)]
    shard_size: usize,
    /// How numbers are stored: f32 bf16 f16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = super::args::dtype)]
    dtype: DType,
}

/// Options of `ccl data check` and `ccl data info`.
#[derive(clap::Args, Debug)]
struct Look {
    /// Directory of the dataset
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When an option is wrong, a file cannot be read or written, or the dataset is broken.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    match &args.what {
        What::Synth(synth) => run_synth(synth, json),
        What::Check(look) => run_check(look, json),
        What::Info(look) => run_info(look, json),
    }
}

fn run_synth(args: &Synth, json: bool) -> Result<(), Error> {
    if args.shard_size == 0 {
        return Err(Error::Usage("--shard-size must be at least 1".into()));
    }
    if args.rate != EVEN_RATE && args.rate != ODD_RATE {
        return Err(Error::Usage(format!("--rate must be {EVEN_RATE} or {ODD_RATE}, is {}", args.rate)));
    }
    if args.clips == 0 || args.clips > ccl_data::index::MAX_SAMPLES {
        let most = ccl_data::index::MAX_SAMPLES;
        return Err(Error::Usage(format!("--clips must be 1 to {most}, is {}", args.clips)));
    }
    let world = World::new(args.seed, args.rate, args.clips)
        .map_err(|source| Error::World { place: "data synth".into(), source })?;
    let dtype = match args.dtype {
        DType::F16 => FileDType::F16,
        DType::Bf16 => FileDType::Bf16,
        _ => FileDType::F32,
    };
    let about = json!({ "world": "bounce", "seed": args.seed, "rate": args.rate, "frames": FRAMES });
    let options =
        WriterOptions { shard_samples: args.shard_size, about: about.as_object().cloned().unwrap_or_default() };
    let mut writer = Writer::create(&args.output, world.schema().clone().stored_as(dtype)?, options)?;
    let bar = Bar::start("clip", args.clips).quiet_at_first();
    let made = (0..args.clips).try_for_each(|number| {
        bar.set_position(number as u64 + 1);
        writer.add(&world.clip(number).tensors())
    });
    bar.finish();
    made?;
    let index = writer.finish()?;
    if json {
        return super::print_json(&json!({ "output": args.output, "index": index }));
    }
    super::print_line(&format!("wrote {}: {}", args.output.display(), in_short(&index)))
}

fn run_check(args: &Look, json: bool) -> Result<(), Error> {
    let shards = Index::read(&args.dir)?.shards.len();
    let bar = Bar::start("shard", shards).quiet_at_first();
    let report = check(&args.dir, &mut |done| bar.set_position(done as u64));
    bar.finish();
    let report = report?;
    if json {
        super::print_json(&report)?;
    } else {
        say(&report)?;
    }
    if report.is_sound() {
        return Ok(());
    }
    let (problems, broken) = (report.problems.len(), report.broken.len());
    let dir = args.dir.display();
    Err(Error::Check(format!("{dir}: {problems} problems, {broken} of {} samples are broken", report.samples)))
}

fn say(report: &Report) -> Result<(), Error> {
    for problem in &report.problems {
        super::print_line(&log::one_line(&problem.to_string()))?;
    }
    if report.is_sound() {
        let text = format!("ok: {} samples in {} shards, every value finite", report.samples, report.shards);
        super::print_line(&text)?;
    }
    Ok(())
}

fn run_info(args: &Look, json: bool) -> Result<(), Error> {
    let index = Index::read(&args.dir)?;
    if json {
        return super::print_json(&index);
    }
    super::print_line(&in_short(&index))?;
    for (name, spec) in index.schema.tensors() {
        super::print_line(&format!("  {name:<16} {:<5} {:?}", spec.dtype.name(), spec.shape))?;
    }
    for (key, value) in &index.about {
        super::print_line(&log::one_line(&format!("  {key}: {value}")))?;
    }
    Ok(())
}

/// A dataset in one line.
fn in_short(index: &Index) -> String {
    let bytes = index.shards.iter().fold(0u64, |sum, s| sum.saturating_add(s.bytes));
    let shards = index.shards.len();
    format!("{} samples in {shards} shard{}, {}", index.samples, if shards == 1 { "" } else { "s" }, human_bytes(bytes))
}
