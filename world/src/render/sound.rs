//! An audio latent as sound.
//!
//! The channels are turned into four pitches and four timbres (orthonormal directions). A pitch and a timbre that are loud at
//! once sound as a tone of that pitch with the partials of that timbre. What never changes is the hum.

use std::f64::consts::TAU;

use super::picture::smooth;
use super::{SAMPLE_RATE, SAMPLES};
use crate::detect::without_hum;
use crate::error::WorldError;
use crate::space::*;

/// Frequencies of the pitches in hertz: c, e, g and c again.
const FREQUENCIES: [f64; PITCHES] = [261.63, 329.63, 392.0, 523.25];
/// Partials of the timbres: multiples of the frequency, and how loud each is. A marimba, a clarinet, a bell, a string.
const PARTIALS: [&[(f64, f64)]; COLOURS] = [
    &[(1.0, 1.0), (3.9, 0.35)],
    &[(1.0, 1.0), (3.0, 0.5), (5.0, 0.3), (7.0, 0.15)],
    &[(1.0, 1.0), (2.76, 0.6), (5.4, 0.3)],
    &[(1.0, 1.0), (2.0, 0.7), (3.0, 0.5), (4.0, 0.4), (5.0, 0.3), (6.0, 0.2)],
];
/// Loudness of a full burst; louder ones are bent towards 1.
const GAIN: f64 = 0.4;
/// Amount below which nothing sounds.
const GATE: f64 = 0.35;
/// The hum's frequency, and its loudness where its channels have the size 1.
const DRONE: (f64, f64) = (87.31, 0.012);
/// Samples over which the end fades.
const FADE: usize = SAMPLE_RATE / 50;

/// The sound of an audio latent `[AUDIO_CHANNELS, L]`, [`SAMPLE_RATE`] samples a second from -1 to 1, as long as the pictures.
///
/// # Errors
/// When the latent is none of this world.
pub fn sound(audio: &[f32]) -> Result<Vec<f32>, WorldError> {
    let tokens = without_hum(audio)?;
    // What `without_hum` took away, over all channels.
    let hum: [f64; AUDIO_CHANNELS] = std::array::from_fn(|c| f64::from(audio[c * tokens.len()]) - tokens[0][c]);
    let hum = dot(&hum, &hum).sqrt();
    let mut out = vec![0.0; SAMPLES];
    for (k, partials) in PARTIALS.iter().enumerate() {
        for (j, frequency) in FREQUENCIES.iter().enumerate() {
            let loudness: Vec<f64> = tokens.iter().map(|x| loudness(dot(x, pitch(j)), dot(x, timbre(k)))).collect();
            if loudness.iter().any(|&l| l > 0.0) {
                play(&mut out, &loudness, *frequency, partials);
            }
        }
    }
    for (n, value) in out.iter_mut().enumerate() {
        *value += DRONE.1 * hum * (TAU * DRONE.0 * n as f64 / SAMPLE_RATE as f64).sin();
        *value = value.tanh() * ((SAMPLES - n) as f64 / FADE as f64).min(1.0);
    }
    Ok(out.into_iter().map(|x| x as f32).collect())
}

/// How loud a pitch is in a timbre, 1 for a full burst.
fn loudness(pitch: f64, timbre: f64) -> f64 {
    let both = (pitch.max(0.0) * timbre.max(0.0)).sqrt();
    (both - GATE).max(0.0) / (BURST - GATE)
}

/// Adds a tone whose loudness is given token by token. It rises within a third of a token, between the two tokens of the rise, and falls
/// evenly.
fn play(out: &mut [f64], loudness: &[f64], frequency: f64, partials: &[(f64, f64)]) {
    let size = partials.iter().map(|(_, a)| a * a).sum::<f64>().sqrt();
    let tokens = loudness.len();
    for (n, value) in out.iter_mut().enumerate() {
        let at = n as f64 * tokens as f64 / SAMPLES as f64;
        let here = (at as usize).min(tokens - 1);
        let (from, to) = (loudness[here], loudness[(here + 1).min(tokens - 1)]);
        let part = at - here as f64;
        let part = if to > from { smooth((part - 1.0 / 3.0) * 3.0) } else { part };
        let amount = from + (to - from) * part;
        if amount > 0.0 {
            let time = n as f64 / SAMPLE_RATE as f64;
            let wave: f64 = partials.iter().map(|(m, a)| a * (TAU * frequency * m * time).sin()).sum();
            *value += GAIN * amount * wave / size;
        }
    }
}
