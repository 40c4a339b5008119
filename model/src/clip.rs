//! Latent sizes of a clip and the token grid that patching makes of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{ModelError, shown};
use crate::stream::Stream;

/// Largest latent size in any direction.
const MAX_SIZE: usize = 1 << 20;
/// Most latent positions of the video, and most pairs of a frame and an audio latent.
const MAX_PRODUCT: usize = 1 << 32;

/// Latent sizes of a clip, written `TxHxW@L`: `21x44x80@158` is 81 frames of 352x640 with 5.06 s of sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Clip {
    /// Latent frames `T`. Also given where only audio is generated: it fixes the clip's time.
    pub frames: usize,
    /// Latent rows `H`.
    pub height: usize,
    /// Latent columns `W`.
    pub width: usize,
    /// Audio latents `L`.
    pub audio: usize,
}

/// Tokens of a clip in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Video tokens along time.
    pub frames: usize,
    /// Video tokens from top to bottom.
    pub rows: usize,
    /// Video tokens from left to right.
    pub columns: usize,
    /// Audio tokens.
    pub length: usize,
}

impl Grid {
    /// Video tokens of one frame.
    pub fn tokens_per_frame(&self) -> usize {
        self.rows * self.columns
    }

    /// Tokens of a stream.
    pub fn tokens(&self, stream: Stream) -> usize {
        match stream {
            Stream::Video => self.frames * self.rows * self.columns,
            Stream::Audio => self.length,
        }
    }

    /// Tokens of a stream along each of its dimensions.
    pub fn sizes(&self, stream: Stream) -> Vec<usize> {
        match stream {
            Stream::Video => vec![self.frames, self.rows, self.columns],
            Stream::Audio => vec![self.length],
        }
    }
}

impl Clip {
    /// Latent sizes of a stream along each of its dimensions.
    pub fn sizes(&self, stream: Stream) -> Vec<usize> {
        match stream {
            Stream::Video => vec![self.frames, self.height, self.width],
            Stream::Audio => vec![self.audio],
        }
    }

    /// Checks that every size is 1 to 2^20 and that their products are not beyond reason.
    ///
    /// # Errors
    /// When they are; the message names the size.
    pub fn check(&self) -> Result<(), ModelError> {
        for (name, n) in
            [("frames", self.frames), ("rows", self.height), ("columns", self.width), ("audio latents", self.audio)]
        {
            if !(1..=MAX_SIZE).contains(&n) {
                return Err(self.error(format!("{name} must be 1 to {MAX_SIZE}, is {n}")));
            }
        }
        // Three factors of at most 2^20 cannot overflow 64 bits.
        let video = self.frames as u64 * self.height as u64 * self.width as u64;
        let pairs = self.frames as u64 * self.audio as u64;
        for (what, n) in [("latent video positions", video), ("pairs of a frame and an audio latent", pairs)] {
            if n > MAX_PRODUCT as u64 {
                return Err(self.error(format!("has {n} {what}, more than {MAX_PRODUCT}")));
            }
        }
        Ok(())
    }

    /// The token grid of this clip in a model.
    ///
    /// # Errors
    /// When a size is out of range or no multiple of the model's patch; the message names both.
    pub fn grid(&self, config: &Config) -> Result<Grid, ModelError> {
        self.check()?;
        let cut = |stream: Stream, axis: usize, name: &str, size: usize| -> Result<usize, ModelError> {
            let patch = config.stream(stream).patch.get(axis).copied().unwrap_or(0);
            if patch == 0 || !size.is_multiple_of(patch) {
                return Err(self.error(format!("{name} ({size}) must be a multiple of the {stream} patch ({patch})")));
            }
            Ok(size / patch)
        };
        Ok(Grid {
            frames: cut(Stream::Video, 0, "frames", self.frames)?,
            rows: cut(Stream::Video, 1, "rows", self.height)?,
            columns: cut(Stream::Video, 2, "columns", self.width)?,
            length: cut(Stream::Audio, 0, "audio latents", self.audio)?,
        })
    }

    fn error(&self, problem: String) -> ModelError {
        ModelError::Clip { clip: self.to_string(), problem }
    }
}

impl fmt::Display for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}@{}", self.frames, self.height, self.width, self.audio)
    }
}

impl FromStr for Clip {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        // Only digits: `parse` alone would also take a sign.
        let size = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<usize>().ok()).flatten();
        let parse = || {
            let (video, audio) = text.split_once('@')?;
            let mut sizes = video.split('x').map(size);
            let mut next = || sizes.next().flatten();
            let (frames, height, width) = (next()?, next()?, next()?);
            sizes.next().is_none().then_some(())?;
            Some(Clip { frames, height, width, audio: size(audio)? })
        };
        let clip = parse().ok_or_else(|| ModelError::Clip {
            clip: shown(text),
            problem: "must be latent sizes written TxHxW@L, such as 21x44x80@158".into(),
        })?;
        clip.check()?;
        Ok(clip)
    }
}

impl TryFrom<String> for Clip {
    type Error = ModelError;

    fn try_from(text: String) -> Result<Self, ModelError> {
        text.parse()
    }
}

impl From<Clip> for String {
    fn from(clip: Clip) -> String {
        clip.to_string()
    }
}
