//! Clips as named tensors, as datasets and models hold them, and back.
//!
//! A clip has `video`, `audio` and `text`, and what happens in it: `truth.impacts` (times in frames, -1 where there are fewer
//! than four), `truth.colour` and `truth.symbols`.

use std::collections::BTreeMap;

use ccl_data::{DataError, Sample, Schema, Source, TensorSpec};
use ccl_runtime::HostTensor;
use ccl_runtime::tensorfile::FileDType;

use crate::clip::{Clip, Truth, World};
use crate::error::WorldError;
use crate::prompt::{Colour, Prompt};
use crate::space::*;

/// Names of the tensors that say what happens in a clip.
pub const TRUTH: [&str; 3] = ["truth.colour", "truth.impacts", "truth.symbols"];

/// Shape of a video latent.
pub const VIDEO_SHAPE: [usize; 4] = [VIDEO_CHANNELS, FRAMES, ROWS, COLUMNS];
/// Shape of text features.
pub const TEXT_SHAPE: [usize; 2] = [TEXT_TOKENS, TEXT_DIM];

/// What a clip's tensors are, with `rate` audio tokens.
///
/// # Errors
/// Never for a rate that clips have.
pub(crate) fn schema(rate: usize) -> Result<Schema, WorldError> {
    let spec = |dtype, shape: &[usize]| TensorSpec::new(dtype, shape);
    let tensors = BTreeMap::from([
        ("video".to_string(), spec(FileDType::F32, &VIDEO_SHAPE)),
        ("audio".to_string(), spec(FileDType::F32, &[AUDIO_CHANNELS, rate])),
        ("text".to_string(), spec(FileDType::F32, &TEXT_SHAPE)),
        ("truth.impacts".to_string(), spec(FileDType::F32, &[IMPACTS.1])),
        ("truth.colour".to_string(), spec(FileDType::I32, &[])),
        ("truth.symbols".to_string(), spec(FileDType::I32, &[SYMBOLS])),
    ]);
    Schema::new(tensors).map_err(|e| WorldError::option("rate", e.to_string()))
}

impl Clip {
    /// The clip's tensors by name.
    pub fn tensors(&self) -> Sample {
        let rate = self.audio.len() / AUDIO_CHANNELS;
        let truth = &self.truth;
        let mut impacts: Vec<f32> = truth.impacts.iter().map(|&t| t as f32).collect();
        impacts.resize(IMPACTS.1, -1.0);
        let symbols = truth.prompt.symbols.iter().map(|&s| s as i32).collect();
        Sample::from([
            ("video".into(), HostTensor::f32(VIDEO_SHAPE, self.video.clone())),
            ("audio".into(), HostTensor::f32([AUDIO_CHANNELS, rate], self.audio.clone())),
            ("text".into(), HostTensor::f32(TEXT_SHAPE, self.text.clone())),
            ("truth.impacts".into(), HostTensor::f32([IMPACTS.1], impacts)),
            ("truth.colour".into(), HostTensor::i32([], vec![truth.prompt.colour.index() as i32])),
            ("truth.symbols".into(), HostTensor::i32([SYMBOLS], symbols)),
        ])
    }
}

impl Truth {
    /// What happens in a clip, from its tensors.
    ///
    /// # Errors
    /// When one is missing or is no truth of this world.
    pub fn of_tensors(tensors: &BTreeMap<String, HostTensor>) -> Result<Self, WorldError> {
        let get = |name: &str| tensors.get(name).ok_or_else(|| WorldError::tensor(name, "is missing"));
        let whole = |name: &str| -> Result<Vec<usize>, WorldError> {
            let bad = || WorldError::tensor(name, "is no truth of this world: whole numbers from 0 are needed");
            let values = get(name)?.as_i32().ok_or_else(bad)?;
            values.iter().map(|&v| usize::try_from(v).map_err(|_| bad())).collect()
        };
        let bad = |name: &str| WorldError::tensor(name, "is no truth of this world");
        let [colour] = whole("truth.colour")?[..] else { return Err(bad("truth.colour")) };
        let colour = Colour::ALL.get(colour).copied().ok_or_else(|| bad("truth.colour"))?;
        let symbols: [usize; SYMBOLS] = whole("truth.symbols")?.try_into().map_err(|_| bad("truth.symbols"))?;
        let prompt = Prompt::new(colour, symbols)?;
        let impacts = get("truth.impacts")?.as_f32().ok_or_else(|| bad("truth.impacts"))?;
        let impacts = impacts.iter().filter(|t| **t >= 0.0).map(|&t| f64::from(t)).collect();
        Ok(Self { prompt, impacts })
    }
}

impl Source for World {
    fn len(&self) -> usize {
        self.clips()
    }

    fn schema(&self) -> &Schema {
        self.schema_ref()
    }

    fn sample(&self, index: usize, names: &[String]) -> Result<Sample, DataError> {
        if index >= self.clips() {
            return Err(DataError::option(
                "sample",
                format!("there are {} clips, none with number {index}", self.clips()),
            ));
        }
        let mut tensors = self.clip(index).tensors();
        let get = |name: &String| match tensors.remove(name) {
            Some(tensor) => Ok((name.clone(), tensor)),
            None => Err(DataError::sample(index, name, "is not in this world")),
        };
        names.iter().map(get).collect()
    }
}
