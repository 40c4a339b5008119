//! `ccl bench`: one module per measurement.

mod calibrate;
mod kernels;
mod step;
mod train;
mod tune;

use std::collections::BTreeMap;
use std::time::Instant;

use ccl::error::Error;
use ccl::explain::units::human_flops;
use ccl_ir::{DType, Plan};
use ccl_runtime::device::{DeviceInfo, process_memory};
use ccl_runtime::profile::{CallTime, Copies};
use clap::Subcommand;
use serde::Serialize;

use crate::cli::progress::Bar;

/// Options of `ccl bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Times a denoising step, all guidance passes included
    Step(step::Args),
    /// Times a training step: loss, gradients and update
    Train(train::Args),
    /// Times kernels one by one on the device itself, and says what share of the roofline they reach
    ///
    /// A line for each: median seconds of a call, rate of arithmetic, memory traffic, and the share of what the device could reach. On GPUs
    /// times are the device's own (CUDA events, timestamp queries), around many calls; elsewhere the host's. Inputs are random and rotated through copies that are
    /// together larger than the second-level cache. `benches/gpu/compare.py --ccl F.json` sets the result beside PyTorch's.
    ///
    ///     ccl bench kernels --backend cuda -o kernels.json
    ///     ccl bench kernels --filter self_attention --dtype bf16
    ///     ccl bench kernels --backend cpu --threads 2
    #[command(verbatim_doc_comment)]
    Kernels(kernels::Args),
    /// Tries every tile of the matrix kernels on the device, and keeps the fastest for each size
    ///
    /// What was found is written to a file for the device, with every time, and read whenever the device is opened; `ccl compile --tuned F.json`
    /// makes plans for another machine by it. Without a model the sizes of a set are tried: on CUDA those of the 14B model at 21x44x80@158, on wgpu
    /// those of a small one. Kernels of wgpu and of CUDA have a file each.
    ///
    ///     ccl bench tune --backend cuda
    ///     ccl bench tune --backend wgpu --model DIR --task v2a --clip 9x16x28@68 --dtype f16
    ///     ccl bench tune --backend cuda --model DIR --task joint --clip 9x16x28@68 --guidance two-pass --dtype bf16 -o here.json
    #[command(verbatim_doc_comment)]
    Tune(tune::Args),
    /// Measures what the compiler's cost model goes by, and writes it as a file for --device-spec
    Calibrate(calibrate::Args),
}

/// Measures.
///
/// # Errors
/// When the model or an option is wrong, or the plan fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    let measured = match &args.what {
        What::Step(args) => step::run(args),
        What::Train(args) => train::run(args),
        What::Kernels(args) => return kernels::run(args, json),
        What::Tune(args) => return tune::run(args, json),
        What::Calibrate(args) => return calibrate::run(args, json),
    }?;
    if json { super::print_json(&measured) } else { say(&measured) }
}

/// What was measured.
#[derive(Serialize)]
struct Measured {
    task: String,
    clip: String,
    batch: usize,
    guidance: String,
    dtype: DType,
    backend: String,
    threads: Option<usize>,
    /// Median seconds of a step.
    step_s: f64,
    /// Fastest and slowest measurement.
    step_range_s: [f64; 2],
    prologue_s: f64,
    /// Planning, then weights, memory and load entry.
    plan_s: f64,
    load_s: f64,
    /// From the start, the device not yet open, to the end of the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_step_s: Option<f64>,
    /// FLOPs of a step as the plan counts them.
    flops: u64,
    gflop_per_s: f64,
    /// Most memory that the process ever held, where the system says it; else what the plan takes.
    peak_bytes: u64,
    /// What the plan takes.
    planned_bytes: u64,
    /// What the plan holds on the device, where that was bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes: Option<u64>,
    /// Weights that came to the device in a step, where not all stay there.
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<Copied>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<Share>,
}

/// Weights that came to the device in a step.
#[derive(Serialize)]
struct Copied {
    #[serde(flatten)]
    copies: Copies,
    /// The part of the copies' time that was hidden behind calls.
    hidden: f64,
}

impl From<Copies> for Copied {
    fn from(copies: Copies) -> Self {
        Self { copies, hidden: copies.hidden() }
    }
}

/// Calls of one operator in a traced step.
#[derive(Serialize)]
struct Share {
    op: String,
    count: usize,
    seconds: f64,
    flops: u64,
    gflop_per_s: f64,
    bytes: u64,
    gb_per_s: f64,
}

/// Seconds that were measured.
struct Times {
    /// Of a step, one number a measurement.
    steps: Vec<f64>,
    prologue_s: f64,
    plan_s: f64,
    load_s: f64,
}

