//! `ccl verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;

use ccl::error::Error;
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl::training::loss::{evaluate, plan_loss, request_of_inputs};
use ccl_ir::tensor::relative_l2;
use ccl_model::{Guidance, Task};
use ccl_passes::Training;
use ccl_passes::differentiate::{GRADIENT, LOSS};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::Backend;
use ccl_runtime::denoise::Denoise;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::sampler::SamplerKind;
use ccl_runtime::session::{Session, Tensors};
use ccl_runtime::tensorfile::TensorFile;
use serde::Serialize;

use super::args::{AlgebraArgs, ClipArgs, RunArgs, ScaleArgs, SourceArgs, SpecArgs};
use super::prepare::{add_scales, check_inputs, load, memory_line, open_backend, prepare};

/// Options of `ccl verify`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Safetensors file with the inputs
    #[arg(long, value_name = "F")]
    inputs: PathBuf,
    /// Safetensors file with the expected results: velocity.<task>.<stream>, guided2.<stream>, guided3.<stream>,
    /// sample.<stream>, loss.<task>, grad.<task>.<parameter>
    #[arg(long, value_name = "F")]
    expected: PathBuf,
    /// Largest relative L2 difference
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    tolerance: f64,
    /// How matrices are stored: f32 bf16 f16 [default: as in the checkpoint]
    #[arg(long, value_name = "TYPE", value_parser = super::args::dtype)]
    dtype: Option<ccl_ir::DType>,
    #[command(flatten)]
    algebra: AlgebraArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// One comparison.
#[derive(Serialize)]
struct Compared {
    name: String,
    relative_l2: Option<f64>,
    ok: bool,
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    tolerance: f64,
    compared: Vec<Compared>,
    not_computed: Vec<String>,
}

/// A run that gives some of the expected results: how names of its outputs map to names in the file.
struct Case {
    task: Task,
    guidance: Guidance,
    scales: ScaleArgs,
    /// Sample 6 Euler steps at shift 5, instead of one evaluation.
    sample: bool,
    /// First part of the names in the file, without the stream.
    expected: String,
}

/// Everything that a file of results may ask for.
fn cases() -> Vec<Case> {
    let plain = |task: Task| Case {
        task,
        guidance: Guidance::None,
        scales: ScaleArgs::default(),
        sample: false,
        expected: format!("velocity.{task}"),
    };
    let three = ScaleArgs { scale_video: Some(3.0), scale_audio: Some(3.0), ..ScaleArgs::default() };
    let both = ScaleArgs {
        scale_video: Some(2.5),
        scale_audio: Some(2.5),
        text_scale_video: Some(4.0),
        text_scale_audio: Some(4.0),
    };
    let guided = |guidance, scales: &ScaleArgs, sample, expected: &str| Case {
        task: Task::Joint,
        guidance,
        scales: scales.clone(),
        sample,
        expected: expected.into(),
    };
    let mut all: Vec<Case> = Task::ALL.into_iter().map(plain).collect();
    all.push(guided(Guidance::TwoPass, &three, false, "guided2"));
    all.push(guided(Guidance::ThreePass, &both, false, "guided3"));
    all.push(guided(Guidance::TwoPass, &three, true, "sample"));
    all
}

/// Compares results with a file.
///
/// # Errors
/// When a file is wrong, nothing could be compared, or a difference is beyond the tolerance.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if args.tolerance.is_nan() || args.tolerance < 0.0 {
        return Err(Error::Usage(format!("--tolerance must be a number from 0, is {}", args.tolerance)));
    }
    let backend = open_backend(&args.run)?;
    let expected = TensorFile::open(&args.expected)?;
    let mut left: BTreeSet<String> = expected.tensors().keys().cloned().collect();
    let mut compared = Vec::new();
    for case in cases() {
        let names: Vec<String> = ["video", "audio"].iter().map(|m| format!("{}.{m}", case.expected)).collect();
        if !names.iter().any(|n| left.contains(n)) {
            continue;
        }
        let got = compute(args, &case, backend.as_ref())?;
        for name in names {
            let stream = name.rsplit('.').next().unwrap_or_default();
            let Some(got) = got.get(stream) else { continue };
            if left.remove(&name) {
                compared.push(compare(name.clone(), got, &expected.read(&name)?, args.tolerance));
            }
        }
    }
    // Training computes in f32: another type has nothing to show there.
    for task in Task::ALL.into_iter().filter(|_| args.dtype.is_none_or(|d| d == ccl_ir::DType::F32)) {
        compared.extend(losses(args, task, &expected, &mut left, backend.as_ref())?);
    }
    let verdict = Verdict {
        ok: !compared.is_empty() && compared.iter().all(|c| c.ok),
        tolerance: args.tolerance,
        compared,
        not_computed: left.into_iter().collect(),
    };
    say(&verdict, json)?;
    if verdict.compared.is_empty() {
        let path = args.expected.display();
        return Err(Error::Check(format!(
            "{path}: holds no result that can be computed (such as velocity.joint.video)"
        )));
    }
    match verdict.compared.iter().filter(|c| !c.ok).count() {
        0 => Ok(()),
        n => Err(Error::Check(format!(
            "{n} of {} results differ by more than {:e}",
            verdict.compared.len(),
            args.tolerance
        ))),
    }
}

