//! What a model has learnt of the bounce world: clips that it never saw, sampled and measured.

use std::ops::ControlFlow;
use std::sync::Arc;

use ccl_model::{Clip, Config, Guidance, Stream, Task};
use ccl_runtime::backend::Backend;
use ccl_runtime::denoise::{Denoise, Part, Progress};
use ccl_runtime::inputs::Inputs;
use ccl_runtime::sampler::SamplerKind;
use ccl_runtime::session::{Session, Tensors};
use ccl_runtime::weights::WeightSource;
use ccl_runtime::{HostData, HostTensor, RuntimeError};
use ccl_world::space::{AUDIO_CHANNELS, TEXT_DIM, TEXT_TOKENS};
use ccl_world::tensors::{TEXT_SHAPE, VIDEO_SHAPE};
use ccl_world::{Measures, World};

use crate::error::Error;
use crate::planning::{Request, plan};
use crate::running::scales;

/// How a sample is guided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guiding {
    /// A form that plans have within.
    Form(Guidance),
    /// Two passes: the unconditional one has no prompt and reads, in place of the other stream, a clip in which nothing happens. What the
    /// paper compares unconditional context guidance with.
    Still,
}

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
    pub guiding: Guiding,
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
            guiding: Guiding::Form(Guidance::TwoPass),
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
    let mut guided = Guided::new(config, weights, backend, how, batch)?;
    let rounds = how.clips.div_ceil(batch);
    let (mut video, mut audio, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // The last batch is filled up with clips that are not counted.
        let numbers = round * batch..(round + 1) * batch;
        let clips: Vec<_> = numbers.clone().map(|i| world.clip(i)).collect();
        // Only what is read is made.
        let still: Vec<_> = match how.guiding {
            Guiding::Still => numbers.map(|i| world.still(i)).collect(),
            Guiding::Form(_) => Vec::new(),
        };
        let counted = batch.min(how.clips - round * batch);
        let seed = how.seed.wrapping_mul(1_000_003).wrapping_add(round as u64);
        let denoise = Denoise { sampler: SamplerKind::Euler, steps: how.steps, shift: how.shift, seed };
        let sampled = guided
            .sample(&denoise, &clips, &still, &mut |p| progress(round * how.steps + p.done, rounds * how.steps))?;
        for m in Stream::ALL {
            let truth = latents(&clips, m);
            let own = sampled.get(&format!("sample.{m}")).and_then(HostTensor::as_f32);
            let data = own.unwrap_or(&truth);
            let counted = counted * (data.len() / batch);
            if m == Stream::Video { &mut video } else { &mut audio }.extend_from_slice(&data[..counted]);
        }
        prompts.extend(clips.iter().take(counted).map(|c| c.truth.prompt));
    }
    ccl_world::measure(&video, &audio, &prompts).map_err(failed)
}

/// The plans that sample together: that of the task, and those of unconditional passes which it has not within.
struct Guided<'e> {
    how: &'e Evaluation,
    main: Session,
    /// One for each stream that the task produces.
    still: Vec<(Stream, Session)>,
}

impl<'e> Guided<'e> {
    fn new(
        config: &Config,
        weights: &dyn WeightSource,
        backend: &dyn Backend,
        how: &'e Evaluation,
        batch: usize,
    ) -> Result<Self, Error> {
        let [_, frames, height, width] = VIDEO_SHAPE;
        let clip = Clip { frames, height, width, audio: how.rate };
        let session = |task: Task, guidance: Guidance| -> Result<Session, Error> {
            let request = Request {
                batch,
                text_tokens: TEXT_TOKENS,
                image_tokens: 0,
                ..Request::new(config, task, guidance, clip)
            };
            Ok(Session::new(backend, Arc::new(plan(config, &request)?), weights)?)
        };
        let (guidance, produced) = match how.guiding {
            Guiding::Form(form) => (form, vec![]),
            Guiding::Still => (Guidance::None, Stream::ALL.into_iter().filter(|m| how.task.produces(*m)).collect()),
        };
        let alone = |m: Stream| session(if m == Stream::Video { Task::A2v } else { Task::V2a }, Guidance::None);
        let still = produced.into_iter().map(|m| Ok((m, alone(m)?))).collect::<Result<_, Error>>()?;
        Ok(Self { how, main: session(how.task, guidance)?, still })
    }

    /// Samples the streams that the task produces; a reference stream is that of the clips.
    fn sample(
        &mut self,
        denoise: &Denoise,
        clips: &[ccl_world::Clip],
        still: &[ccl_world::Clip],
        report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Tensors, RuntimeError> {
        let (how, batch) = (self.how, clips.len());
        let text = |data: Vec<f32>| tensor(batch, &TEXT_SHAPE, data);
        let empty = text(vec![0.0; batch * TEXT_TOKENS * TEXT_DIM]);
        let latent = |clips, m: Stream| tensor(batch, &shape(m, how.rate), latents(clips, m));
        let mut inputs = Inputs::new();
        inputs.insert("text", text(stacked(clips, |c| &c.text)));
        inputs.insert("negative_text", empty.clone());
        if let Guiding::Form(form) = how.guiding {
            for (name, value) in scales(form, |_| Some(how.scale)) {
                inputs.insert(name, HostTensor::f32([], vec![value as f32]));
            }
        }
        if let Some(m) = how.task.reference() {
            inputs.insert(m.name(), latent(clips, m));
        }
        let others: Vec<Inputs> = self
            .still
            .iter()
            .map(|(m, _)| {
                let mut other = Inputs::new();
                other.insert("text", empty.clone());
                other.insert(m.other().name(), latent(still, m.other()));
                other
            })
            .collect();
        let mut parts = vec![Part { session: &mut self.main, inputs: &inputs }];
        parts.extend(self.still.iter_mut().zip(&others).map(|((_, session), inputs)| Part { session, inputs }));
        denoise.run_together(&mut parts, &|all| guide(all, how.scale), report)
    }
}

/// The first pass's velocities, led away from those of the others: `other + scale (first - other)`.
fn guide(passes: Vec<Tensors>, scale: f64) -> Tensors {
    let mut passes = passes.into_iter();
    let mut out = passes.next().unwrap_or_default();
    for (name, other) in passes.flatten() {
        if let (Some(HostData::F32(first)), Some(other)) = (out.get_mut(&name).map(|t| &mut t.data), other.as_f32()) {
            first.iter_mut().zip(other).for_each(|(x, o)| *x = o + scale as f32 * (*x - o));
        }
    }
    out
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

/// Latents of a stream.
fn latents(clips: &[ccl_world::Clip], m: Stream) -> Vec<f32> {
    stacked(clips, |c| if m == Stream::Video { &c.video } else { &c.audio })
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
