//! From a model, a task and a clip to a plan.

use std::time::Instant;

use ccl_codegen::gpu::{Target, emit_plan};
use ccl_ir::plan::About;
use ccl_ir::{DType, Plan};
use ccl_model::{Clip, Config, Guidance, Spec, StreamConfig, Task, answers, build};
use ccl_passes::algebra::{Choose, Class, Settings, rules};
use ccl_passes::{DeviceSpec, Options, Spent, compile, compile_some};

use crate::error::Error;

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to produce.
    pub task: Task,
    /// How passes are combined.
    pub guidance: Guidance,
    /// Latent sizes.
    pub clip: Clip,
    /// Clips at once.
    pub batch: usize,
    /// Storage type of matrices.
    pub dtype: DType,
    /// Room for text tokens.
    pub text_tokens: usize,
    /// Room for image tokens; 0 for none.
    pub image_tokens: usize,
    /// The GPU that the plan is for; `None` for the cpu.
    pub gpu: Option<Target>,
    /// Which rules of the algebra may be used, and by whose prices.
    pub algebra: Algebra,
    /// Hold every pass against the interpreter.
    pub validate: bool,
}

/// Which rules of the algebra are used.
#[derive(Clone, Debug, Default)]
pub struct Algebra {
    /// The set to start from.
    pub rules: RuleSet,
    /// Rules left out, by name.
    pub without: Vec<String>,
    /// Lossy rules that are asked for, by name.
    pub with: Vec<String>,
    /// Prices; `None`: those of the target.
    pub spec: Option<DeviceSpec>,
}

/// Sets of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleSet {
    /// None at all.
    None,
    /// Those that add every sum up in the same order.
    Exact,
    /// All that are equal over the real numbers, where they pay.
    #[default]
    All,
    /// The same wherever they apply, paying or not: to test them.
    Always,
}

impl Algebra {
    /// The pass's settings for a target; `None` where there is nothing to do.
    pub(crate) fn settings(&self, target: &str, half: Option<DType>) -> Option<Settings> {
        let spec = self.spec.clone().unwrap_or_else(|| DeviceSpec::for_target(target));
        let mut settings = Settings::new(spec);
        settings.cost.half = half;
        settings.rules = rules::all();
        let most = if self.rules == RuleSet::Exact { Class::Exact } else { Class::Reassociating };
        let named = |list: &[String], name: &str| list.iter().any(|n| n == name);
        settings.rules.retain(|r| (r.class <= most || named(&self.with, r.name)) && !named(&self.without, r.name));
        if self.rules == RuleSet::Always {
            settings.choose = Choose::Always;
        }
        (self.rules != RuleSet::None && !settings.rules.is_empty()).then_some(settings)
    }
}

impl Request {
    /// A request with defaults: batch 1, f32, room for a whole prompt and, where the model reads images, a whole image.
    pub fn new(config: &Config, task: Task, guidance: Guidance, clip: Clip) -> Self {
        let image_tokens = if config.image_dim > 0 { Spec::IMAGE_TOKENS } else { 0 };
        Self {
            task,
            guidance,
            clip,
            batch: 1,
            dtype: DType::F32,
            text_tokens: Spec::TEXT_TOKENS,
            image_tokens,
            gpu: None,
            algebra: Algebra::default(),
            validate: false,
        }
    }

    fn spec(&self) -> Spec {
        Spec {
            task: self.task,
            clip: self.clip,
            batch: self.batch,
            guidance: self.guidance,
            text_tokens: self.text_tokens,
            image_tokens: self.image_tokens,
            counted: true,
            weight_dtype: self.dtype,
        }
    }

    /// Target, as on the command line.
    fn target(&self) -> &str {
        self.gpu.as_ref().map_or(CPU, |gpu| &gpu.name)
    }

    /// What the passes do for the target.
    ///
    /// # Errors
    /// When the target cannot store the types that are asked for.
    pub fn options(&self) -> Result<Options, Error> {
        let half = matches!(self.dtype, DType::F16 | DType::Bf16);
        let Some(gpu) = &self.gpu else {
            return Ok(Options { algebra: self.algebra.settings(CPU, None), ..Options::default() });
        };
        if half && !gpu.halves.contains(&self.dtype) {
            let has: Vec<String> = gpu.halves.iter().map(DType::to_string).collect();
            let instead = if has.is_empty() { "f32".into() } else { has.join(" or ") };
            let (target, dtype) = (&gpu.name, self.dtype);
            return Err(Error::Usage(format!("target {target} has no {dtype}: use --dtype {instead}")));
        }
        let algebra = self.algebra.settings(&gpu.name, half.then_some(self.dtype));
        Ok(Options { half_activations: half, parallelism: gpu.parallelism, algebra, ..Options::default() })
    }
}

/// The target that every build has.
const CPU: &str = "cpu";

/// The target with this name on the command line; `None` for the cpu.
///
/// # Errors
/// When there is no such target.
pub fn target(name: &str) -> Result<Option<Target>, Error> {
    let unknown =
        || Error::Usage(format!("--target {name}: there is no such target, use cpu, wgpu, cuda or, say, cuda:sm_90a"));
    if name == CPU { Ok(None) } else { Target::from_name(name).map(Some).ok_or_else(unknown) }
}

