//! Clips of the bounce world in the files that models read and write.
//!
//! A stream is `sample.<stream>` as `ccl sample` writes it, or `<stream>` as inputs have it, with a batch or without. What was sampled and
//! what was given may lie in two files: the first that has a stream is taken.

use std::path::{Path, PathBuf};

use ccl_data::{BatchOptions, Batches, Dataset, Source};
use ccl_runtime::HostTensor;
use ccl_runtime::tensorfile::TensorFile;
use ccl_world::space::{AUDIO_CHANNELS, FRAMES, TEXT_DIM, TEXT_TOKENS, VIDEO_SIZE};
use ccl_world::tensors::{TEXT_SHAPE, VIDEO_SHAPE};
use ccl_world::{Prompt, WorldError};

use crate::error::Error;

/// Stacked latents and text features of some clips, each there or not.
#[derive(Clone, Debug, Default)]
pub struct Clips {
    /// Video latents.
    pub video: Option<Stream>,
    /// Audio latents.
    pub audio: Option<Stream>,
    /// Text features.
    pub text: Option<Stream>,
}

/// One stream of some clips.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Where it comes from, for messages.
    pub place: String,
    /// Number of clips.
    pub clips: usize,
    /// Their values, one clip after the other.
    pub data: Vec<f32>,
}

impl Stream {
    /// The values of one clip.
    pub fn clip(&self, index: usize) -> &[f32] {
        let size = self.data.len() / self.clips;
        &self.data[index * size..(index + 1) * size]
    }
}

impl Clips {
    /// Reads clips from safetensors files.
    ///
    /// # Errors
    /// When a file cannot be read, a stream has another shape than in this world, or streams have different numbers of clips.
    pub fn read(files: &[PathBuf]) -> Result<Self, Error> {
        let files: Result<Vec<TensorFile>, _> = files.iter().map(|f| TensorFile::open(f)).collect();
        let files = files?;
        let find = |stream: &str| -> Result<Option<Stream>, Error> {
            for file in &files {
                for name in [format!("sample.{stream}"), stream.to_string()] {
                    if file.tensors().contains_key(&name) {
                        let place = file.path().display().to_string();
                        return checked(&place, &name, stream, &file.read(&name)?).map(Some);
                    }
                }
            }
            Ok(None)
        };
        let clips = Self { video: find("video")?, audio: find("audio")?, text: find("text")? };
        clips.count()?;
        Ok(clips)
    }

    /// Reads clips from a dataset: `count` of them, from number `first` on; all that follow where `None`.
    ///
    /// # Errors
    /// When the dataset cannot be opened or has not so many clips, or they are not of this world.
    pub fn of_dataset(dir: &Path, first: usize, count: Option<usize>) -> Result<Self, Error> {
        let data = Dataset::open(dir)?;
        let place = dir.display().to_string();
        let left = data.len().saturating_sub(first);
        let count = count.unwrap_or(left);
        if count == 0 || count > left {
            let problem = format!("has {} samples; there are no {} from {first} on", data.len(), count.max(1));
            return Err(Error::Usage(format!("{place}: {problem}")));
        }
        let tensors = samples(data, first, count)?;
        let find = |stream: &str| match tensors.get(stream) {
            Some(tensor) => checked(&place, stream, stream, tensor).map(Some),
            None => Ok(None),
        };
        Ok(Self { video: find("video")?, audio: find("audio")?, text: find("text")? })
    }

    /// The streams that are missing here, from other clips.
    ///
    /// # Errors
    /// When the numbers of clips differ.
    pub fn or(self, other: Self) -> Result<Self, Error> {
        let clips = Self {
            video: self.video.or(other.video),
            audio: self.audio.or(other.audio),
            text: self.text.or(other.text),
        };
        clips.count()?;
        Ok(clips)
    }

    /// The number of clips; 0 where there is no stream.
    ///
    /// # Errors
    /// When streams have different numbers.
    pub fn count(&self) -> Result<usize, Error> {
        let streams = [("video", &self.video), ("audio", &self.audio), ("text", &self.text)];
        let mut there = streams.into_iter().filter_map(|(name, s)| Some((name, s.as_ref()?)));
        let Some((first, stream)) = there.next() else { return Ok(0) };
        match there.find(|(_, s)| s.clips != stream.clips) {
            None => Ok(stream.clips),
            Some((name, s)) => Err(Error::Failed(format!(
                "{}: `{name}` has a batch of {}, `{first}` of {} ({})",
                s.place, s.clips, stream.clips, stream.place
            ))),
        }
    }

    /// The prompts of the clips; an empty list where there is no text.
    ///
    /// # Errors
    /// When the text is none of this world.
    pub fn prompts(&self) -> Result<Vec<Prompt>, Error> {
        let Some(text) = &self.text else { return Ok(Vec::new()) };
        let prompts = text.data.chunks_exact(TEXT_TOKENS * TEXT_DIM).map(Prompt::of_text);
        prompts.collect::<Result<_, _>>().map_err(|source| Error::World { place: text.place.clone(), source })
    }
}

/// Samples of a dataset in order, stacked.
///
/// # Errors
/// When a sample is broken.
pub fn samples(data: Dataset, first: usize, count: usize) -> Result<ccl_runtime::session::Tensors, Error> {
    let options = BatchOptions {
        shuffle: false,
        prefetch: 0,
        samples: Some(first..first + count),
        ..BatchOptions::new(count, 0)
    };
    let batch = Batches::new(std::sync::Arc::new(data), options)?.batch_at(0)?;
    Ok(batch.tensors)
}

/// A tensor as a stream of this world.
fn checked(place: &str, name: &str, stream: &str, tensor: &HostTensor) -> Result<Stream, Error> {
    let wrong = |want: &str| Error::World {
        place: place.into(),
        source: WorldError::tensor(name, format!("has shape {:?}, the bounce world has {want}", tensor.shape)),
    };
    let shape = tensor.shape.as_slice();
    let (rank, fits, want): (usize, fn(&[usize]) -> bool, String) = match stream {
        "video" => (4, |s| s == VIDEO_SHAPE, format!("{VIDEO_SHAPE:?}, or [B, ...]")),
        "audio" => (
            2,
            |s| s[0] == AUDIO_CHANNELS && s[1] >= FRAMES,
            format!("[{AUDIO_CHANNELS}, L] with L from {FRAMES}, or [B, ...]"),
        ),
        _ => (2, |s| s == TEXT_SHAPE, format!("{TEXT_SHAPE:?}, or [B, ...]")),
    };
    let (clips, each) = match shape.len().checked_sub(rank) {
        Some(0) => (1, shape),
        Some(1) => (shape[0], &shape[1..]),
        _ => return Err(wrong(&want)),
    };
    if clips == 0 || !fits(each) {
        return Err(wrong(&want));
    }
    let data = tensor.as_f32().ok_or_else(|| Error::Failed(format!("{place}: `{name}` holds whole numbers")))?;
    debug_assert!(stream != "video" || data.len() == clips * VIDEO_SIZE);
    Ok(Stream { place: place.into(), clips, data: data.to_vec() })
}
