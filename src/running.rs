//! Setting plans up on backends, and telling a clip from the tensors of a file.

use std::path::{Path, PathBuf};

use ccl_ir::Plan;
use ccl_ir::plan::WeightsFrom;
use ccl_model::{Clip, Config, Guidance, Stream, Task};
use ccl_runtime::backend::Backend;
use ccl_runtime::cpu::CpuBackend;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::reference::ReferenceBackend;
use ccl_runtime::weights::WeightStore;

use crate::error::Error;
use crate::model_dir::{FRESH_SEED, ModelDir};

/// A backend by name. `auto` takes the best that is there.
///
/// # Errors
/// When the backend is not part of this build or cannot be set up.
pub fn backend(name: &str, threads: Option<usize>) -> Result<Box<dyn Backend>, Error> {
    match name {
        "auto" | "cpu" => Ok(Box::new(CpuBackend::new(threads)?)),
        "reference" => Ok(Box::new(ReferenceBackend)),
        other => Err(Error::Failed(format!("backend `{other}` is not part of this build: use --backend cpu"))),
    }
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

/// The weights of a model directory for a plan, which must have been made for this configuration and, where a fingerprint is
/// given, for these very weights.
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
/// When tensors contradict each other or `given`, or nothing says a size that the task needs.
pub fn clip_of_inputs(
    config: &Config,
    task: Task,
    inputs: &Inputs,
    given: Option<Clip>,
    batch: Option<usize>,
) -> Result<(Clip, usize), Error> {
    let usage = |text: String| Err(Error::Usage(text));
    let shape = |m: Stream| -> Result<Option<&[usize]>, Error> {
        let name = [m.name().to_string(), format!("noise.{m}")].into_iter().find(|n| inputs.contains(n));
        let Some(name) = name else { return Ok(None) };
        let shape = inputs.shape(&name).unwrap_or_default();
        let want = if m == Stream::Video { 5 } else { 3 };
        if shape.len() != want || shape.contains(&0) {
            let form = if m == Stream::Video { "[B, C, T, H, W]" } else { "[B, C, L]" };
            return Err(Error::Failed(format!("inputs: `{name}` has shape {shape:?}, a latent is {form}")));
        }
        Ok(Some(shape))
    };
    let (video, audio) = (shape(Stream::Video)?, shape(Stream::Audio)?);
    let batches: Vec<usize> = [video, audio].into_iter().flatten().map(|s| s[0]).chain(batch).collect();
    if batches.windows(2).any(|b| b[0] != b[1]) {
        return usage(format!("batch sizes differ: {batches:?} (video, audio, --batch, as far as given)"));
    }
    let needs = |m: Stream| task.computes(m);
    // Sizes of an absent stream that the task does not compute are of no account: one patch.
    let spare_video = [config.video.patch[0], config.video.patch[1], config.video.patch[2]];
    let video = match (video, given) {
        (Some(s), _) => [s[2], s[3], s[4]],
        (None, Some(c)) => [c.frames, c.height, c.width],
        (None, None) if needs(Stream::Video) => {
            return usage("say the clip with --clip TxHxW@L, or give inputs with `video`".into());
        }
        (None, None) => {
            return usage(format!(
                "task {task} needs the clip's number of frames: say it with --clip TxHxW@L (e.g. {}x{}x{}@L), or give inputs with `video`",
                21, spare_video[1], spare_video[2]
            ));
        }
    };
    let audio = match (audio, given) {
        (Some(s), _) => s[2],
        (None, Some(c)) => c.audio,
        (None, None) if needs(Stream::Audio) => {
            return usage("say the clip with --clip TxHxW@L, or give inputs with `audio`".into());
        }
        (None, None) => config.audio.patch[0],
    };
    let clip = Clip { frames: video[0], height: video[1], width: video[2], audio };
    if let Some(given) = given.filter(|g| *g != clip) {
        return usage(format!("--clip {given} does not agree with the inputs, which are {clip}"));
    }
    Ok((clip, batches.first().copied().unwrap_or(1)))
}

/// Scales for a guidance form: `given` or the form's defaults, as inputs of the plan.
pub fn scales(guidance: Guidance, given: impl Fn(&str) -> Option<f64>) -> Vec<(String, f64)> {
    guidance.scale_inputs().into_iter().map(|(name, default)| (name.clone(), given(&name).unwrap_or(default))).collect()
}
