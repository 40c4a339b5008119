//! Setting plans up on backends, and telling a clip from the tensors of a file.

use std::path::{Path, PathBuf};
use std::sync::Once;

use ccl_ir::Plan;
use ccl_ir::plan::WeightsFrom;
use ccl_model::{Clip, Config, Guidance, Stream, Task};
use ccl_runtime::backend::Backend;
use ccl_runtime::cpu::CpuBackend;
use ccl_runtime::gpu::GpuBackend;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::reference::ReferenceBackend;
use ccl_runtime::weights::WeightStore;

use crate::error::Error;
use crate::model_dir::{FRESH_SEED, ModelDir};

/// A backend by name, for plans that may take `budget` bytes of its memory where one is given.
///
/// # Errors
/// As for [`backend`], and when the backend keeps all weights.
pub fn backend_within(name: &str, threads: Option<usize>, budget: Option<u64>) -> Result<Box<dyn Backend>, Error> {
    let Some(bytes) = budget else { return backend(name, threads) };
    let gpu = match name {
        "auto" => GpuBackend::best(),
        "cuda" => Some(GpuBackend::cuda(0)?),
        "wgpu" => Some(GpuBackend::wgpu(0)?),
        _ => None,
    };
    let gpu = gpu.ok_or_else(|| {
        let at = if name == "auto" { "cpu" } else { name };
        Error::Usage(format!(
            "--memory-budget: backend {at} has its weights on the host anyway; it is for --backend cuda"
        ))
    })?;
    Ok(Box::new(gpu.within(bytes)?))
}

/// A backend by name. `auto` takes the best that is there: cuda, then a hardware adapter of wgpu, then the cpu.
/// Software adapters are only taken by name. `threads` is for the cpu.
///
/// # Errors
/// When there is no such backend, no device for it, or it cannot be set up.
pub fn backend(name: &str, threads: Option<usize>) -> Result<Box<dyn Backend>, Error> {
    Ok(match name {
        "auto" => match GpuBackend::best() {
            Some(gpu) => {
                tracing::info!("running on {}: {}", gpu.name(), gpu.describe().name);
                Box::new(gpu)
            }
            None => Box::new(CpuBackend::new(threads)?),
        },
        "cpu" => Box::new(CpuBackend::new(threads)?),
        "cuda" => Box::new(GpuBackend::cuda(0)?),
        "wgpu" => {
            let gpu = GpuBackend::wgpu(0)?;
            if gpu.is_software() {
                static ONCE: Once = Once::new();
                let name = gpu.describe().name;
                ONCE.call_once(|| {
                    tracing::warn!("{name} is a software adapter, slower than --backend cpu: for checking results")
                });
            }
            Box::new(gpu)
        }
        "reference" => Box::new(ReferenceBackend),
        other => return Err(Error::Failed(format!("there is no backend `{other}`: use auto, cpu, wgpu or cuda"))),
    })
}

/// The weights that a plan was made for.
///
/// # Errors
/// When the plan was made without weights, they are not where they were, or they have changed.
pub fn weights_of_plan(plan: &Plan, file: &Path) -> Result<WeightStore, Error> {
    let Some(from) = &plan.weights_from else {
        return Err(Error::Failed(format!(
            "{}: was compiled without weights; say where they are with --model DIR",
            file.display()
        )));
    };
    let directory = find(from, file).ok_or_else(|| {
        Error::Failed(format!(
            "{}: its weights are no longer in {}; say where they are with --model DIR",
            file.display(),
            from.directory
        ))
    })?;
    let model = ModelDir::open(&directory)?;
    weights_for_plan(plan, file, &model, Some(&from.fingerprint))
}

/// The weights of a model directory for a plan, which must have been made for this configuration and, where a
/// fingerprint is given, for these very weights.
///
/// # Errors
/// When the model is another one, or its weights are damaged.
pub fn weights_for_plan(
    plan: &Plan,
    file: &Path,
    model: &ModelDir,
    fingerprint: Option<&str>,
) -> Result<WeightStore, Error> {
    let config = serde_json::to_value(&model.config).map_err(|e| Error::Failed(format!("config: {e}")))?;
    if config != plan.about.config {
        let text = "was compiled for another configuration than this model's; compile it again";
        return Err(Error::Failed(format!("{}: {text} ({})", file.display(), model.path.display())));
    }
    let files = model.files()?;
    if fingerprint.is_some_and(|f| f != files.fingerprint()) {
        let text = "have changed since the plan was compiled; compile it again, or name the directory with --model to use them";
        return Err(Error::Failed(format!("{}: the weights in {} {text}", file.display(), model.path.display())));
    }
    model.weights(&files, FRESH_SEED)
}

