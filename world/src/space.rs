//! The constants of the world: sizes, laws of motion and sound, and the directions in which colours, pitches, timbres and words lie.
//!
//! Changing anything here makes another world: models and datasets of this one no longer fit.

use std::sync::LazyLock;

use ccl_runtime::random::Stream;

/// Frames of a clip.
pub const FRAMES: usize = 16;
/// Rows of a frame; row 0 is on top.
pub const ROWS: usize = 8;
/// Columns of a frame.
pub const COLUMNS: usize = 4;
/// Channels of the video latent.
pub const VIDEO_CHANNELS: usize = 4;
/// Channels of the audio latent.
pub const AUDIO_CHANNELS: usize = 8;
/// Values of a video latent.
pub const VIDEO_SIZE: usize = VIDEO_CHANNELS * FRAMES * ROWS * COLUMNS;
/// Audio tokens of a clip at the even rate: eight to a frame.
pub const EVEN_RATE: usize = 128;
/// Audio tokens of a clip at the odd rate: no whole number to a frame.
pub const ODD_RATE: usize = 121;
/// Tokens of a prompt: the colour's, then one for each symbol.
pub const TEXT_TOKENS: usize = 4;
/// Features of a prompt's token.
pub const TEXT_DIM: usize = 32;

/// Colours, and as many timbres.
pub const COLOURS: usize = 4;
/// Pitches that a symbol may mean.
pub const PITCHES: usize = 4;
/// Symbols of a prompt; impact `k` sounds symbol `k % SYMBOLS`.
pub const SYMBOLS: usize = 3;

/// Fewest and most impacts of a clip.
pub const IMPACTS: (usize, usize) = (2, 4);
/// Earliest time of an impact.
pub const FIRST: f64 = 1.0;
/// Latest time of an impact.
pub const LAST: f64 = 14.0;
/// Least time between impacts.
pub const GAP: f64 = 3.0;
/// Row of the ball's centre at an impact.
pub const FLOOR: f64 = 6.3;
/// Height of a full arc in rows.
pub const PEAK: f64 = 5.5;
/// Time between impacts from which on an arc is full; shorter ones are lower in proportion.
pub const LONG: f64 = 6.0;
/// Amplitude of the ball.
pub const BALL: f64 = 4.0;
/// Width of the ball in cells.
pub const SIGMA: f64 = 0.8;
/// Standard deviation of the still texture behind the ball.
pub const TEXTURE: f64 = 0.25;
/// Amplitude of a burst along its pitch and along its timbre.
pub const BURST: f64 = 3.0;
/// Tokens in which a burst falls to 1/e, at the even rate.
pub const DECAY: f64 = 4.0;
/// Standard deviation of the steady hum in each channel.
pub const HUM: f64 = 0.25;

/// The colours' directions in the channels of the video latent: orthonormal.
pub const COLOUR: [[f64; VIDEO_CHANNELS]; COLOURS] =
    [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, -0.5, 0.5]];

/// Seed of the drawn constants.
const SEED: u64 = 1234;

/// The directions of the audio latent: four pitches, then four timbres, orthonormal together.
static DIRECTIONS: LazyLock<[[f64; AUDIO_CHANNELS]; PITCHES + COLOURS]> = LazyLock::new(|| {
    let mut drawn = [0.0; AUDIO_CHANNELS * (PITCHES + COLOURS)];
    Stream::new(SEED, "bounce directions").normal(&mut drawn);
    let mut basis = [[0.0; AUDIO_CHANNELS]; PITCHES + COLOURS];
    // Gram and Schmidt's method, twice over each vector: the second pass takes away what rounding left.
    for k in 0..basis.len() {
        let mut v: [f64; AUDIO_CHANNELS] = std::array::from_fn(|c| f64::from(drawn[k * AUDIO_CHANNELS + c]));
        for _ in 0..2 {
            for other in &basis[..k] {
                let along = dot(&v, other);
                v.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
            }
        }
        let norm = dot(&v, &v).sqrt();
        basis[k] = v.map(|x| x / norm);
    }
    basis
});

/// The words of prompts: a vector for each slot and symbol, standard normal.
static WORDS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut words = vec![0.0; TEXT_TOKENS * COLOURS * TEXT_DIM];
    Stream::new(SEED, "bounce words").normal(&mut words);
    words
});

/// A pitch's direction in the channels of the audio latent.
///
/// # Panics
/// When there is no such pitch.
pub fn pitch(k: usize) -> &'static [f64; AUDIO_CHANNELS] {
    &DIRECTIONS[..PITCHES][k]
}

/// A timbre's direction in the channels of the audio latent.
///
/// # Panics
/// When there is no such timbre.
pub fn timbre(k: usize) -> &'static [f64; AUDIO_CHANNELS] {
    &DIRECTIONS[PITCHES..][k]
}

/// The vector of a symbol in a slot of the prompt: slot 0 is the colour, the others are pitches.
///
/// # Panics
/// When there is no such slot or symbol.
pub fn word(slot: usize, symbol: usize) -> &'static [f32] {
    assert!(slot < TEXT_TOKENS && symbol < COLOURS, "word {symbol} of slot {slot}");
    let at = (slot * COLOURS + symbol) * TEXT_DIM;
    &WORDS[at..at + TEXT_DIM]
}

/// Scalar product.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
