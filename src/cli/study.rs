//! `ccl study`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ccl::error::Error;
use ccl::study::compare::{Claim, Verdict, claims};
use ccl::study::schedule::{Event, Item, Workers};
use ccl::study::{NUMBERS, PAGE, Study};
use ccl::training::config::TrainConfig;
use indicatif::{ProgressBar, ProgressStyle};

use super::args::BackendName;
use super::interrupt::Interrupt;
use super::prepare::backend_name;

/// Options of `ccl study`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How every arm learns (TOML, as for ccl train): a model and data.world, such as examples/world/study.toml
    #[arg(long, value_name = "F.toml")]
    config: PathBuf,
    /// Directory of the study: trainings, measures, index.html, study.json, pictures [default: train.out of the configuration]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Any other field of the configuration, such as train.steps=100
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Paired trainings of every arm; an order is claimed from three on
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: usize,
    /// Clips to sample for each task, arm and seed
    #[arg(long, value_name = "N", default_value_t = 256)]
    clips: usize,
    /// Euler steps of a sample
    #[arg(long, value_name = "N", default_value_t = 20)]
    sample_steps: usize,
    /// Trainings and measurements at once [default: as many as there are cores on the cpu, else 1]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Where to run: auto takes cuda, then a hardware wgpu adapter, then cpu
    #[arg(long, value_enum, default_value = "cpu")]
    backend: BackendName,
    /// Threads of each on the cpu
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Run nothing: write the page of what has been found so far
    #[arg(long)]
    page: bool,
}

/// Runs the study, or what is left of it.
///
/// # Errors
/// When the configuration is wrong, a training or measurement fails, or the study is interrupted; what is done is kept.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    for (name, n) in [
        ("--seeds", args.seeds),
        ("--clips", args.clips),
        ("--sample-steps", args.sample_steps),
        ("--threads", args.threads),
    ] {
        if n == 0 {
            return Err(Error::Usage(format!("{name} must be at least 1")));
        }
    }
    if args.jobs == Some(0) {
        return Err(Error::Usage("--jobs must be at least 1".into()));
    }
    let base = TrainConfig::read(&args.config, &args.set)?;
    let out = args.out.clone().unwrap_or_else(|| base.train.out.clone());
    let mut study = Study::new(base, args.config.display().to_string(), args.seeds, args.clips, out)?;
    study.sample_steps = args.sample_steps;
    std::fs::create_dir_all(&study.out).map_err(|e| Error::Failed(format!("{}: {e}", study.out.display())))?;
    if !args.page {
        work(&study, args)?;
    }
    let results = study.write_page()?;
    if json {
        return super::print_json(&results.numbers(&study));
    }
    claims(&study, &results).iter().try_for_each(|c| super::print_line(&sentence(c)))?;
    super::print_line(&format!("wrote {} and {}", study.out.join(PAGE).display(), study.out.join(NUMBERS).display()))
}

/// Trains and measures.
fn work(study: &Study, args: &Args) -> Result<(), Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let alone = if matches!(args.backend, BackendName::Cpu) { (cores / args.threads).max(1) } else { 1 };
    let workers = Workers {
        jobs: args.jobs.unwrap_or(alone),
        backend: backend_name(args.backend).into(),
        threads: Some(args.threads),
    };
    let stop = Interrupt::listen();
    let items = study.items();
    super::log::note(&format!(
        "studying {}: {} trainings of {} steps and {} measurements, {} at once",
        study.out.display(),
        items.iter().filter(|i| matches!(i, Item::Train(..))).count(),
        study.base.train.steps,
        items.iter().filter(|i| !matches!(i, Item::Train(..))).count(),
        workers.jobs
    ));
    let board = Board::new(items.len());
    let done = study.run(&workers, stop.flag(), &|item, event| {
        board.show(item, event);
        // The page grows with the study; a page that cannot be written now is written at the end.
        if let Event::Done(seconds) = event
            && seconds > 0.0
            && let Err(e) = study.write_page()
        {
            tracing::warn!("{e}");
        }
    });
    board.finish();
    match done? {
        true => Ok(()),
        false => Err(Error::Failed("stopped; the same command goes on from here".into())),
    }
}

/// One line for a comparison.
fn sentence(c: &Claim) -> String {
    let verdict = match c.verdict {
        Verdict::Shown => "shown",
        Verdict::Open => "does not show",
        Verdict::Reversed => "the reverse shows",
    };
    let error = c.gain.error.map_or(String::new(), |e| format!(" ± {e:.4}"));
    format!("{:<8} > {:<8} {:<52} {:+.4}{error}: {verdict}", c.ahead, c.behind, c.by, c.gain.mean)
}

/// How far the study is: a bar with what is running, else a line for each piece that is done.
struct Board {
    bar: Option<ProgressBar>,
    total: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is running, with its share in percent.
    running: Vec<(String, u64)>,
    /// Number of pieces that are done.
    done: usize,
}

impl Board {
    fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {elapsed_precise}\n{msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { bar, total, state: Mutex::default() }
    }

    fn show(&self, item: &Item, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = item.name();
        match event {
            Event::Step(done, of) => {
                let percent = done * 100 / of.max(1);
                match state.running.iter_mut().find(|(n, _)| *n == name) {
                    Some(entry) => entry.1 = percent,
                    None => state.running.push((name, percent)),
                }
            }
            Event::Done(seconds) => {
                state.running.retain(|(n, _)| *n != name);
                state.done += 1;
                if self.bar.is_none() && seconds > 0.0 {
                    super::log::note(&format!("{}/{}: {name}, {seconds:.0} s", state.done, self.total));
                }
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_position(state.done as u64);
            let running: Vec<String> = state.running.iter().map(|(name, p)| format!("{name} {p} %")).collect();
            bar.set_message(running.join(", "));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