/// The directory of a plan's weights: beside the plan as before, else where it was.
fn find(from: &WeightsFrom, file: &Path) -> Option<PathBuf> {
    let home = file.parent().unwrap_or(Path::new(""));
    let beside = (!from.relative.is_empty()).then(|| home.join(&from.relative));
    beside.into_iter().chain([PathBuf::from(&from.directory)]).find(|d| d.is_dir())
}

/// Clip and batch as the tensors of a file say, with `given` for what they do not say.
///
/// # Errors
/// When tensors contradict each other, the model or `given`, or nothing says a size that the task needs.
pub fn clip_of_inputs(
    config: &Config,
    task: Task,
    inputs: &Inputs,
    given: Option<Clip>,
    batch: Option<usize>,
) -> Result<(Clip, usize), Error> {
    let (video, audio) = (latent(inputs, Stream::Video)?, latent(inputs, Stream::Audio)?);
    let batch = batch_of_inputs(inputs, &[&video, &audio], batch)?;
    let unsaid = |m: Stream| {
        let clip = "say the clip with --clip TxHxW@L";
        Err(Error::Usage(match task.computes(m) {
            true => format!("{clip}, or give inputs with `{m}`"),
            false => format!("task {task} needs the clip's number of frames: {clip}, or give inputs with `{m}`"),
        }))
    };
    let [frames, height, width] = match (&video, given) {
        (Some((_, s)), _) => [s[2], s[3], s[4]],
        (None, Some(c)) => [c.frames, c.height, c.width],
        (None, None) => return unsaid(Stream::Video),
    };
    let length = match (&audio, given) {
        (Some((_, s)), _) => s[2],
        (None, Some(c)) => c.audio,
        (None, None) if task.computes(Stream::Audio) => return unsaid(Stream::Audio),
        // Of no account: one patch.
        (None, None) => config.audio.patch[0],
    };
    let clip = Clip { frames, height, width, audio: length };
    if let Some(given) = given.filter(|g| *g != clip) {
        return Err(Error::Usage(format!("--clip {given} does not agree with the inputs, which are {clip}")));
    }
    clip.grid(config).map_err(|source| match video.as_ref().or(audio.as_ref()) {
        Some((name, _)) => Error::Model { place: inputs.place(name), source },
        None => Error::Spec(source),
    })?;
    Ok((clip, batch))
}

/// A stream's latent or noise among the inputs: its name and shape.
fn latent(inputs: &Inputs, m: Stream) -> Result<Option<(String, &[usize])>, Error> {
    let name = [m.name().to_string(), format!("noise.{m}")].into_iter().find(|n| inputs.contains(n));
    let Some(name) = name else { return Ok(None) };
    let shape = inputs.shape(&name).unwrap_or_default();
    let (rank, form) = if m == Stream::Video { (5, "[B, C, T, H, W]") } else { (3, "[B, C, L]") };
    if shape.len() != rank || shape.contains(&0) {
        let place = inputs.place(&name);
        return Err(Error::Failed(format!("{place}: `{name}` has shape {shape:?}, a latent is {form}")));
    }
    Ok(Some((name, shape)))
}

/// The batch of the latents; where there are none, the one `given`, else that of the prompt, else 1.
fn batch_of_inputs(
    inputs: &Inputs,
    latents: &[&Option<(String, &[usize])>],
    given: Option<usize>,
) -> Result<usize, Error> {
    let mut found: Option<(&str, usize)> = None;
    for (name, shape) in latents.iter().filter_map(|l| l.as_ref()) {
        match found {
            Some((other, n)) if n != shape[0] => {
                let text = format!("`{other}` has a batch of {n}, `{name}` of {}", shape[0]);
                return Err(Error::Failed(format!("{}: {text}", inputs.place(name))));
            }
            _ => found = Some((name, shape[0])),
        }
    }
    match (found, given) {
        (Some((name, n)), Some(b)) if n != b => {
            Err(Error::Usage(format!("--batch {b} does not agree with the inputs, where `{name}` has {n}")))
        }
        (Some((_, n)), _) | (None, Some(n)) => Ok(n),
        (None, None) => Ok(inputs.shape("text").and_then(|s| s.first()).copied().unwrap_or(1)),
    }
}

/// Scales for a guidance form: `given` or the form's defaults, as inputs of the plan.
pub fn scales(guidance: Guidance, given: impl Fn(&str) -> Option<f64>) -> Vec<(String, f64)> {
    guidance.scale_inputs().into_iter().map(|(name, default)| (name.clone(), given(&name).unwrap_or(default))).collect()
}
