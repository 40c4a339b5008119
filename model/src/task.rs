//! Tasks: what is generated from what (SPEC 5).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, shown};
use crate::stream::Stream;

/// What is generated from what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Text (and image) to video.
    T2v,
    /// Text to audio.
    T2a,
    /// Text to both, each stream reading its context tokens only.
    T2av,
    /// Audio to video: the audio stream is a clean reference.
    A2v,
    /// Video to audio: the video stream is a clean reference.
    V2a,
    /// Text to both, each stream reading the other.
    Joint,
}

impl Task {
    /// All tasks.
    pub const ALL: [Task; 6] = [Task::T2v, Task::T2a, Task::T2av, Task::A2v, Task::V2a, Task::Joint];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Task::T2v => "t2v",
            Task::T2a => "t2a",
            Task::T2av => "t2av",
            Task::A2v => "a2v",
            Task::V2a => "v2a",
            Task::Joint => "joint",
        }
    }

    /// Whether the task generates a stream: its latent is noisy and its velocity is wanted.
    pub const fn produces(self, stream: Stream) -> bool {
        match stream {
            Stream::Video => matches!(self, Task::T2v | Task::T2av | Task::A2v | Task::Joint),
            Stream::Audio => matches!(self, Task::T2a | Task::T2av | Task::V2a | Task::Joint),
        }
    }

    /// Whether video is generated.
    pub const fn produces_video(self) -> bool {
        self.produces(Stream::Video)
    }

    /// Whether audio is generated.
    pub const fn produces_audio(self) -> bool {
        self.produces(Stream::Audio)
    }

    /// Whether the cross-modal attention of `reader` sees the other stream's tokens, beside its context.
    pub const fn sees_other(self, reader: Stream) -> bool {
        match reader {
            Stream::Video => matches!(self, Task::A2v | Task::Joint),
            Stream::Audio => matches!(self, Task::V2a | Task::Joint),
        }
    }

    /// The stream that is given clean, at time 0, and only read.
    pub const fn reference(self) -> Option<Stream> {
        match self {
            Task::A2v => Some(Stream::Audio),
            Task::V2a => Some(Stream::Video),
            _ => None,
        }
    }

    /// Whether anything of a stream is computed.
    pub const fn computes(self, stream: Stream) -> bool {
        self.produces(stream) || self.sees_other(stream.other())
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        Task::ALL.into_iter().find(|t| t.name() == text).ok_or_else(|| ModelError::Unknown {
            what: "task",
            name: shown(text),
            known: Task::ALL.map(Task::name).join(" "),
        })
    }
}
