//! `config.json`: the sizes of a model.

use ccl_ir::partition::Edge;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ModelError;
use crate::fields::Fields;
use crate::foreign;
use crate::stream::Stream;
use crate::tensors::parameters;

/// Most channels, features or tokens that a field may ask for.
const MAX_SIZE: usize = 1 << 20;
/// Most blocks.
const MAX_LAYERS: usize = 1000;
/// Most frames of a window.
const MAX_WINDOW: usize = 1 << 16;
/// Most parameters of a model; keeps every product of sizes far from overflow.
const MAX_PARAMETERS: u64 = 1 << 44;

/// Sizes of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamConfig {
    /// Width `d`.
    pub dim: usize,
    /// Width of the feed-forward's hidden layer.
    pub ffn_dim: usize,
    /// Attention heads; `dim` is a multiple.
    pub heads: usize,
    /// Latent channels that go in. Above `out_channels` where a video stream takes conditions as channels.
    pub in_channels: usize,
    /// Latent channels that come out.
    pub out_channels: usize,
    /// Patch sizes: (frames, rows, columns) for video, (tokens) for audio.
    pub patch: Vec<usize>,
}

impl StreamConfig {
    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Latent positions of one patch.
    pub fn patch_volume(&self) -> usize {
        self.patch.iter().product()
    }

    pub(crate) const KNOWN: [&str; 6] = ["dim", "ffn_dim", "heads", "in_channels", "out_channels", "patch"];

    fn read(path: &str, value: &Value) -> Result<Self, ModelError> {
        let f = Fields::new(path, value, &Self::KNOWN)?;
        Ok(Self {
            dim: f.size("dim", None)?,
            ffn_dim: f.size("ffn_dim", None)?,
            heads: f.size("heads", None)?,
            in_channels: f.size("in_channels", None)?,
            out_channels: f.size("out_channels", None)?,
            patch: f.sizes("patch", None)?,
        })
    }

    fn check(&self, stream: Stream) -> Result<(), ModelError> {
        let field = |name: &str| format!("{stream}.{name}");
        in_range(&field("dim"), self.dim, MAX_SIZE)?;
        in_range(&field("ffn_dim"), self.ffn_dim, MAX_SIZE)?;
        in_range(&field("heads"), self.heads, MAX_SIZE)?;
        in_range(&field("in_channels"), self.in_channels, MAX_SIZE)?;
        in_range(&field("out_channels"), self.out_channels, MAX_SIZE)?;
        if !self.dim.is_multiple_of(self.heads) {
            let problem = format!("must be a multiple of the {} heads, is {}", self.heads, self.dim);
            return Err(ModelError::field(field("dim"), problem));
        }
        if !self.head_dim().is_multiple_of(2) {
            let problem = format!("gives heads of {} channels: RoPE needs an even number", self.head_dim());
            return Err(ModelError::field(field("dim"), problem));
        }
        let rank = if stream == Stream::Video { 3 } else { 1 };
        if self.patch.len() != rank {
            let problem = format!("must have {rank} sizes, has {}", self.patch.len());
            return Err(ModelError::field(field("patch"), problem));
        }
        for &p in &self.patch {
            in_range(&field("patch"), p, 64)?;
        }
        match stream {
            Stream::Video if self.in_channels < self.out_channels => {
                let problem = format!("must be at least out_channels ({}), is {}", self.out_channels, self.in_channels);
                Err(ModelError::field(field("in_channels"), problem))
            }
            Stream::Audio if self.in_channels != self.out_channels => {
                let problem = format!("must equal out_channels ({}), is {}", self.out_channels, self.in_channels);
                Err(ModelError::field(field("in_channels"), problem))
            }
            _ => Ok(()),
        }
    }
}

/// Where the windows of audio tokens are centred (SPEC 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowCenter {
    /// `floor(c/2) + c i`, the paper's formula; drifts where `L/T` is no whole number.
    Paper,
    /// `floor((i + 1/2) L / T)`; does not drift.
    Proportional,
}

