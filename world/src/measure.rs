//! How well picture, sound and prompt agree, beside what chance gives.

use serde::{Deserialize, Serialize};

use crate::clip::World;
use crate::detect::{Impacts, Onsets, find_impacts, find_onsets};
use crate::error::WorldError;
use crate::prompt::Prompt;
use crate::space::{AUDIO_CHANNELS, EVEN_RATE, VIDEO_SIZE};

/// Clips by which onsets are moved on to find what chance gives.
const SHIFTS: [usize; 4] = [1, 2, 3, 5];
/// Fewest clips that are shifted against each other; fewer are paired with true clips.
const ENOUGH: usize = 8;
/// True clips with which few clips are paired, and their seed.
const OTHERS: (u64, usize) = (4321, 64);

/// A share within one frame and within half a frame; `None` where there is nothing to take a share of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Within {
    /// Within one frame.
    pub one: Option<f64>,
    /// Within half a frame.
    pub half: Option<f64>,
}

/// How well impacts and onsets agree in time, over all clips together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// Impacts of a clip, on average.
    pub impacts: f64,
    /// Onsets of a clip, on average.
    pub onsets: f64,
    /// Distance from an impact to the nearest onset in frames, on average over impacts that have one within a frame.
    pub offset: Option<f64>,
    /// Share of impacts that have an onset near.
    pub recall: Within,
    /// Share of onsets that have an impact near.
    pub precision: Within,
    /// Harmonic mean of recall and precision.
    pub f1: Within,
}

/// What is measured on clips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Number of clips.
    pub clips: usize,
    /// Impacts of each video against onsets of its own audio.
    pub sync: Sync,
    /// The same against onsets of other clips: what is reached without hearing or seeing. With fewer than eight clips the others are
    /// true clips of the world.
    pub chance: Sync,
    /// Share of clips whose timbre is that of the ball's colour; 0.25 by chance.
    pub timbre_match: f64,
    /// Share of clips whose ball has the prompt's colour; 0.25 by chance. `None` without prompts, as the next two.
    pub colour_ok: Option<f64>,
    /// Share of onsets with another pitch than the prompt gives the onset of this number; 0.75 by chance.
    pub pitch_error: Option<f64>,
    /// Share of onsets with a pitch that is nowhere in the prompt; 0.42 by chance.
    pub pitch_unlisted: Option<f64>,
}

/// Measures clips: stacked video latents `[B, ...]` and as many stacked audio latents `[B, AUDIO_CHANNELS, L]`, in the order of their
/// `prompts`; an empty list where these are not known.
///
/// # Errors
/// When there is no clip, the sizes do not fit this world or each other, or there are some prompts but not one for each clip.
pub fn measure(video: &[f32], audio: &[f32], prompts: &[Prompt]) -> Result<Measures, WorldError> {
    let clips = video.len() / VIDEO_SIZE;
    if clips == 0 || !video.len().is_multiple_of(VIDEO_SIZE) {
        let problem =
            format!("has {} values, which are no video latents of this world ({VIDEO_SIZE} each)", video.len());
        return Err(WorldError::tensor("video", problem));
    }
    if audio.is_empty() || !audio.len().is_multiple_of(clips * AUDIO_CHANNELS) {
        let problem = format!("has {} values, which are no audio latents of {clips} clips", audio.len());
        return Err(WorldError::tensor("audio", problem));
    }
    let impacts: Result<Vec<Impacts>, _> = video.chunks_exact(VIDEO_SIZE).map(find_impacts).collect();
    let onsets: Result<Vec<Onsets>, _> = audio.chunks_exact(audio.len() / clips).map(find_onsets).collect();
    measure_detected(&impacts?, &onsets?, prompts)
}

