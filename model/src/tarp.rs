//! TARP (SPEC 3): which keys of the other stream each token sees, and how far the paper's windows drift.

use std::fmt;

use ccl_ir::Partition;

use crate::clip::{Clip, Grid};
use crate::config::{Config, WindowCenter};
use crate::stream::Stream;

/// Time of one latent frame in milliseconds: 4 frames at 16 frames per second (Wan2.1).
const MS_PER_LATENT_FRAME: f64 = 250.0;

/// Audio tokens per frame, `c = max(1, floor(L / T))`.
pub fn tokens_per_frame(frames: usize, length: usize) -> usize {
    (length / frames).max(1)
}

/// Audio to video: the window of audio tokens that each frame sees. Sizes of the grid are above zero.
pub fn audio_windows(config: &Config, grid: &Grid) -> Partition {
    let (frames, length) = (grid.frames, grid.length);
    let c = tokens_per_frame(frames, length);
    let (scale, offset, divisor) = match config.window_center {
        WindowCenter::Paper => (c, c / 2, 1),
        WindowCenter::Proportional => (2 * length, length, 2 * frames),
    };
    Partition::Windows {
        frames,
        tokens_per_frame: grid.tokens_per_frame(),
        length,
        size: config.window_frames * c,
        scale,
        offset,
        divisor,
        edge: config.window_edge,
    }
}

/// Video to audio: the frame that each audio token sees.
pub fn nearest_frame(grid: &Grid) -> Partition {
    Partition::NearestFrame { frames: grid.frames, tokens_per_frame: grid.tokens_per_frame(), length: grid.length }
}

/// The partition of the stream that reads.
pub fn partition(config: &Config, grid: &Grid, reader: Stream) -> Partition {
    match reader {
        Stream::Video => audio_windows(config, grid),
        Stream::Audio => nearest_frame(grid),
    }
}

/// How far the paper's windows are from the middle of their frames, at worst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Distance in audio tokens.
    pub tokens: f64,
    /// Distance in milliseconds of the video: a latent frame lasts 250 ms.
    pub milliseconds: f64,
}

/// The drift of the paper's window centre against the proportional one, where it is worth a warning: above a sixth
/// of a window. `None` otherwise, and where the configuration centres proportionally or the clip does not fit it.
pub fn drift(config: &Config, clip: &Clip) -> Option<Drift> {
    if config.window_center != WindowCenter::Paper {
        return None;
    }
    let grid = clip.grid(config).ok()?;
    let c = tokens_per_frame(grid.frames, grid.length);
    let per_frame = grid.length as f64 / grid.frames as f64;
    let distance = |i: usize| ((i as f64 + 0.5) * per_frame - (c / 2 + c * i) as f64).abs();
    // The distance is linear in the frame, so that it is largest at one of the ends.
    let tokens = distance(0).max(distance(grid.frames - 1));
    let milliseconds = tokens * clip.frames as f64 * MS_PER_LATENT_FRAME / grid.length as f64;
    let window = config.window_frames as f64 * c as f64;
    (tokens > window / 6.0).then_some(Drift { tokens, milliseconds })
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "audio windows are up to {:.1} tokens ({:.0} ms) off their frames; window_center = \"proportional\" keeps \
             them centred",
            self.tokens, self.milliseconds
        )
    }
}
