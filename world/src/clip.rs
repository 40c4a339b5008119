//! Clips: what happens in one, and the latents that show it.

use ccl_data::Schema;
use ccl_runtime::random::Stream;
use serde::Serialize;

use crate::error::WorldError;
use crate::prompt::{Colour, Prompt};
use crate::space::*;
use crate::tensors;

/// What happens in a clip.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// The prompt.
    pub prompt: Prompt,
    /// Times of the impacts in frames, ascending.
    pub impacts: Vec<f64>,
}

/// A clip: its latents, its text features and what happens in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Video latent `[VIDEO_CHANNELS, FRAMES, ROWS, COLUMNS]`.
    pub video: Vec<f32>,
    /// Audio latent `[AUDIO_CHANNELS, L]`.
    pub audio: Vec<f32>,
    /// Text features `[TEXT_TOKENS, TEXT_DIM]`.
    pub text: Vec<f32>,
    /// What happens.
    pub truth: Truth,
}

/// The clips of one seed and audio rate. Clip `i` depends on the seed, the rate and `i` alone; its events and its video are the same
/// at every rate.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    rate: usize,
    clips: usize,
    schema: Schema,
}

impl World {
    /// `clips` clips with `rate` audio tokens each.
    ///
    /// # Errors
    /// When there would be no clip, or the rate is neither [`EVEN_RATE`] nor [`ODD_RATE`].
    pub fn new(seed: u64, rate: usize, clips: usize) -> Result<Self, WorldError> {
        if rate != EVEN_RATE && rate != ODD_RATE {
            let problem = format!("{rate} is no rate of this world; known are {EVEN_RATE} and {ODD_RATE}");
            return Err(WorldError::option("rate", problem));
        }
        if clips == 0 {
            return Err(WorldError::option("clips", "at least 1 is needed"));
        }
        Ok(Self { seed, rate, clips, schema: tensors::schema(rate)? })
    }

    /// Audio tokens of a clip.
    pub fn rate(&self) -> usize {
        self.rate
    }

    /// Number of clips.
    pub fn clips(&self) -> usize {
        self.clips
    }

    /// The tensors of every clip in a dataset.
    pub(crate) fn schema_ref(&self) -> &Schema {
        &self.schema
    }

    /// Makes a clip; any number gives one.
    pub fn clip(&self, number: usize) -> Clip {
        self.show(number, Events::draw(self.seed, number))
    }

    /// The same clip with nothing happening: its ball lies on the floor in its place, its hum goes on.
    pub fn still(&self, number: usize) -> Clip {
        let mut events = Events::draw(self.seed, number);
        events.truth.impacts.clear();
        self.show(number, events)
    }

    fn show(&self, number: usize, events: Events) -> Clip {
        let prompt = events.truth.prompt;
        let video = video(&events, &self.noise(number, "texture", VIDEO_CHANNELS * ROWS * COLUMNS));
        let audio = audio(&events.truth, self.rate, &self.noise(number, "hum", AUDIO_CHANNELS));
        Clip { video, audio, text: prompt.text(), truth: events.truth }
    }

    fn noise(&self, number: usize, what: &str, values: usize) -> Vec<f32> {
        let mut noise = vec![0.0; values];
        Stream::new(self.seed, &format!("bounce {number} {what}")).normal(&mut noise);
        noise
    }
}

/// What is drawn for a clip.
struct Events {
    truth: Truth,
    /// Column of the ball's centre.
    column: f64,
}

impl Events {
    fn draw(seed: u64, number: usize) -> Self {
        let mut uniform = [0.0; 10];
        Stream::new(seed, &format!("bounce {number} events")).uniform_at(0, &mut uniform);
        // From (-1, 1) to (0, 1); rounding to f32 may reach an end.
        let mut next = uniform.iter().map(|&u| (f64::from(u) + 1.0) / 2.0);
        let mut uniform = || next.next().unwrap_or(0.5);
        let choose = |u: f64, n: usize| ((u * n as f64) as usize).min(n - 1);

        let count = IMPACTS.0 + choose(uniform(), IMPACTS.1 - IMPACTS.0 + 1);
        let mut at: Vec<f64> = (0..IMPACTS.1).map(|_| uniform()).collect();
        at.truncate(count);
        at.sort_by(f64::total_cmp);
        let room = LAST - FIRST - (count - 1) as f64 * GAP;
        let impacts = at.iter().enumerate().map(|(k, u)| FIRST + u * room + k as f64 * GAP).collect();
        let colour = Colour::ALL[choose(uniform(), COLOURS)];
        let column = 0.7 + uniform() * (COLUMNS as f64 - 2.4);
        let symbols = std::array::from_fn(|_| choose(uniform(), PITCHES));
        Self { truth: Truth { prompt: Prompt { colour, symbols }, impacts }, column }
    }
}

/// Height of the ball above the floor, in rows, at every frame: arcs from impact to impact, the first and the last one from and to
/// an impact outside of the clip; on the floor where there is no impact.
fn heights(impacts: &[f64]) -> [f64; FRAMES] {
    let (Some(first), Some(last)) = (impacts.first(), impacts.last()) else { return [0.0; FRAMES] };
    let mut edges = vec![first - (first + 1.5).max(4.0)];
    edges.extend_from_slice(impacts);
    edges.push(last + (FRAMES as f64 + 0.5 - last).max(4.0));
    std::array::from_fn(|frame| {
        let t = frame as f64;
        let next = edges.partition_point(|&e| e <= t).clamp(1, edges.len() - 1);
        let (from, to) = (edges[next - 1], edges[next]);
        let s = (t - from) / (to - from);
        4.0 * PEAK * ((to - from) / LONG).min(1.0) * s * (1.0 - s)
    })
}

/// The video latent: a blob along its colour, on a still texture.
fn video(events: &Events, texture: &[f32]) -> Vec<f32> {
    let colour = &COLOUR[events.truth.prompt.colour.index()];
    let heights = heights(&events.truth.impacts);
    let mut video = Vec::with_capacity(VIDEO_SIZE);
    for c in 0..VIDEO_CHANNELS {
        for height in heights {
            for row in 0..ROWS {
                for column in 0..COLUMNS {
                    let (dy, dx) = (row as f64 - (FLOOR - height), column as f64 - events.column);
                    let blob = (-(dy * dy + dx * dx) / (2.0 * SIGMA * SIGMA)).exp();
                    let noise = f64::from(texture[(c * ROWS + row) * COLUMNS + column]);
                    video.push((BALL * colour[c] * blob + TEXTURE * noise) as f32);
                }
            }
        }
    }
    video
}

/// The audio latent: at every impact a burst along its pitch and timbre that decays, on a steady hum.
fn audio(truth: &Truth, rate: usize, hum: &[f32]) -> Vec<f32> {
    let ratio = rate as f64 / FRAMES as f64;
    let decay = DECAY * rate as f64 / EVEN_RATE as f64;
    let timbre = timbre(truth.prompt.colour.index());
    let mut audio = Vec::with_capacity(AUDIO_CHANNELS * rate);
    for c in 0..AUDIO_CHANNELS {
        for token in 0..rate {
            let mut value = HUM * f64::from(hum[c]);
            for (k, impact) in truth.impacts.iter().enumerate() {
                let since = token as f64 - impact * ratio;
                if since >= 0.0 {
                    value += BURST * (-since / decay).exp() * (pitch(truth.prompt.pitch(k))[c] + timbre[c]);
                }
            }
            audio.push(value as f32);
        }
    }
    audio
}