/// Measures what was found in clips; see [`measure`].
///
/// # Errors
/// When there is no clip, or lists differ in length.
pub fn measure_detected(impacts: &[Impacts], onsets: &[Onsets], prompts: &[Prompt]) -> Result<Measures, WorldError> {
    let clips = impacts.len();
    if clips == 0 || onsets.len() != clips || !(prompts.is_empty() || prompts.len() == clips) {
        let (a, p) = (onsets.len(), prompts.len());
        return Err(WorldError::option("clips", format!("{clips} videos, {a} audios and {p} prompts do not fit")));
    }
    let matched = impacts.iter().zip(onsets).filter(|(v, a)| !v.times.is_empty() && v.colour == a.timbre).count();
    let share = |n: usize, of: usize| (of > 0).then(|| n as f64 / of as f64);
    let colours = impacts.iter().zip(prompts).filter(|(v, p)| v.colour == Some(p.colour)).count();
    let heard = || {
        let each = |(a, p): (&'_ Onsets, &'_ Prompt)| {
            let p = *p;
            a.pitches.clone().into_iter().enumerate().map(move |(k, pitch)| (k, pitch, p))
        };
        onsets.iter().zip(prompts).flat_map(each)
    };
    let count = heard().count();
    let wrong = heard().filter(|(k, pitch, p)| p.pitch(*k) != *pitch).count();
    let unlisted = heard().filter(|(_, pitch, p)| !p.symbols.contains(pitch)).count();
    Ok(Measures {
        clips,
        sync: sync(impacts.iter().zip(onsets).map(|(v, a)| (&v.times[..], &a.times[..]))),
        chance: chance(impacts, onsets)?,
        timbre_match: matched as f64 / clips as f64,
        colour_ok: share(colours, prompts.len()),
        pitch_error: share(wrong, count),
        pitch_unlisted: share(unlisted, count),
    })
}

/// What impacts and the onsets of other clips give.
fn chance(impacts: &[Impacts], onsets: &[Onsets]) -> Result<Sync, WorldError> {
    let clips = impacts.len();
    if clips >= ENOUGH {
        let shifted = SHIFTS.into_iter().flat_map(|by| {
            impacts.iter().enumerate().map(move |(i, v)| (&v.times[..], &onsets[(i + clips - by) % clips].times[..]))
        });
        return Ok(sync(shifted));
    }
    let (seed, count) = OTHERS;
    let world = World::new(seed, EVEN_RATE, count)?;
    let others: Result<Vec<Onsets>, _> = (0..count).map(|i| find_onsets(&world.clip(i).audio)).collect();
    let others = others?;
    Ok(sync(impacts.iter().flat_map(|v| others.iter().map(|a| (&v.times[..], &a.times[..])))))
}

/// Compares times of impacts with times of onsets, one pair of lists for each clip.
pub fn sync<'a>(clips: impl Iterator<Item = (&'a [f64], &'a [f64])>) -> Sync {
    let (mut count, mut recall, mut precision) = (0usize, Near::default(), Near::default());
    for (impacts, onsets) in clips {
        count += 1;
        impacts.iter().for_each(|&t| recall.add(t, onsets));
        onsets.iter().for_each(|&t| precision.add(t, impacts));
    }
    let (r, p) = (recall.within(), precision.within());
    let f1 = |r: Option<f64>, p: Option<f64>| match (r?, p?) {
        (r, p) if r + p > 0.0 => Some(2.0 * r * p / (r + p)),
        _ => Some(0.0),
    };
    Sync {
        impacts: recall.all as f64 / count.max(1) as f64,
        onsets: precision.all as f64 / count.max(1) as f64,
        offset: (recall.one > 0).then(|| recall.distance / recall.one as f64),
        recall: r,
        precision: p,
        f1: Within { one: f1(r.one, p.one), half: f1(r.half, p.half) },
    }
}

/// How many times have another one near.
#[derive(Default)]
struct Near {
    all: usize,
    one: usize,
    half: usize,
    /// Sum of the distances within one frame.
    distance: f64,
}

impl Near {
    fn add(&mut self, time: f64, others: &[f64]) {
        let distance = others.iter().map(|t| (t - time).abs()).fold(f64::INFINITY, f64::min);
        self.all += 1;
        self.half += usize::from(distance <= 0.5);
        if distance <= 1.0 {
            self.one += 1;
            self.distance += distance;
        }
    }

    fn within(&self) -> Within {
        let share = |n: usize| (self.all > 0).then(|| n as f64 / self.all as f64);
        Within { one: share(self.one), half: share(self.half) }
    }
}
