//! The two streams of a model.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two transformers that run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Latent frames.
    Video,
    /// Latent sound.
    Audio,
}

impl Stream {
    /// Both, video first.
    pub const ALL: [Stream; 2] = [Stream::Video, Stream::Audio];

    /// Lower-case name: the first part of the names of the stream's tensors.
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Video => "video",
            Stream::Audio => "audio",
        }
    }

    /// The stream that this one's cross-modal attention reads.
    pub const fn other(self) -> Stream {
        match self {
            Stream::Video => Stream::Audio,
            Stream::Audio => Stream::Video,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