/// Adds the kernels for the target to a plan for a GPU. A plan for the cpu has none.
///
/// # Errors
/// When a call cannot run on the target.
pub fn add_kernels(plan: &mut Plan, request: &Request) -> Result<(), Error> {
    let Some(gpu) = &request.gpu else { return Ok(()) };
    let begin = Instant::now();
    let kernels = emit_plan(plan, gpu).map_err(|e| Error::Failed(format!("target {}: {e}", gpu.name)))?;
    tracing::info!("emitted {} kernels in {:.0} ms", kernels.kernels.len(), begin.elapsed().as_secs_f64() * 1e3);
    plan.kernels = Some(kernels);
    Ok(())
}

/// Compiles a plan.
///
/// # Errors
/// When the clip or a setting does not fit the model, or a pass fails.
pub fn plan(config: &Config, request: &Request) -> Result<Plan, Error> {
    if request.validate {
        validate(config, request)?;
    }
    plan_some(config, request, &request.options()?, None).map(|(plan, _)| plan)
}

/// Compiles a plan with the first `fuel` rewrites alone, and says which were made.
///
/// # Errors
/// As for [`plan`].
pub fn plan_some(
    config: &Config,
    request: &Request,
    options: &Options,
    fuel: Option<usize>,
) -> Result<(Plan, Spent), Error> {
    let begin = Instant::now();
    let graph = build(config, &request.spec()).map_err(Error::Spec)?;
    let about = About {
        task: request.task.to_string(),
        clip: request.clip.to_string(),
        batch: request.batch,
        guidance: request.guidance.to_string(),
        target: request.target().into(),
        dtype: request.dtype,
        compiler: concat!("ccl ", env!("CARGO_PKG_VERSION")).into(),
        config: serde_json::to_value(config).map_err(|e| Error::Failed(format!("config: {e}")))?,
    };
    let (plan, spent) = compile_some(&graph, &answers(request.task, request.guidance), about, options, fuel)?;
    tracing::info!("planned {} calls in {:.0} ms", calls(&plan), begin.elapsed().as_secs_f64() * 1e3);
    Ok((plan, spent))
}

fn calls(plan: &Plan) -> usize {
    plan.entries.values().map(Vec::len).sum()
}

/// Runs the passes under the interpreter's eyes, on a small model of the same structure: widths, depth and clip shrink,
/// task, guidance, windows and conditions stay.
fn validate(config: &Config, request: &Request) -> Result<(), Error> {
    let (twin, small) = twin(config, request);
    let graph = build(&twin, &small.spec()).map_err(Error::Spec)?;
    let about = About::no_model("validate", small.batch, small.dtype);
    let options = request.options()?;
    // A narrow device for a small model, so that keys are split there too.
    let parallelism = options.parallelism.min(64);
    let options = Options { validate: true, schedule_rows: 4, parallelism, ..options };
    let begin = Instant::now();
    compile(&graph, &answers(small.task, small.guidance), about, &options)?;
    tracing::info!(
        "validated every pass on a twin: {} layers, widths {} and {}, clip {}, in {:.1} s",
        twin.layers,
        twin.video.dim,
        twin.audio.dim,
        small.clip,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A small model and clip of the same structure.
fn twin(config: &Config, request: &Request) -> (Config, Request) {
    let shrink = |s: &StreamConfig| {
        let heads = s.heads.min(2);
        let head_dim = s.head_dim().min(12);
        let conditions = (s.in_channels - s.out_channels).min(3);
        let out_channels = s.out_channels.min(3);
        StreamConfig {
            dim: heads * head_dim,
            ffn_dim: s.ffn_dim.min(20),
            heads,
            in_channels: out_channels + conditions,
            out_channels,
            patch: s.patch.clone(),
        }
    };
    let twin = Config {
        video: shrink(&config.video),
        audio: shrink(&config.audio),
        layers: config.layers.min(2),
        text_dim: config.text_dim.min(10),
        freq_dim: config.freq_dim.min(16),
        image_dim: config.image_dim.min(10),
        audio_context_tokens: config.audio_context_tokens.min(3),
        video_context_tokens: config.video_context_tokens.min(5),
        ..config.clone()
    };
    let patch = &config.video.patch;
    let frames = (request.clip.frames / patch[0]).clamp(1, 4);
    // As many audio tokens a frame as in the real clip, up to 7, so that windows keep their shape.
    let tokens = (request.clip.audio / config.audio.patch[0]).max(1) as f64;
    let per_frame = (tokens / (request.clip.frames / patch[0]).max(1) as f64).min(7.0);
    let clip = Clip {
        frames: frames * patch[0],
        height: (request.clip.height / patch[1]).clamp(1, 2) * patch[1],
        width: (request.clip.width / patch[2]).clamp(1, 2) * patch[2],
        audio: ((per_frame * frames as f64).round() as usize).max(1) * config.audio.patch[0],
    };
    let small = Request {
        clip,
        batch: request.batch.min(2),
        // The cpu computes in f32 whatever is stored; the passes for a GPU look at the type.
        dtype: if request.gpu.is_some() { request.dtype } else { DType::F32 },
        text_tokens: request.text_tokens.min(5),
        image_tokens: request.image_tokens.min(4),
        validate: false,
        ..request.clone()
    };
    (twin, small)
}