/// How the streams read each other. What the paper compares against, for comparisons (SPEC 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossAttention {
    /// CCA: windows and learned context tokens; the task routes keys.
    Context,
    /// Windows without context tokens; a stream that sees no other has no cross attention (a binary gate).
    Windowed,
    /// All tokens of the other stream, audio token `j` at temporal position `j`; the same gate.
    Dense,
}

impl CrossAttention {
    /// Every form.
    pub const ALL: [CrossAttention; 3] = [CrossAttention::Context, CrossAttention::Windowed, CrossAttention::Dense];

    /// Name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            CrossAttention::Context => "context",
            CrossAttention::Windowed => "windowed",
            CrossAttention::Dense => "dense",
        }
    }
}

/// Sizes of a model. Serde reads it as [`Config::from_json`] does, with the same checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Config {
    /// The video stream.
    pub video: StreamConfig,
    /// The audio stream.
    pub audio: StreamConfig,
    /// Blocks, the same number in both streams.
    pub layers: usize,
    /// Width of the text features.
    pub text_dim: usize,
    /// Number of sinusoids of the time, even.
    pub freq_dim: usize,
    /// Added to variances and mean squares in norms.
    pub eps: f64,
    /// Base of RoPE's frequencies.
    pub rope_theta: f64,
    /// Width of the image features; 0: the model takes no image.
    pub image_dim: usize,
    /// Learnable context tokens of each audio-to-video attention (`n_a`).
    pub audio_context_tokens: usize,
    /// Learnable context tokens of each video-to-audio attention (`n_v`).
    pub video_context_tokens: usize,
    /// Window size in frames: `s = window_frames * max(1, floor(L / T))` audio tokens.
    pub window_frames: usize,
    /// Where windows are centred.
    pub window_center: WindowCenter,
    /// What happens to windows at the clip's ends.
    pub window_edge: Edge,
    /// How the streams read each other.
    pub cross_attention: CrossAttention,
}

impl Config {
    /// Epsilon of the image embedding's layer norms (SPEC 2.4), whatever `eps` is.
    pub const IMAGE_EPS: f64 = 1e-5;

    const KNOWN: [&str; 14] = [
        "video",
        "audio",
        "layers",
        "text_dim",
        "freq_dim",
        "eps",
        "rope_theta",
        "image_dim",
        "audio_context_tokens",
        "video_context_tokens",
        "window_frames",
        "window_center",
        "window_edge",
        "cross_attention",
    ];

    /// A model of these streams and defaults for the rest.
    pub fn new(video: StreamConfig, audio: StreamConfig, layers: usize) -> Self {
        Self {
            video,
            audio,
            layers,
            text_dim: 4096,
            freq_dim: 256,
            eps: 1e-6,
            rope_theta: 10000.0,
            image_dim: 0,
            audio_context_tokens: 8,
            video_context_tokens: 128,
            window_frames: 3,
            window_center: WindowCenter::Paper,
            window_edge: Edge::Mask,
            cross_attention: CrossAttention::Context,
        }
    }

