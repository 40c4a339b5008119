//! `ccl bench`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use ccl::calibrate::{Effort, calibrate};
use ccl::error::Error;
use ccl::model_dir::ModelDir;
use ccl::running::scales;
use ccl_ir::{DType, Plan};
use ccl_model::Guidance;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::profile::CallTime;
use ccl_runtime::random::Stream;
use ccl_runtime::sampler::SamplerKind;
use ccl_runtime::session::{Session, Tensors};
use ccl_runtime::{HostData, HostTensor};
use clap::Subcommand;
use serde::Serialize;

use super::args::{RunArgs, SpecArgs};
use super::explain::human_flops;
use super::prepare::{compile, memory_line, open_backend, request, required_task, warn_drift};

/// Options of `ccl bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Times a denoising step, all guidance passes included
    Step(Step),
    /// Measures what the compiler's cost model goes by, and writes it as a file for --device-spec
    Calibrate(Calibrate),
}

/// Options of `ccl bench calibrate`.
#[derive(clap::Args, Debug)]
struct Calibrate {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "F.toml")]
    output: Option<PathBuf>,
    /// Measure less, and less well
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Options of `ccl bench step`.
#[derive(clap::Args, Debug)]
struct Step {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Draw the weights instead of reading them; config.json is enough then
    #[arg(long)]
    random_weights: bool,
    #[command(flatten)]
    spec: SpecArgs,
    /// Latent sizes of the clip, e.g. 9x16x28@68
    #[arg(long, value_name = "TxHxW@L")]
    clip: ccl_model::Clip,
    /// Clips at once
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,
    /// Steps in one measurement
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// Measurements; the median counts
    #[arg(long, value_name = "R", default_value_t = 3)]
    repeat: usize,
    /// Seed of weights and inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Time every call of one more step and list the operators by their share
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    run: RunArgs,
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
    /// FLOPs of a step as the plan counts them.
    flops: u64,
    gflop_per_s: f64,
    /// Most memory that the process ever held, where the system says it; else what the plan takes.
    peak_bytes: u64,
    /// What the plan takes.
    planned_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<Share>,
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

/// Measures.
///
/// # Errors
/// When the model or an option is wrong, or the plan fails.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    match &args.what {
        What::Step(step) => bench_step(step, json),
        What::Calibrate(args) => bench_calibrate(args, json),
    }
}

fn bench_calibrate(args: &Calibrate, json: bool) -> Result<(), Error> {
    if let Some(path) = &args.output {
        ccl_runtime::write::check_writable(path)?;
    }
    let device = open_backend(&args.run)?;
    let full = Effort::default();
    let quick = Effort { side: 256, numbers: 1 << 20, calls: 200, repeat: 2 };
    let spec = calibrate(device.as_ref(), if args.quick { quick } else { full })?;
    let text = spec.to_toml();
    match &args.output {
        Some(path) => ccl_runtime::write::write_atomic(path, text.as_bytes())?,
        None if !json => super::print_line(text.trim_end())?,
        None => {}
    }
    if json {
        return super::print_json(&spec);
    }
    Ok(())
}

fn bench_step(args: &Step, json: bool) -> Result<(), Error> {
    if args.steps == 0 || args.repeat == 0 {
        return Err(Error::Usage("--steps and --repeat must be at least 1".into()));
    }
    let device = open_backend(&args.run)?;
    let model = ModelDir::open(&args.model)?;
    let task = required_task(&args.spec)?;
    let mut request = request(&model.config, &args.spec, task, args.clip, args.batch);
    let weights = if args.random_weights {
        model.random_weights(args.seed)
    } else {
        let files = model.files()?;
        if args.spec.dtype.is_none() {
            request.dtype = model.stored_dtype(&files)?;
        }
        model.weights(&files, args.seed)?
    };
    warn_drift(&model.config, task, &args.clip);
    let begin = Instant::now();
    let plan = compile(&model.config, &request)?;
    let plan_s = begin.elapsed().as_secs_f64();
    let info = device.describe();
    super::log::note(&memory_line(&plan));

    let inputs = random_inputs(&plan, request.guidance, args.seed)?;
    let begin = Instant::now();
    let mut session = Session::new(device.as_ref(), plan.into(), &weights)?;
    let load_s = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    session.prologue(&inputs)?;
    let prologue_s = begin.elapsed().as_secs_f64();
    let none = Tensors::new();
    session.step(&none, 0)?;
    let mut times = Vec::new();
    for _ in 0..args.repeat {
        let begin = Instant::now();
        for k in 0..args.steps {
            session.step(&none, k % ROWS)?;
        }
        times.push(begin.elapsed().as_secs_f64() / args.steps as f64);
    }
    times.sort_by(f64::total_cmp);
    let trace = if args.trace { trace(&mut session)? } else { Vec::new() };
    let plan = session.plan();
    let step_s = times[times.len() / 2];
    let flops = plan.report.flops.get("step").copied().unwrap_or(0);
    let measured = Measured {
        task: plan.about.task.clone(),
        clip: plan.about.clip.clone(),
        batch: plan.about.batch,
        guidance: plan.about.guidance.clone(),
        dtype: plan.about.dtype,
        backend: info.backend,
        threads: info.threads,
        step_s,
        step_range_s: [times[0], times[times.len() - 1]],
        prologue_s,
        plan_s,
        load_s,
        flops,
        gflop_per_s: flops as f64 / step_s / 1e9,
        peak_bytes: peak_memory().unwrap_or(plan.report.peak_bytes),
        planned_bytes: plan.report.peak_bytes,
        trace,
    };
    if json { super::print_json(&measured) } else { say(&measured) }
}

/// Levels that the benchmark walks through.
const ROWS: usize = 16;

/// Random inputs for every port of a plan, prompts at full length.
fn random_inputs(plan: &Plan, guidance: Guidance, seed: u64) -> Result<Inputs, Error> {
    let mut inputs = Inputs::new();
    for (name, value) in scales(guidance, |_| None) {
        inputs.insert(name, HostTensor::f32([], vec![value as f32]));
    }
    for port in &plan.inputs {
        let name = port.name.as_str();
        let ty = &port.operand.ty;
        if inputs.contains(name) || ty.dtype == DType::I32 || name == "schedule" {
            continue;
        }
        let mut tensor = HostTensor::zeros(ty);
        if let HostData::F32(data) = &mut tensor.data {
            Stream::new(seed, name).normal(data);
        }
        inputs.insert(name, tensor);
    }
    let levels = SamplerKind::Euler.levels(ROWS, 5.0)?;
    inputs.insert("schedule", levels.table(plan.about.batch));
    Ok(inputs)
}

/// Times of one step's calls, by operator, the slowest first.
fn trace(session: &mut Session) -> Result<Vec<Share>, Error> {
    session.instance().set_profiling(true);
    session.instance().take_profile();
    session.step(&Tensors::new(), 0)?;
    let times: Vec<CallTime> = session.instance().take_profile();
    session.instance().set_profiling(false);
    let mut by_op: BTreeMap<&str, Share> = BTreeMap::new();
    for t in &times {
        let work = session.plan().calls(t.entry).get(t.index).map(ccl_ir::plan::Call::work).unwrap_or_default();
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
    Ok(list)
}

/// Most memory that the process ever held, as Linux counts it.
fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
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
    super::print_line(&format!("memory    {} at most, {} planned", human(m.peak_bytes), human(m.planned_bytes)))?;
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
