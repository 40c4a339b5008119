//! Finds impacts in a video latent and onsets in an audio latent, without knowing what was meant to happen.
//!
//! Both find everything in true clips, and are meant for generated ones too: a burst may rise over several tokens, a ball may be faint.
//! Nothing here is learned. Every detector takes one clip.

use serde::Serialize;

use crate::error::WorldError;
use crate::prompt::Colour;
use crate::space::*;

/// Amplitude along a colour below which there is no ball.
const FAINT: f64 = 1.0;
/// Mass of a frame's ball from which on it counts.
const LEAST_MASS: f64 = 1.0;
/// Most height of a lowest point that is an impact, in rows.
const LOW: f64 = 2.6;
/// How much higher the ball is one frame before or after an impact, in rows.
const RISE: f64 = 1.0;
/// Norm of a full burst in the audio latent.
const FULL: f64 = BURST * std::f64::consts::SQRT_2;
/// Part of a full burst that an onset reaches.
const LOUD: f64 = 0.4;
/// Part of a full burst by which an onset rises within [`PAST`] tokens.
const STEEP: f64 = 0.25;
/// Tokens in which an onset rises.
const PAST: usize = 3;
/// Tokens after an onset in which nothing is louder.
const AFTER: usize = 6;
/// Tokens over which pitch and timbre are told.
const LISTEN: usize = 4;

/// What a video shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Impacts {
    /// Times of the impacts in frames, ascending.
    pub times: Vec<f64>,
    /// Colour of the ball; `None` where there is none.
    pub colour: Option<Colour>,
    /// The ball's centre in every frame as height above the floor and column, in cells; `None` where there is no ball.
    pub track: Vec<Option<[f64; 2]>>,
}

/// What an audio latent sounds like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Onsets {
    /// Times of the onsets in frames, ascending.
    pub times: Vec<f64>,
    /// Pitch of each.
    pub pitches: Vec<usize>,
    /// Timbre of all together, as the colour that it belongs to; `None` where there is no onset.
    pub timbre: Option<Colour>,
}

/// Finds the impacts in a video latent `[VIDEO_CHANNELS, FRAMES, ROWS, COLUMNS]`: lowest points of the ball, with the time between
/// frames from the apex of a symmetric V through the three heights.
///
/// # Errors
/// When there are not [`VIDEO_SIZE`] values.
pub fn find_impacts(video: &[f32]) -> Result<Impacts, WorldError> {
    if video.len() != VIDEO_SIZE {
        let problem = format!(
            "has {} values, a video latent of this world has [{VIDEO_CHANNELS}, {FRAMES}, {ROWS}, {COLUMNS}]",
            video.len()
        );
        return Err(WorldError::tensor("video", problem));
    }
    const CELLS: usize = FRAMES * ROWS * COLUMNS;
    let mass = |colour: usize, cell: usize| -> f64 {
        let along: f64 = (0..VIDEO_CHANNELS).map(|c| COLOUR[colour][c] * f64::from(video[c * CELLS + cell])).sum();
        (along - FAINT).max(0.0)
    };
    let total = |colour: usize| (0..CELLS).map(|cell| mass(colour, cell)).sum::<f64>();
    let (colour, most) = strongest((0..COLOURS).map(total));

    let track: Vec<Option<[f64; 2]>> = (0..FRAMES)
        .map(|frame| {
            let (mut all, mut row, mut column) = (0.0, 0.0, 0.0);
            for cell in 0..ROWS * COLUMNS {
                let m = mass(colour, frame * ROWS * COLUMNS + cell);
                all += m;
                row += m * (cell / COLUMNS) as f64;
                column += m * (cell % COLUMNS) as f64;
            }
            (all > LEAST_MASS).then(|| [FLOOR - row / all, column / all])
        })
        .collect();
    let mut times = Vec::new();
    for frame in 1..FRAMES - 1 {
        let [Some([before, _]), Some([here, _]), Some([after, _])] = track[frame - 1..frame + 2] else { continue };
        let rise = before.max(after) - here;
        if here <= before && here < after && rise > RISE && here < LOW {
            times.push(frame as f64 + (before - after) / (2.0 * rise));
        }
    }
    Ok(Impacts { times, colour: (most > 0.0).then_some(Colour::ALL[colour]), track })
}

