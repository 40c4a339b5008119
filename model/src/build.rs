//! From a model and a clip to the whole program: all passes of a denoising step and their guidance.

use ccl_ir::ops::{Binary, BinaryKind};
use ccl_ir::{Binding, DType, Graph, IrError, Value};

use crate::backbone::State;
use crate::builder::{Added, Builder, Purpose};
use crate::clip::{Clip, Grid};
use crate::config::Config;
use crate::error::ModelError;
use crate::guidance::{Guidance, Pass};
use crate::stream::Stream;
use crate::task::Task;

/// Most samples in a batch.
const MAX_BATCH: usize = 1 << 16;
/// Most text or image tokens.
const MAX_TOKENS: usize = 1 << 20;

/// What to build a program for.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What is generated. Routes decide it later: the program is the same for every task.
    pub task: Task,
    /// Latent sizes.
    pub clip: Clip,
    /// Samples in a batch.
    pub batch: usize,
    /// How the passes of a step are combined.
    pub guidance: Guidance,
    /// Text tokens: how many there are, or with `counted` how many there may be.
    pub text_tokens: usize,
    /// Image tokens, likewise; 0: no image.
    pub image_tokens: usize,
    /// Whether the numbers of text and image tokens are inputs (`text_len`, `negative_text_len`, `image_len`).
    pub counted: bool,
    /// Element type that matrices are stored in. Everything else is f32.
    pub weight_dtype: DType,
}

impl Spec {
    /// Text tokens of a Wan2.1 prompt.
    pub const TEXT_TOKENS: usize = 512;
    /// Image tokens of a Wan2.1 image.
    pub const IMAGE_TOKENS: usize = 257;

    /// One sample, 512 text tokens, no image, f32.
    pub fn new(task: Task, clip: Clip, guidance: Guidance) -> Self {
        Self {
            task,
            clip,
            batch: 1,
            guidance,
            text_tokens: Self::TEXT_TOKENS,
            image_tokens: 0,
            counted: false,
            weight_dtype: DType::F32,
        }
    }

    fn check(&self, config: &Config) -> Result<(), ModelError> {
        let wrong = |text: String| Err(ModelError::Spec(text));
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return wrong(format!("the batch must be 1 to {MAX_BATCH}, is {}", self.batch));
        }
        if !(1..=MAX_TOKENS).contains(&self.text_tokens) {
            return wrong(format!("the number of text tokens must be 1 to {MAX_TOKENS}, is {}", self.text_tokens));
        }
        if self.image_tokens > MAX_TOKENS {
            return wrong(format!("the number of image tokens must be 0 to {MAX_TOKENS}, is {}", self.image_tokens));
        }
        if self.image_tokens > 0 && config.image_dim == 0 {
            return wrong("this model takes no image (`image_dim` is 0): leave the image out".into());
        }
        if !self.weight_dtype.is_float() {
            return wrong(format!("weights cannot be stored as {}: use f32, bf16 or f16", self.weight_dtype));
        }
        Ok(())
    }
}

/// Builds the whole program of a denoising step: both streams, every pass of the guidance, every route open.
///
/// Inputs: `video [B, C, T, H, W]`, `audio [B, C, L]` and `t [B]` in each step; `reference.video`, `reference.audio`,
/// `video_condition`, `text`, `negative_text`, `image`, the token counts and the scales of
/// [`Guidance::scale_inputs`] once per clip; only those that the model and the specification have a use for. Outputs:
/// `velocity.<stream>`, or `guided.<stream>` with guidance, wanted where the task generates the stream.
///
/// # Errors
/// When the configuration, the clip or another setting is out of range, or the clip does not fit the model's patches.
pub fn build(config: &Config, spec: &Spec) -> Result<Graph, ModelError> {
    let (grid, passes) = prepared(config, spec)?;
    let name = format!("{} {} {} batch {}", spec.task, spec.guidance, spec.clip, spec.batch);
    let mut b = Builder::new(name, config, spec, grid, passes[0], Purpose::Denoise);
    let mut velocities = Vec::with_capacity(passes.len());
    for &pass in passes {
        b.pass = pass;
        velocities.push(b.velocities()?);
    }
    for (i, m) in Stream::ALL.into_iter().enumerate() {
        let of: Vec<Value> = velocities.iter().map(|v| v[i]).collect();
        let value = b.guide(m, &of)?;
        b.graph.output(format!("{}.{m}", spec.guidance.output()), value, Some(m.name()));
    }
    Ok(b.graph)
}

/// Checks what is to be built; the tokens of its clip and the passes of a step.
pub(crate) fn prepared(config: &Config, spec: &Spec) -> Result<(Grid, &'static [Pass]), ModelError> {
    config.check()?;
    spec.check(config)?;
    Ok((spec.clip.grid(config)?, spec.guidance.passes()))
}

impl Builder<'_> {
    /// One evaluation of the denoiser: the velocities of video and audio.
    pub fn velocities(&mut self) -> Result<[Value; 2], IrError> {
        let mut video = self.open(Stream::Video)?;
        let mut audio = self.open(Stream::Audio)?;
        for n in 0..self.config.layers {
            self.block(n, &mut video, &mut audio)?;
        }
        Ok([self.head(Stream::Video, &video)?, self.head(Stream::Audio, &audio)?])
    }

    fn block(&mut self, n: usize, video: &mut State, audio: &mut State) -> Result<(), IrError> {
        self.before_cross(Stream::Video, n, video)?;
        self.before_cross(Stream::Audio, n, audio)?;
        // Both directions read the streams as text attention left them.
        let (v, a) = (video.x, audio.x);
        video.x = self.cross(Stream::Video, n, v, a)?;
        audio.x = self.cross(Stream::Audio, n, a, v)?;
        self.feed_forward(Stream::Video, n, video)?;
        self.feed_forward(Stream::Audio, n, audio)
    }

    /// Combines the velocities of the passes, in their order (SPEC 6).
    fn guide(&mut self, m: Stream, velocities: &[Value]) -> Added {
        match *velocities {
            [uncond, cond] => self.toward(m, "scale", uncond, uncond, cond),
            [uncond, text, modal] => {
                let v = self.toward(m, "text_scale", uncond, uncond, text)?;
                self.toward(m, "scale", v, uncond, modal)
            }
            _ => Ok(velocities[0]),
        }
    }

    /// `from + scale (to - base)`.
    fn toward(&mut self, m: Stream, scale: &str, from: Value, base: Value, to: Value) -> Added {
        let s = self.input(&format!("{scale}.{m}"), [], Binding::Prologue)?;
        let at = format!("guidance.{m}");
        let add = |b: &mut Self, kind, x, y| b.graph.add(&at, Binary { kind }, &[x, y]);
        let step = add(self, BinaryKind::Sub, to, base)?;
        let step = add(self, BinaryKind::Mul, step, s)?;
        add(self, BinaryKind::Add, from, step)
    }
}
