//! `ccl train`.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccl::error::Error;
use ccl::running::backend;
use ccl::training::config::TrainConfig;
use ccl::training::trainer::{Progress, Trainer};
use ccl_runtime::device::human_bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::BackendName;
use super::interrupt::Interrupt;
use super::prepare::backend_name;

/// Options of `ccl train`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How to train (TOML): [model] and [data], and where the defaults will not do [tasks] [time] [optimiser] [ema] [train]
    #[arg(long, value_name = "F.toml")]
    config: PathBuf,
    /// Go on from the newest checkpoint in the output directory; from the beginning where there is none
    #[arg(long)]
    resume: bool,
    /// Directory for checkpoints (step-000500 is a model directory, step-000500/ema its average), metrics.jsonl and loss.svg
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Dataset to learn from
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Any other field of the configuration, such as train.steps=100
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Where to run: auto takes cuda, then a hardware wgpu adapter, then cpu
    #[arg(long, value_enum)]
    backend: Option<BackendName>,
    /// Threads of the cpu backend
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<usize>,
}

/// Trains.
///
/// # Errors
/// When the configuration, the model, the data or the checkpoint is wrong, or training fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let mut config = TrainConfig::read(&args.config, &args.set)?;
    if let Some(out) = &args.out {
        config.train.out.clone_from(out);
    }
    if let Some(data) = &args.data {
        (config.data.dir, config.data.world) = (Some(data.clone()), None);
    }
    config.train.seed = args.seed.unwrap_or(config.train.seed);
    config.train.threads = args.threads.or(config.train.threads);
    let name = args.backend.map_or(config.train.backend.clone(), |b| backend_name(b).into());
    let device = backend(&name, config.train.threads)?;
    let (steps, out) = (config.train.steps, config.train.out.clone());
    let mut trainer = Trainer::start(config, args.resume, device.as_ref())?;
    begin(&mut trainer, &out, steps, args.resume);
    let line = Line::new(trainer.step(), steps);
    let stop = Interrupt::listen();
    let done = trainer.run(&mut |p| {
        line.show(p);
        if stop.wanted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    line.finish();
    let done = done?;
    if done.step < steps {
        let kept = match &done.checkpoint {
            Some(dir) => format!("{} is there to --resume from", dir.display()),
            None => "there is no checkpoint yet".into(),
        };
        return Err(Error::Failed(format!("stopped at step {} of {steps}; {kept}", done.step)));
    }
    let checkpoint = done.checkpoint.unwrap_or_default();
    let losses: serde_json::Map<String, serde_json::Value> =
        done.averages.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    if json {
        return super::print_json(&json!({
            "output": checkpoint, "step": done.step, "steps_run": done.steps_run, "seconds": done.seconds,
            "step_s": done.seconds / done.steps_run.max(1) as f64, "skipped": done.skipped, "losses": losses,
        }));
    }
    let pace = match done.steps_run {
        0 => "nothing was left to do".to_owned(),
        n => format!("{n} steps in {:.1} s, {:.3} s a step", done.seconds, done.seconds / n as f64),
    };
    let skipped = if done.skipped > 0 { format!(", {} updates left out", done.skipped) } else { String::new() };
    super::print_line(&format!("wrote {}: step {}, {pace}{skipped}", checkpoint.display(), done.step))
}

/// Says what is about to happen.
fn begin(trainer: &mut Trainer, out: &Path, steps: u64, resume: bool) {
    let (parameters, sizes) = (trainer.model().parameters(), trainer.sizes());
    let from = match (trainer.step(), resume) {
        (0, true) => "no checkpoint yet, from the beginning".to_owned(),
        (0, false) => "from the beginning".to_owned(),
        (step, _) => format!("on from step {step}"),
    };
    let trained = trainer.engine().trained().len();
    super::log::note(&format!(
        "training {}: {from} to step {steps}, {parameters} parameters in all, {trained} tensors trained, clip {}, batch {}",
        out.display(),
        sizes.clip,
        sizes.batch
    ));
}

/// The progress: a line that changes on a terminal, else a line whenever there are metrics.
struct Line {
    bar: Option<ProgressBar>,
}

impl Line {
    fn new(done: u64, steps: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps).with_position(done);
            let style =
                ProgressStyle::with_template("step {pos}/{len} {wide_bar} {elapsed_precise}, {prefix} left\n{msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar }
    }

    fn show(&self, p: &Progress<'_>) {
        let left = time(p.seconds_left);
        if let Some(bar) = &self.bar {
            bar.set_position(p.step);
            bar.set_prefix(left);
            if p.row.is_some() || p.step < 5 {
                bar.set_message(state(p));
            }
            return;
        }
        if p.row.is_some() {
            super::log::note(&format!("step {}/{}: {}, {left} left", p.step, p.steps, state(p)));
        }
        if let Some(checkpoint) = p.checkpoint {
            super::log::note(&format!("step {}/{}: wrote {}", p.step, p.steps, checkpoint.display()));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Losses, speed and memory.
fn state(p: &Progress<'_>) -> String {
    let mut parts: Vec<String> = p.averages.iter().map(|(name, loss)| format!("{name} {loss:.3}")).collect();
    parts.push(format!("{:.0} tokens/s", p.tokens_per_s));
    parts.extend(p.memory.map(human_bytes));
    parts.join(", ")
}

/// Seconds for people.
fn time(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        _ => format!("{}:{:02} h", s / 3600, s / 60 % 60),
    }
}
