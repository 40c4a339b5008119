//! The index of a dataset: `index.json`, read without trusting it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ccl_runtime::RuntimeError;
use ccl_runtime::checkpoint::is_plain_name;
use ccl_runtime::error::one_line;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::DataError;
use crate::schema::{Schema, TensorSpec};

/// The index's file name.
pub const INDEX: &str = "index.json";
/// What an index says that it is.
const FORMAT: &str = "ccl-dataset";
/// The version that this program writes and reads.
const VERSION: u32 = 1;
/// Longest index that is read.
const MAX_INDEX: u64 = 100_000_000;
/// Most samples: their numbers have eight digits.
pub const MAX_SAMPLES: usize = 100_000_000;

/// What is in a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Index {
    format: &'static str,
    version: u32,
    /// Number of samples.
    pub samples: usize,
    /// The tensors of every sample.
    #[serde(rename = "tensors")]
    pub schema: Schema,
    /// The shards, in the order of their samples.
    pub shards: Vec<Shard>,
    /// What the maker of the dataset says of it; kept and shown, never interpreted.
    pub about: Map<String, Value>,
}

/// One file of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its name in the dataset's directory.
    pub file: String,
    /// Number of its samples, at least 1.
    pub samples: usize,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes in hexadecimal.
    pub blake3: String,
}

/// The index as it is in the file, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: String,
    version: u32,
    samples: usize,
    tensors: BTreeMap<String, TensorSpec>,
    shards: Vec<Shard>,
    #[serde(default)]
    about: Map<String, Value>,
}

impl Index {
    /// An index over these shards.
    pub fn new(schema: Schema, shards: Vec<Shard>, about: Map<String, Value>) -> Self {
        let samples = shards.iter().map(|s| s.samples).sum();
        Self { format: FORMAT, version: VERSION, samples, schema, shards, about }
    }

    /// Reads and checks the index of the dataset in `dir`.
    ///
    /// # Errors
    /// When there is none, it is no index of a dataset or of another version, or contradicts itself.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(INDEX);
        let kind = fs::metadata(dir).map_err(|e| RuntimeError::io(dir, "read", e))?;
        if !kind.is_dir() {
            return Err(DataError::dataset(dir, "is no directory; name the directory of a dataset"));
        }
        let kind = match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataError::dataset(dir, format!("is no dataset: it has no {INDEX}")));
            }
            other => other.map_err(|e| RuntimeError::io(&path, "read", e))?,
        };
        if !kind.is_file() || kind.len() > MAX_INDEX {
            return Err(DataError::dataset(&path, "is no index of a dataset: no regular file, or too long"));
        }
        let text = fs::read(&path).map_err(|e| RuntimeError::io(&path, "read", e))?;
        Self::parse(&text).map_err(|problem| DataError::dataset(&path, problem))
    }

    /// Reads and checks an index's text; the error is what is wrong with it.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(text).map_err(|e| format!("bad index: {}", one_line(&e.to_string())))?;
        if raw.format != FORMAT {
            return Err(format!("is no index of a dataset: its format is `{}`, not `{FORMAT}`", one_line(&raw.format)));
        }
        if raw.version != VERSION {
            return Err(format!("has version {}, this program reads version {VERSION}", raw.version));
        }
        let schema = Schema::new(raw.tensors).map_err(|e| one_line(&e.to_string()))?;
        let mut samples = 0usize;
        let mut names = std::collections::BTreeSet::new();
        for shard in &raw.shards {
            let shown = one_line(&shard.file);
            if !is_plain_name(&shard.file) {
                return Err(format!("names the shard `{shown}`; a shard is a plain file name"));
            }
            if !names.insert(&shard.file) {
                return Err(format!("names the shard `{shown}` twice"));
            }
            if shard.samples == 0 {
                return Err(format!("says that the shard `{shown}` has no samples; leave it out"));
            }
            samples = samples.saturating_add(shard.samples);
        }
        if samples != raw.samples {
            return Err(format!("says {} samples, but its shards have {samples} together", raw.samples));
        }
        if samples == 0 || samples > MAX_SAMPLES {
            return Err(format!("has {samples} samples, 1 to {MAX_SAMPLES} are allowed"));
        }
        Ok(Self::new(schema, raw.shards, raw.about))
    }

    /// The index as text.
    ///
    /// # Errors
    /// Never for what [`Index::new`] makes, as far as known; the error says what could not be written.
    pub fn to_json(&self) -> Result<String, DataError> {
        let text = serde_json::to_string_pretty(self).map_err(|e| DataError::option(INDEX, e.to_string()))?;
        Ok(text + "\n")
    }

    /// The number of the first sample of every shard, and after the last one the number of samples.
    pub fn starts(&self) -> Vec<usize> {
        let mut starts = vec![0];
        starts.extend(self.shards.iter().scan(0, |next, shard| {
            *next += shard.samples;
            Some(*next)
        }));
        starts
    }
}

/// The name of a sample's tensor in its shard.
pub fn tensor_name(sample: usize, tensor: &str) -> String {
    format!("{sample:08}.{tensor}")
}

/// The sample and the tensor that a name in a shard means.
pub fn split_name(name: &str) -> Option<(usize, &str)> {
    let (digits, tensor) = name.split_once('.')?;
    let eight = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit());
    eight.then(|| digits.parse().ok()).flatten().map(|sample| (sample, tensor))
}