/// Results of a case by stream.
fn compute(args: &Args, case: &Case, backend: &dyn Backend) -> Result<BTreeMap<String, HostTensor>, Error> {
    let mut inputs = Inputs::open(&args.inputs)?;
    let source = SourceArgs { model: Some(args.model.clone()), plan: None };
    let spec = SpecArgs {
        task: Some(case.task),
        guidance: Some(case.guidance),
        dtype: args.dtype,
        text_tokens: None,
        image_tokens: None,
        validate: false,
        algebra: args.algebra.clone(),
    };
    let prepared = prepare(&source, &spec, &ClipArgs { clip: None, batch: None }, &inputs, backend)?;
    add_scales(&mut inputs, case.guidance, &case.scales)?;
    let six = case.sample.then_some(Denoise { sampler: SamplerKind::Euler, steps: 6, shift: 5.0, seed: 0 });
    check_inputs(&prepared.plan, &inputs, six.as_ref())?;
    // Small work many times: no line for each.
    tracing::info!("{}: {}", case.expected, memory_line(&prepared.plan));
    let mut session: Session = load(prepared, backend)?;
    let outputs: Tensors = if let Some(six) = six {
        six.run(&mut session, &inputs, &mut |_| ControlFlow::Continue(()))?
    } else {
        session.prologue(&inputs)?;
        session.step(&Tensors::new(), 0)?
    };
    Ok(outputs.into_iter().map(|(name, t)| (name.rsplit('.').next().unwrap_or_default().to_string(), t)).collect())
}

/// A task's training loss and gradients, where the file has them. Gradients are held to ten times the tolerance: they are sums over far more
/// terms. A gradient that the file lacks is zero there, and must not be computed here.
fn losses(
    args: &Args,
    task: Task,
    expected: &TensorFile,
    left: &mut BTreeSet<String>,
    backend: &dyn Backend,
) -> Result<Vec<Compared>, Error> {
    let (loss, prefix) = (format!("loss.{task}"), format!("grad.{task}."));
    let gradients = left.iter().any(|n| n.starts_with(&prefix));
    if !gradients && !left.contains(&loss) {
        return Ok(Vec::new());
    }
    let model = ModelDir::open(&args.model)?;
    let inputs = Inputs::open(&args.inputs)?;
    let mut request = request_of_inputs(&model.config, task, &inputs)?;
    request.training = gradients.then(Training::default);
    request.algebra = args.algebra.request();
    let weights = model.weights(&model.files()?, FRESH_SEED)?;
    let outputs = evaluate(plan_loss(&model.config, &request)?, &weights, &inputs, backend)?;
    let mut compared = Vec::new();
    for (own, got) in &outputs {
        let (name, tolerance) = match own.strip_prefix(GRADIENT) {
            Some(parameter) => (format!("{prefix}{parameter}"), 10.0 * args.tolerance),
            None if own == LOSS => (loss.clone(), args.tolerance),
            None => continue,
        };
        if left.remove(&name) {
            let mut want = expected.read(&name)?;
            if own == LOSS {
                want.shape.clear();
            }
            compared.push(compare(name, got, &want, tolerance));
        } else if own != LOSS {
            compared.push(Compared { name, relative_l2: None, ok: false });
        }
    }
    Ok(compared)
}

fn compare(name: String, got: &HostTensor, want: &HostTensor, tolerance: f64) -> Compared {
    let error = match (got.as_f32(), want.as_f32()) {
        (Some(g), Some(w)) if got.shape == want.shape => relative_l2(g, w),
        _ => f64::NAN,
    };
    // NaN is no agreement.
    Compared { name, relative_l2: error.is_finite().then_some(error), ok: error <= tolerance }
}

fn say(verdict: &Verdict, json: bool) -> Result<(), Error> {
    if json {
        return super::print_json(verdict);
    }
    for c in &verdict.compared {
        let error = c.relative_l2.map_or_else(|| "other shape or not finite".into(), |e| format!("{e:.2e}"));
        super::print_line(&format!("{:<4} {:<24} {error}", if c.ok { "ok" } else { "FAIL" }, c.name))?;
    }
    let (shown, more) = verdict.not_computed.split_at(verdict.not_computed.len().min(3));
    if !shown.is_empty() {
        let rest = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        super::print_line(&format!("not computed: {}{rest}", shown.join(", ")))?;
    }
    Ok(())
}
