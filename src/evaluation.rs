//! What a model has learnt of the bounce world: clips that it never saw, sampled and measured.

use std::ops::ControlFlow;

use ccl_model::{Clip, Config, Guidance, Stream, Task};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::Backend;
use ccl_runtime::denoise::Denoise;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::sampler::SamplerKind;
use ccl_runtime::session::{Session, Tensors};
use ccl_runtime::weights::WeightSource;
use ccl_world::space::{AUDIO_CHANNELS, TEXT_DIM, TEXT_TOKENS};
use ccl_world::tensors::{TEXT_SHAPE, VIDEO_SHAPE};
use ccl_world::{Measures, World};

use crate::error::Error;
use crate::planning::{Request, plan};
use crate::running::scales;

/// How clips are sampled for measuring.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// What is produced from what.
    pub task: Task,
    /// Number of clips.
    pub clips: usize,
    /// Audio tokens of a clip: 128 or 121.
    pub rate: usize,
    /// Seed of the clips and of the noise.
    pub seed: u64,
    /// Euler steps.
    pub steps: usize,
    /// Shift of the noise levels.
    pub shift: f64,
    /// How passes are combined.
    pub guidance: Guidance,
    /// Guidance scale of both streams.
    pub scale: f64,
    /// Clips at once.
    pub batch: usize,
}

impl Evaluation {
    /// 128 clips at 128 audio tokens, 20 Euler steps at shift 5, two-pass guidance at 2: what the world's results are quoted at.
    pub fn new(task: Task) -> Self {
        Self {
            task,
            clips: 128,
            rate: 128,
            seed: 99,
            steps: 20,
            shift: 5.0,
            guidance: Guidance::TwoPass,
            scale: 2.0,
            batch: 32,
        }
    }
}

/// Samples clips of the world with a model and measures them; `progress` is told how many steps of how many are done, and may stop the work.
///
/// A reference stream is the true one. The prompt of clip `i` is that of clip `i` of the world with this seed.
///
/// # Errors
/// When the model's sizes are not those of the world, a kernel fails, or the work is stopped.
pub fn evaluate_world(
    config: &Config,
    weights: &dyn WeightSource,
    backend: &dyn Backend,
    how: &Evaluation,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Measures, Error> {
    let world = World::new(how.seed, how.rate, how.clips).map_err(failed)?;
    let batch = how.batch.clamp(1, how.clips);
    let [_, frames, height, width] = VIDEO_SHAPE;
    let clip = Clip { frames, height, width, audio: how.rate };
    let request = Request {
        batch,
        text_tokens: TEXT_TOKENS,
        image_tokens: 0,
        ..Request::new(config, how.task, how.guidance, clip)
    };
    let mut session = Session::new(backend, plan(config, &request)?.into(), weights)?;
    let rounds = how.clips.div_ceil(batch);
    let (mut video, mut audio, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // The last batch is filled up with clips that are not counted.
        let numbers: Vec<usize> = (round * batch..(round + 1) * batch).collect();
        let clips: Vec<_> = numbers.iter().map(|&i| world.clip(i)).collect();
        let counted = batch.min(how.clips - round * batch);
        let truth = [(Stream::Video, stacked(&clips, |c| &c.video)), (Stream::Audio, stacked(&clips, |c| &c.audio))];
        let mut inputs = Inputs::new();
        inputs.insert("text", tensor(batch, &TEXT_SHAPE, stacked(&clips, |c| &c.text)));
        inputs.insert("negative_text", tensor(batch, &TEXT_SHAPE, vec![0.0; batch * TEXT_TOKENS * TEXT_DIM]));
        for (name, value) in scales(how.guidance, |_| Some(how.scale)) {
            inputs.insert(name, HostTensor::f32([], vec![value as f32]));
        }
        if let Some(reference) = how.task.reference() {
            let (m, data) = &truth[usize::from(reference == Stream::Audio)];
            inputs.insert(m.name(), tensor(batch, &shape(*m, how.rate), data.clone()));
        }
        let seed = how.seed.wrapping_mul(1_000_003).wrapping_add(round as u64);
        let denoise = Denoise { sampler: SamplerKind::Euler, steps: how.steps, shift: how.shift, seed };
        let sampled: Tensors =
            denoise.run(&mut session, &inputs, &mut |p| progress(round * how.steps + p.done, rounds * how.steps))?;
        for (m, data) in truth {
            let own = sampled.get(&format!("sample.{m}")).and_then(HostTensor::as_f32);
            let data = own.unwrap_or(&data);
            let counted = counted * (data.len() / batch);
            if m == Stream::Video { &mut video } else { &mut audio }.extend_from_slice(&data[..counted]);
        }
        prompts.extend(clips.iter().take(counted).map(|c| c.truth.prompt));
    }
    ccl_world::measure(&video, &audio, &prompts).map_err(failed)
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::Failed(e.to_string())
}

/// Shape of a stream's latent.
fn shape(m: Stream, rate: usize) -> Vec<usize> {
    match m {
        Stream::Video => VIDEO_SHAPE.to_vec(),
        Stream::Audio => vec![AUDIO_CHANNELS, rate],
    }
}

fn stacked<'c>(clips: &'c [ccl_world::Clip], part: impl Fn(&'c ccl_world::Clip) -> &'c [f32]) -> Vec<f32> {
    clips.iter().flat_map(|c| part(c).iter().copied()).collect()
}

fn tensor(batch: usize, shape: &[usize], data: Vec<f32>) -> HostTensor {
    HostTensor::f32([&[batch], shape].concat(), data)
}

/// Checks that a model fits the world.
///
/// # Errors
/// When one of its sizes does not; the message names it.
pub fn check_config(config: &Config) -> Result<(), Error> {
    let sizes = [
        ("video.out_channels", config.video.out_channels, VIDEO_SHAPE[0]),
        ("audio.out_channels", config.audio.out_channels, AUDIO_CHANNELS),
        ("text_dim", config.text_dim, TEXT_DIM),
    ];
    match sizes.into_iter().find(|(_, has, wants)| has != wants) {
        Some((name, has, wants)) => {
            Err(Error::Failed(format!("config.json: `{name}` is {has}, a model of the bounce world has {wants}")))
        }
        None => Ok(()),
    }
}
