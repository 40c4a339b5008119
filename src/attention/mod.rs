//! How much of its cross attention a model of the bounce world gives to its context tokens, and where (figure 6 of the paper).
//!
//! What has nothing to do with the other stream should look at the context; what has, at the other stream: the ball and the burst that
//! its impact starts.

mod map;

use std::collections::BTreeMap;

use ccl_model::{Clip, Config, Stream, Task, build_context_weights, context_weights};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::Backend;
use ccl_runtime::learner::Learner;
use ccl_runtime::random;
use ccl_runtime::session::Tensors;
use ccl_runtime::weights::WeightSource;
use ccl_world::World;
use ccl_world::space::*;
use ccl_world::tensors::{TEXT_SHAPE, VIDEO_SHAPE};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::planning::Algebra;
use crate::training::loss::{LossRequest, plan_batch};

/// Which clips are looked at, and how noisy they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Number of clips.
    pub clips: usize,
    /// Audio tokens of a clip: 128 or 121.
    pub rate: usize,
    /// Seed of the clips and of the noise.
    pub seed: u64,
    /// Noise level, from 0 to 1.
    pub level: f64,
}

impl Default for Look {
    fn default() -> Self {
        Self { clips: 32, rate: EVEN_RATE, seed: 99, level: 0.5 }
    }
}

/// Part of a clip's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// Video tokens without the ball.
    Background,
    /// Video tokens with the ball in the air.
    Ball,
    /// Video tokens with the ball, within half a frame of an impact.
    Impact,
    /// Audio tokens of a burst, until it fell to `exp(-2)`.
    Burst,
    /// All other audio tokens.
    Hum,
}

impl Region {
    /// All regions, the video's first.
    pub const ALL: [Region; 5] = [Region::Background, Region::Ball, Region::Impact, Region::Burst, Region::Hum];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Region::Background => "background",
            Region::Ball => "ball",
            Region::Impact => "ball at an impact",
            Region::Burst => "burst",
            Region::Hum => "hum",
        }
    }

    /// The stream whose tokens these are.
    pub fn stream(self) -> Stream {
        if matches!(self, Region::Burst | Region::Hum) { Stream::Audio } else { Stream::Video }
    }
}

/// Where a model's cross attention looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// What was looked at.
    pub look: Look,
    /// Share of the weight that lies on context tokens, on average over heads and a region's tokens: one number for each block.
    pub regions: BTreeMap<Region, Vec<f64>>,
    /// The same share at each token of the first clip, averaged over heads: a list for each block.
    pub video: Vec<Vec<f64>>,
    /// Likewise of the audio.
    pub audio: Vec<Vec<f64>>,
}

impl Attention {
    /// The first clip and its attention as a picture.
    ///
    /// # Errors
    /// When what was looked at is no clip of the world.
    pub fn svg(&self) -> Result<String, Error> {
        let world = World::new(self.look.seed, self.look.rate, self.look.clips);
        let world = world.map_err(|e| Error::Failed(e.to_string()))?;
        let fits = |blocks: &[Vec<f64>], tokens: usize| blocks.iter().all(|b| b.len() == tokens);
        if !(fits(&self.video, VIDEO_TOKENS) && fits(&self.audio, self.look.rate)) {
            return Err(Error::Failed("the attention is not that of a clip of the world".into()));
        }
        Ok(map::svg(self, &world.clip(0)))
    }

    /// Share of a region, on average over the blocks.
    pub fn mean(&self, region: Region) -> f64 {
        let blocks = self.regions.get(&region).map_or(&[][..], Vec::as_slice);
        blocks.iter().sum::<f64>() / blocks.len().max(1) as f64
    }
}

/// Looks at a model, joint, with noisy true clips.
///
/// # Errors
/// When the model has no context tokens or other sizes than the world, there is no clip, the level is out of range, or a kernel fails.
pub fn look(config: &Config, weights: &dyn WeightSource, backend: &dyn Backend, how: Look) -> Result<Attention, Error> {
    if !(0.0..=1.0).contains(&how.level) {
        return Err(Error::Failed(format!("the noise level must be from 0 to 1, is {}", how.level)));
    }
    let world = World::new(how.seed, how.rate, how.clips).map_err(|e| Error::Failed(e.to_string()))?;
    let clips: Vec<_> = (0..how.clips).map(|i| world.clip(i)).collect();
    let [_, frames, height, width] = VIDEO_SHAPE;
    let request = LossRequest {
        task: Task::Joint,
        clip: Clip { frames, height, width, audio: how.rate },
        batch: how.clips,
        text_tokens: TEXT_TOKENS,
        image_tokens: 0,
        training: None,
        states: Vec::new(),
        algebra: Algebra::default(),
        validate: false,
    };
    let plan = plan_batch(config, &request, build_context_weights)?;
    let name = "context";
    let mut learner = Learner::new(backend, [(name.to_owned(), plan.into())])?;
    let states: Vec<String> = learner.states().map(|(n, _)| n.to_owned()).collect();
    learner.load(weights, states.iter().map(String::as_str))?;
    let outputs = learner.step(name, &batch(&clips, how))?;
    let [video, audio] =
        Stream::ALL.map(|m| (0..config.layers).map(|n| shares(&outputs, m, n)).collect::<Option<Vec<Vec<f64>>>>());
    let (Some(video), Some(audio)) = (video, audio) else {
        return Err(Error::Failed("the plan gives no weights of the context".into()));
    };
    let mut regions: BTreeMap<Region, Vec<f64>> = BTreeMap::new();
    let tokens: Vec<_> = clips.iter().map(|c| (video_regions(c), audio_regions(c, how.rate))).collect();
    for region in Region::ALL {
        let (blocks, of): (_, Vec<Region>) = match region.stream() {
            Stream::Video => (&video, tokens.iter().flat_map(|t| t.0.clone()).collect()),
            Stream::Audio => (&audio, tokens.iter().flat_map(|t| t.1.clone()).collect()),
        };
        let mean = |block: &Vec<f64>| {
            let picked: Vec<f64> = block.iter().zip(&of).filter(|(_, r)| **r == region).map(|(x, _)| *x).collect();
            picked.iter().sum::<f64>() / picked.len().max(1) as f64
        };
        regions.insert(region, blocks.iter().map(mean).collect());
    }
    let first = |blocks: Vec<Vec<f64>>| blocks.into_iter().map(|b| b[..b.len() / how.clips].to_vec()).collect();
    Ok(Attention { look: how, regions, video: first(video), audio: first(audio) })
}