/// Finds the onsets in an audio latent `[AUDIO_CHANNELS, L]`: peaks of the norm without each channel's median that are loud and rise
/// steeply. The time of one is where the rise crosses half the peak.
///
/// # Errors
/// When the number of values is no multiple of [`AUDIO_CHANNELS`], or 0.
pub fn find_onsets(audio: &[f32]) -> Result<Onsets, WorldError> {
    let x = without_hum(audio)?;
    let length = x.len();
    let e: Vec<f64> = x.iter().map(|v| dot(v, v).sqrt()).collect();
    // Before the clip there is silence.
    let back = |token: usize, by: usize| token.checked_sub(by).map_or(0.0, |t| e[t]);

    let (mut times, mut pitches) = (Vec::new(), Vec::new());
    let mut timbres = [0.0; COLOURS];
    for token in 0..length {
        let peak = e[token];
        let around = &e[token.saturating_sub(PAST)..(token + AFTER + 1).min(length)];
        let least = (1..=PAST).map(|by| back(token, by)).fold(f64::INFINITY, f64::min);
        let is_peak = around.iter().all(|&other| other <= peak) && peak > LOUD * FULL && peak - least > STEEP * FULL;
        // Where the rise towards the peak crosses half of it, between two tokens.
        let crossing = (0..PAST).find(|&by| back(token, by + 1) < peak / 2.0);
        let Some(by) = crossing.filter(|_| is_peak) else { continue };
        let (low, high) = (back(token, by + 1), back(token, by));
        let at = token as f64 - by as f64 - 1.0 + (peak / 2.0 - low) / (high - low).max(1e-3);
        times.push(at * FRAMES as f64 / length as f64);

        let mut sum = [0.0; AUDIO_CHANNELS];
        for v in &x[token..(token + LISTEN).min(length)] {
            sum.iter_mut().zip(v).for_each(|(s, v)| *s += v);
        }
        pitches.push(strongest((0..PITCHES).map(|k| dot(&sum, pitch(k)))).0);
        timbres.iter_mut().enumerate().for_each(|(k, t)| *t += dot(&sum, timbre(k)));
    }
    let timbre = (!times.is_empty()).then(|| Colour::ALL[strongest(timbres.into_iter()).0]);
    Ok(Onsets { times, pitches, timbre })
}

/// The audio latent token by token, without the median of each channel (the lower one of two), which is its hum.
///
/// # Errors
/// As for [`find_onsets`].
pub(crate) fn without_hum(audio: &[f32]) -> Result<Vec<[f64; AUDIO_CHANNELS]>, WorldError> {
    let length = audio.len() / AUDIO_CHANNELS;
    if length == 0 || !audio.len().is_multiple_of(AUDIO_CHANNELS) {
        let problem = format!("has {} values, an audio latent of this world has [{AUDIO_CHANNELS}, L]", audio.len());
        return Err(WorldError::tensor("audio", problem));
    }
    let mut x = vec![[0.0; AUDIO_CHANNELS]; length];
    for (c, channel) in audio.chunks_exact(length).enumerate() {
        let mut sorted = channel.to_vec();
        sorted.sort_by(f32::total_cmp);
        let median = f64::from(sorted[(length - 1) / 2]);
        x.iter_mut().zip(channel).for_each(|(x, &value)| x[c] = f64::from(value) - median);
    }
    Ok(x)
}

/// The first largest of some values, with its number.
fn strongest(values: impl Iterator<Item = f64>) -> (usize, f64) {
    values.enumerate().fold((0, f64::NEG_INFINITY), |best, this| if this.1 > best.1 { this } else { best })
}