    /// Reads and checks a `config.json`: our own form, or one of a Wan2.1 video model, diffusers' or original.
    ///
    /// From a Wan2.1 configuration comes the video stream; the audio stream is then 1536 wide with 12 heads, a
    /// feed-forward of 8960 and 20 channels, and the rest has its default.
    ///
    /// # Errors
    /// When the text is no JSON, or a field is unknown, missing, of the wrong kind, out of range, in contradiction
    /// to another, or (in a Wan2.1 configuration) asks for something that CCL does not have.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        Self::from_value(&serde_json::from_str(text).map_err(|e| ModelError::Json(e.to_string()))?)
    }

    fn from_value(value: &Value) -> Result<Self, ModelError> {
        let config = match foreign::read(value) {
            Some(config) => config?,
            None => Self::read(value)?,
        };
        config.check()?;
        Ok(config)
    }

    fn read(value: &Value) -> Result<Self, ModelError> {
        let f = Fields::new("", value, &Self::KNOWN)?;
        let video = StreamConfig::read("video", f.require("video")?)?;
        let audio = StreamConfig::read("audio", f.require("audio")?)?;
        let d = Self::new(video, audio, f.size("layers", None)?);
        let centers = [("paper", WindowCenter::Paper), ("proportional", WindowCenter::Proportional)];
        let edges = [("mask", Edge::Mask), ("shift", Edge::Shift), ("replicate", Edge::Replicate)];
        let forms = CrossAttention::ALL.map(|form| (form.name(), form));
        Ok(Self {
            text_dim: f.size("text_dim", Some(d.text_dim))?,
            freq_dim: f.size("freq_dim", Some(d.freq_dim))?,
            eps: f.number("eps", d.eps)?,
            rope_theta: f.number("rope_theta", d.rope_theta)?,
            image_dim: f.size("image_dim", Some(d.image_dim))?,
            audio_context_tokens: f.size("audio_context_tokens", Some(d.audio_context_tokens))?,
            video_context_tokens: f.size("video_context_tokens", Some(d.video_context_tokens))?,
            window_frames: f.size("window_frames", Some(d.window_frames))?,
            window_center: f.word("window_center", &centers, d.window_center)?,
            window_edge: f.word("window_edge", &edges, d.window_edge)?,
            cross_attention: f.word("cross_attention", &forms, d.cross_attention)?,
            ..d
        })
    }

    /// Checks every size, so that nothing built from this configuration overflows.
    ///
    /// # Errors
    /// When a field is out of range or contradicts another; the message names it.
    pub fn check(&self) -> Result<(), ModelError> {
        for stream in Stream::ALL {
            self.stream(stream).check(stream)?;
        }
        in_range("layers", self.layers, MAX_LAYERS)?;
        in_range("text_dim", self.text_dim, MAX_SIZE)?;
        in_range("freq_dim", self.freq_dim, MAX_SIZE)?;
        if !self.freq_dim.is_multiple_of(2) {
            let problem = format!("must be even (cosines and sines), is {}", self.freq_dim);
            return Err(ModelError::field("freq_dim", problem));
        }
        for (name, value) in [("eps", self.eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ModelError::field(name, format!("must be a number above zero, is {value}")));
            }
        }
        if self.image_dim > MAX_SIZE {
            let problem = format!("must be 0 (no image) to {MAX_SIZE}, is {}", self.image_dim);
            return Err(ModelError::field("image_dim", problem));
        }
        in_range("audio_context_tokens", self.audio_context_tokens, MAX_SIZE)?;
        in_range("video_context_tokens", self.video_context_tokens, MAX_SIZE)?;
        in_range("window_frames", self.window_frames, MAX_WINDOW)?;
        match parameters(self) {
            Some(n) if n <= MAX_PARAMETERS => Ok(()),
            _ => Err(ModelError::field(
                "layers",
                format!("and the widths give more than {MAX_PARAMETERS} parameters: make the model smaller"),
            )),
        }
    }

    /// The sizes of one stream.
    pub fn stream(&self, stream: Stream) -> &StreamConfig {
        match stream {
            Stream::Video => &self.video,
            Stream::Audio => &self.audio,
        }
    }

    /// Context tokens of the cross-modal attention of the stream that *reads* (`n_a` for video).
    pub fn context_tokens(&self, reader: Stream) -> usize {
        match reader {
            Stream::Video => self.audio_context_tokens,
            Stream::Audio => self.video_context_tokens,
        }
    }

    /// Channels of `video_condition`: what the video stream takes beyond the latent. 0: no such input.
    pub fn condition_channels(&self) -> usize {
        self.video.in_channels.saturating_sub(self.video.out_channels)
    }

    /// Number of parameters of a checked configuration.
    pub fn parameters(&self) -> u64 {
        parameters(self).unwrap_or(u64::MAX)
    }
}

impl TryFrom<Value> for Config {
    type Error = ModelError;

    fn try_from(value: Value) -> Result<Self, ModelError> {
        Self::from_value(&value)
    }
}

fn in_range(field: &str, value: usize, most: usize) -> Result<(), ModelError> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(ModelError::field(field, format!("must be 1 to {most}, is {value}")))
}