/// Seconds of a step in each of `repeat` measurements of `steps` steps, which are numbered within theirs.
fn repeated(repeat: usize, steps: usize, mut step: impl FnMut(usize) -> Result<(), Error>) -> Result<Vec<f64>, Error> {
    let bar = Bar::start("step", repeat.saturating_mul(steps)).quiet_at_first();
    let mut times = Vec::new();
    for measurement in 0..repeat {
        let begin = Instant::now();
        for k in 0..steps {
            step(k)?;
            bar.set_position((measurement * steps + k + 1) as u64);
        }
        times.push(begin.elapsed().as_secs_f64() / steps as f64);
    }
    bar.finish();
    Ok(times)
}

impl Times {
    /// The median of a step.
    fn step_s(&mut self) -> f64 {
        self.steps.sort_by(f64::total_cmp);
        self.steps[self.steps.len() / 2]
    }
}

impl Measured {
    /// What the times of a plan come to, whose step does so many FLOPs.
    fn new(plan: &Plan, flops: u64, info: DeviceInfo, mut times: Times, calls: &[CallTime]) -> Self {
        let step_s = times.step_s();
        let about = plan.about.clone();
        Self {
            task: about.task,
            clip: about.clip,
            batch: about.batch,
            guidance: about.guidance,
            dtype: about.dtype,
            backend: info.backend,
            threads: info.threads,
            step_s,
            step_range_s: [times.steps[0], times.steps[times.steps.len() - 1]],
            prologue_s: times.prologue_s,
            plan_s: times.plan_s,
            load_s: times.load_s,
            first_step_s: None,
            flops,
            gflop_per_s: flops as f64 / step_s / 1e9,
            peak_bytes: process_memory().peak_bytes.unwrap_or(plan.report.peak_bytes),
            planned_bytes: plan.report.peak_bytes,
            resident_bytes: None,
            copies: None,
            trace: shares(plan, calls),
        }
    }
}

/// Times by operator, the slowest first.
fn shares(plan: &Plan, times: &[CallTime]) -> Vec<Share> {
    let mut by_op: BTreeMap<&str, Share> = BTreeMap::new();
    for t in times {
        let work = plan.calls(t.entry).get(t.index).map(ccl_ir::plan::Call::work).unwrap_or_default();
        let share = by_op.entry(t.op).or_insert_with(|| Share {
            op: t.op.into(),
            count: 0,
            seconds: 0.0,
            flops: 0,
            gflop_per_s: 0.0,
            bytes: 0,
            gb_per_s: 0.0,
        });
        share.count += 1;
        share.seconds += t.seconds;
        share.flops += work.flops;
        share.bytes += work.bytes;
    }
    let mut list: Vec<Share> = by_op.into_values().collect();
    for s in &mut list {
        s.gflop_per_s = s.flops as f64 / s.seconds / 1e9;
        s.gb_per_s = s.bytes as f64 / s.seconds / 1e9;
    }
    list.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    list
}

fn say(m: &Measured) -> Result<(), Error> {
    let human = ccl_runtime::device::human_bytes;
    super::print_line(&format!(
        "step      {:.4} s ({:.4} to {:.4}), {}, {:.1} GFLOP/s",
        m.step_s,
        m.step_range_s[0],
        m.step_range_s[1],
        human_flops(m.flops),
        m.gflop_per_s
    ))?;
    super::print_line(&format!("prologue  {:.4} s", m.prologue_s))?;
    super::print_line(&format!("start     {:.4} s (plan {:.4}, load {:.4})", m.plan_s + m.load_s, m.plan_s, m.load_s))?;
    if let Some(seconds) = m.first_step_s {
        super::print_line(&format!(
            "first     step done {seconds:.4} s after the start, device opened, plan and kernels made ready"
        ))?;
    }
    super::print_line(&format!("memory    {} at most, {} planned", human(m.peak_bytes), human(m.planned_bytes)))?;
    if let Some(Copied { copies, hidden }) = &m.copies {
        super::print_line(&format!(
            "weights   {} came in {:.4} s a step, {:.1} % of it hidden behind calls",
            human(copies.bytes),
            copies.seconds,
            100.0 * hidden
        ))?;
    }
    let total: f64 = m.trace.iter().map(|s| s.seconds).sum();
    for s in &m.trace {
        super::print_line(&format!(
            "  {:<30} {:>5} calls {:>9.2} ms {:>5.1} % {:>8.1} GFLOP/s {:>7.1} GB/s",
            s.op,
            s.count,
            s.seconds * 1e3,
            100.0 * s.seconds / total,
            s.gflop_per_s,
            s.gb_per_s
        ))?;
    }
    Ok(())
}