/// The batch that a plan of context weights reads.
fn batch(clips: &[ccl_world::Clip], how: Look) -> Tensors {
    let n = clips.len();
    let stack = |shape: &[usize], part: fn(&ccl_world::Clip) -> &[f32]| {
        HostTensor::f32([&[n], shape].concat(), clips.iter().flat_map(|c| part(c).iter().copied()).collect())
    };
    let mut out = Tensors::new();
    let audio = [AUDIO_CHANNELS, how.rate];
    for (m, shape, part) in [
        (Stream::Video, &VIDEO_SHAPE[..], (|c| &c.video) as fn(&ccl_world::Clip) -> &[f32]),
        (Stream::Audio, &audio[..], |c| &c.audio),
    ] {
        let name = format!("noise.{m}");
        let mut noise = vec![0.0; n * shape.iter().product::<usize>()];
        random::Stream::new(how.seed, &name).normal(&mut noise);
        out.insert(name, HostTensor::f32([&[n], shape].concat(), noise));
        out.insert(m.name().into(), stack(shape, part));
    }
    out.insert("text".into(), stack(&TEXT_SHAPE, |c| &c.text));
    out.insert("t".into(), HostTensor::f32([n], vec![how.level as f32; n]));
    out
}

/// Share on context tokens at each token of a block, clip after clip: from `[B, L, n, H]`, summed over `n`, averaged over `H`.
fn shares(outputs: &Tensors, m: Stream, n: usize) -> Option<Vec<f64>> {
    let tensor = outputs.get(&context_weights(m, n))?;
    let (context, heads) = (tensor.shape[2], tensor.shape[3]);
    let sum = |row: &[f32]| row.iter().map(|&x| f64::from(x)).sum::<f64>() / heads as f64;
    Some(tensor.as_f32()?.chunks_exact(context * heads).map(sum).collect())
}

/// Rows and columns of the latent under one video token.
const PATCH: usize = 2;
/// Video tokens of a clip.
const VIDEO_TOKENS: usize = FRAMES * ROWS * COLUMNS / (PATCH * PATCH);

/// Regions of a clip's video tokens, frame by frame, row by row.
pub fn video_regions(clip: &ccl_world::Clip) -> Vec<Region> {
    let colour = &COLOUR[clip.truth.prompt.colour.index()];
    let cell = |frame: usize, row: usize, column: usize| {
        let at = |c: usize| f64::from(clip.video[((c * FRAMES + frame) * ROWS + row) * COLUMNS + column]);
        (0..VIDEO_CHANNELS).map(|c| colour[c] * at(c)).sum::<f64>()
    };
    let mut out = Vec::with_capacity(VIDEO_TOKENS);
    for frame in 0..FRAMES {
        let near = clip.truth.impacts.iter().any(|t| (t - frame as f64).abs() <= 0.5);
        for (row, column) in (0..ROWS).step_by(PATCH).flat_map(|r| (0..COLUMNS).step_by(PATCH).map(move |c| (r, c))) {
            let cells = (0..PATCH).flat_map(|i| (0..PATCH).map(move |j| (i, j)));
            let most = cells.map(|(i, j)| cell(frame, row + i, column + j)).fold(f64::MIN, f64::max);
            out.push(match (most >= BALL / 2.0, near) {
                (true, true) => Region::Impact,
                (true, false) => Region::Ball,
                (false, _) => Region::Background,
            });
        }
    }
    out
}

/// Regions of a clip's audio tokens.
pub fn audio_regions(clip: &ccl_world::Clip, rate: usize) -> Vec<Region> {
    let ratio = rate as f64 / FRAMES as f64;
    let long = 2.0 * DECAY * rate as f64 / EVEN_RATE as f64;
    let in_burst = |token: usize| clip.truth.impacts.iter().any(|t| (0.0..long).contains(&(token as f64 - t * ratio)));
    (0..rate).map(|token| if in_burst(token) { Region::Burst } else { Region::Hum }).collect()
}
