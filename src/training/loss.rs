//! Plans of losses and gradients, and one evaluation of them.

use std::time::Instant;

use ccl_ir::plan::{About, Again};
use ccl_ir::{DType, Graph, Plan, TensorType};
use ccl_model::{Clip, Config, Guidance, ModelError, Spec, Task, answers, build_loss};
use ccl_passes::differentiate::LOSS_SCALE;
use ccl_passes::{Options, Training, compile};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::Backend;
use ccl_runtime::device::human_bytes;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::learner::Learner;
use ccl_runtime::session::Tensors;
use ccl_runtime::weights::WeightStore;

use crate::error::Error;
use crate::planning::Algebra;
use crate::running::clip_of_inputs;

/// What to plan a loss for.
#[derive(Clone, Debug)]
pub struct LossRequest {
    /// What is produced from what.
    pub task: Task,
    /// Latent sizes.
    pub clip: Clip,
    /// Samples in a batch.
    pub batch: usize,
    /// Text tokens of every sample.
    pub text_tokens: usize,
    /// Image tokens of every sample; 0 for none.
    pub image_tokens: usize,
    /// What is done with the loss; `None`: it is only computed.
    pub training: Option<Training>,
    /// The table of states that plans share.
    pub states: Vec<(String, TensorType)>,
    /// Which rules of the algebra may be used, and by whose prices.
    pub algebra: Algebra,
    /// Hold every pass against the interpreter.
    pub validate: bool,
}

/// Compiles the plan of a loss.
///
/// # Errors
/// When the clip or a setting does not fit the model, or a pass fails.
pub fn plan_loss(config: &Config, request: &LossRequest) -> Result<Plan, Error> {
    plan_batch(config, request, build_loss)
}

/// Compiles what a builder makes for the batches of a request.
///
/// # Errors
/// When the clip or a setting does not fit the model, or a pass fails.
pub fn plan_batch(
    config: &Config,
    request: &LossRequest,
    build: impl Fn(&Config, &Spec) -> Result<Graph, ModelError>,
) -> Result<Plan, Error> {
    let begin = Instant::now();
    let spec = Spec {
        batch: request.batch,
        text_tokens: request.text_tokens,
        image_tokens: request.image_tokens,
        ..Spec::new(request.task, request.clip, Guidance::None)
    };
    let graph = build(config, &spec).map_err(Error::Spec)?;
    let about = About {
        task: request.task.to_string(),
        clip: request.clip.to_string(),
        batch: request.batch,
        guidance: Guidance::None.to_string(),
        target: "cpu".into(),
        dtype: DType::F32,
        compiler: concat!("ccl ", env!("CARGO_PKG_VERSION")).into(),
        config: serde_json::to_value(config).map_err(|e| Error::Failed(format!("config: {e}")))?,
    };
    let options = Options {
        // Every batch has its own times.
        schedule_rows: 0,
        training: request.training.clone(),
        states: request.states.clone(),
        algebra: request.algebra.settings("cpu", None),
        validate: request.validate,
        ..Options::default()
    };
    let plan = compile(&graph, &answers(request.task, Guidance::None), about, &options)?;
    let calls: usize = plan.entries.values().map(Vec::len).sum();
    tracing::info!("planned {calls} calls of {} in {:.0} ms", request.task, begin.elapsed().as_secs_f64() * 1e3);
    Ok(plan)
}

/// The same with as few blocks computed again for their backward pass as it takes to fit `bytes` of memory. The plan's report says what that costs
/// and saves.
///
/// # Errors
/// As for [`plan_loss`], and when the plan does not fit with all blocks computed again.
pub fn plan_loss_within(config: &Config, request: &LossRequest, bytes: u64) -> Result<Plan, Error> {
    let with = |rematerialise: usize| {
        let training = request.training.clone().map(|t| Training { rematerialise, ..t });
        plan_loss(config, &LossRequest { training, ..request.clone() })
    };
    let mut first = with(0)?;
    let kept_flops = first.report.flops.values().sum();
    let none =
        Again { budget: bytes, blocks: 0, of: config.layers, kept_flops, kept_peak_bytes: first.report.peak_bytes };
    if first.report.peak_bytes <= bytes {
        first.report.again = Some(none);
        return Ok(first);
    }
    // A block more never takes more memory, so that the fewest are found by halving.
    let (mut too_few, mut enough, mut plan) = (0, config.layers, with(config.layers)?);
    if plan.report.peak_bytes > bytes {
        let [least, most] = [plan.report.peak_bytes, bytes].map(human_bytes);
        let problem = "with every block computed again for its backward pass; take a smaller batch or clip";
        return Err(Error::Failed(format!("a training step needs {least}, the budget is {most}, {problem}")));
    }
    while enough - too_few > 1 {
        let middle = (too_few + enough) / 2;
        let tried = with(middle)?;
        if tried.report.peak_bytes <= bytes {
            (enough, plan) = (middle, tried);
        } else {
            too_few = middle;
        }
    }
    plan.report.again = Some(Again { blocks: enough, ..none });
    Ok(plan)
}

/// A request for the tensors of a file: as many samples and tokens as they have.
///
/// # Errors
/// When tensors contradict each other or the model, or one that says a size is missing.
pub fn request_of_inputs(config: &Config, task: Task, inputs: &Inputs) -> Result<LossRequest, Error> {
    let (clip, batch) = clip_of_inputs(config, task, inputs, None, None)?;
    let tokens = |name: &str| inputs.shape(name).and_then(|s| s.get(1)).copied();
    let image_tokens = if config.image_dim > 0 { tokens("image").unwrap_or(0) } else { 0 };
    Ok(LossRequest {
        task,
        clip,
        batch,
        text_tokens: tokens("text").unwrap_or(Spec::TEXT_TOKENS),
        image_tokens,
        training: None,
        states: Vec::new(),
        algebra: Algebra::default(),
        validate: false,
    })
}

/// The loss of a plan's batch, and whatever else the plan gives, with parameters from a checkpoint. Tensors of the batch are read from `inputs` by the plan's names.
///
/// # Errors
/// When a tensor is missing or does not fit, a kernel fails, or a result is not finite.
pub fn evaluate(plan: Plan, weights: &WeightStore, inputs: &Inputs, backend: &dyn Backend) -> Result<Tensors, Error> {
    let task = plan.about.task.clone();
    let mut batch = Tensors::new();
    for port in plan.inputs.iter().filter(|p| p.name != LOSS_SCALE) {
        batch.insert(port.name.clone(), inputs.get(&port.name, &port.operand.ty)?.into_owned());
    }
    batch.insert(LOSS_SCALE.into(), HostTensor::f32([], vec![1.0]));
    let mut learner = Learner::new(backend, [(task.clone(), plan.into())])?;
    let states: Vec<String> = learner.states().map(|(name, _)| name.to_owned()).collect();
    learner.load(weights, states.iter().map(String::as_str))?;
    let outputs = learner.step(&task, &batch)?;
    match outputs.iter().find(|(_, t)| !t.is_finite()) {
        Some((name, _)) => {
            Err(Error::Failed(format!("`{name}` is not finite: the weights or the inputs are out of range")))
        }
        None => Ok(outputs),
    }
}
