//! Latents as something to watch and to hear, without anything learned: a fixed map from video latents to pictures and from audio latents to
//! sound, and the files that hold them.
//!
//! [`pictures`] shows each colour's direction as that colour, [`sound`] plays each pitch's direction as a tone in the timbre that
//! sounds with it, [`strip`] puts a whole clip on one page. Both streams last [`SECONDS_PER_FRAME`] a frame and end together. This
//! module makes bytes; writing them to files is the caller's.

mod encode;
mod picture;
mod sound;
mod strip;
mod track;

pub use encode::{gif, png, wav};
pub use picture::{Stage, pictures};
pub use sound::sound;
pub use strip::strip;

use crate::prompt::Colour;
use crate::space::FRAMES;

/// Seconds that a frame of the video latent lasts: four a second, as in the video models whose latents this world imitates.
pub const SECONDS_PER_FRAME: f64 = 0.25;
/// Pictures a second; a GIF can have this rate exactly.
pub const PICTURES_PER_SECOND: usize = 25;
/// Pictures of a clip.
pub const PICTURES: usize = (FRAMES as f64 * SECONDS_PER_FRAME * PICTURES_PER_SECOND as f64) as usize;
/// Samples of sound a second, one channel.
pub const SAMPLE_RATE: usize = 16_000;
/// Samples of a clip: as long as its pictures.
pub const SAMPLES: usize = PICTURES * (SAMPLE_RATE / PICTURES_PER_SECOND);

/// A picture, three bytes a pixel, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of every pixel.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// Puts another picture on this one; what does not fit is cut off.
    pub fn paste(&mut self, other: &Picture, left: usize, top: usize) {
        let width = other.width.min(self.width.saturating_sub(left));
        for row in 0..other.height.min(self.height.saturating_sub(top)) {
            let from = row * other.width * 3;
            let to = ((top + row) * self.width + left) * 3;
            self.rgb[to..to + width * 3].copy_from_slice(&other.rgb[from..from + width * 3]);
        }
    }
}

/// The colour on a screen.
pub const fn display(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [238, 84, 72],
        Colour::Green => [78, 196, 104],
        Colour::Blue => [78, 138, 246],
        Colour::Yellow => [246, 204, 70],
    }
}
