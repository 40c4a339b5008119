//! A model directory: `config.json`, and weights in any of the accepted dialects (SPEC 7).

use std::io::Read;
use std::path::{Path, PathBuf};

use ccl_ir::DType;
use ccl_ir::plan::WeightsFrom;
use ccl_model::names::{Detected, Dialect, canonical, detect};
use ccl_model::{Config, Stream, TensorSpec, tensors};
use ccl_runtime::checkpoint::Directory;
use ccl_runtime::header::FileDType;
use ccl_runtime::weights::{ExpectedTensor, Init, WeightStore};

use crate::error::Error;

/// Largest `config.json` that is read.
const MAX_CONFIG: u64 = 1 << 20;
/// Seed of tensors that a checkpoint does not hold, unless the user gives another.
pub const FRESH_SEED: u64 = 0;

/// A model directory with a configuration that has been checked.
#[derive(Debug)]
pub struct ModelDir {
    /// The directory as given.
    pub path: PathBuf,
    /// The configuration, defaults filled in.
    pub config: Config,
}

impl ModelDir {
    /// Reads and checks `config.json`. Weights are looked at later, and only if they are needed.
    ///
    /// # Errors
    /// When the directory or the file cannot be read or the configuration is wrong.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            return Err(Error::Failed(format!("{}: is no directory; --model takes a model directory", path.display())));
        }
        Ok(Self { path: path.into(), config: read_config(&path.join("config.json"))? })
    }

    /// The weights' files.
    ///
    /// # Errors
    /// When there are none or they are damaged.
    pub fn files(&self) -> Result<Directory, Error> {
        Ok(Directory::open(&self.path)?)
    }

    /// Whether the directory has any safetensors file that could hold weights.
    pub fn has_weights(&self) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return false };
        entries.flatten().any(|e| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            let beside = ["inputs.safetensors", "expected.safetensors"].contains(&name.as_ref());
            (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) && !beside
        })
    }

    /// The weights under their canonical names, and what of them is fresh.
    ///
    /// # Errors
    /// When a tensor is missing, surplus or mis-shaped, or the files are damaged.
    pub fn weights(&self, files: &Directory, seed: u64) -> Result<WeightStore, Error> {
        let expected = expected(&self.config);
        let Detected { dialect, stream } = self.detect(files)?;
        let stream_of_file = stream.unwrap_or(Stream::Video);
        let rename = |name: &str| canonical(dialect, stream_of_file, name);
        // A single-stream checkpoint has neither the other stream nor any CCA.
        let prefix = format!("{stream_of_file}.");
        let fresh =
            |name: &str| dialect != Dialect::Canonical && (!name.starts_with(&prefix) || name.contains(".cca."));
        Ok(WeightStore::from_directory(files, &expected, &rename, &fresh, seed)?)
    }

    /// Random weights of this configuration that keep every path alive, for benchmarks.
    pub fn random_weights(&self, seed: u64) -> WeightStore {
        WeightStore::random(&expected(&self.config), seed)
    }

    /// How the checkpoint stores its matrices: half where all of them are, else f32.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn stored_dtype(&self, files: &Directory) -> Result<DType, Error> {
        let stored: Vec<FileDType> =
            files.tensors().values().filter(|(_, e)| e.shape.len() >= 2).map(|(_, e)| e.dtype).collect();
        let all = |d| !stored.is_empty() && stored.iter().all(|&s| s == d);
        Ok(if all(FileDType::Bf16) {
            DType::Bf16
        } else if all(FileDType::F16) {
            DType::F16
        } else {
            DType::F32
        })
    }

    /// Where the weights are, for a plan that is written to `plan`.
    ///
    /// # Errors
    /// When the directory's own path cannot be found out.
    pub fn weights_from(&self, files: &Directory, plan: &Path) -> Result<WeightsFrom, Error> {
        let directory = std::fs::canonicalize(&self.path).map_err(|e| Error::read(&self.path, &e))?;
        let home = plan.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let home = std::fs::canonicalize(home).map_err(|e| Error::read(home, &e))?;
        let relative = relative(&directory, &home).map(|p| p.display().to_string()).unwrap_or_default();
        Ok(WeightsFrom { directory: directory.display().to_string(), relative, fingerprint: files.fingerprint() })
    }

    fn detect(&self, files: &Directory) -> Result<Detected, Error> {
        let names = files.tensors().iter().map(|(name, (_, e))| (name.as_str(), e.shape.as_slice()));
        detect(names).map_err(|e| Error::Failed(format!("{}: {e}", self.path.display())))
    }
}

/// Reads and checks a `config.json`.
///
/// # Errors
/// When the file cannot be read or the configuration is wrong.
pub fn read_config(file: &Path) -> Result<Config, Error> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(MAX_CONFIG + 1).read_to_string(&mut text))
        .map_err(|e| Error::read(file, &e))?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(Error::Failed(format!("{}: larger than 1 MiB; this is no model configuration", file.display())));
    }
    Config::from_json(&text).map_err(|source| Error::Model { place: file.display().to_string(), source })
}

/// Every tensor of a model, with how it starts where no checkpoint gives it.
pub fn expected(config: &Config) -> Vec<ExpectedTensor> {
    let init = |t: &TensorSpec| match t.init {
        ccl_model::Init::Zeros => Init::Zeros,
        ccl_model::Init::Ones => Init::Ones,
        ccl_model::Init::Normal { std } => Init::Normal { std: std as f32 },
        ccl_model::Init::XavierUniform { fan_in, fan_out } => Init::XavierUniform { fan_in, fan_out },
    };
    tensors(config).into_iter().map(|t| ExpectedTensor { init: init(&t), name: t.name, shape: t.shape }).collect()
}

/// The path from `home` to `target`, both canonical.
fn relative(target: &Path, home: &Path) -> Option<PathBuf> {
    let common = target.components().zip(home.components()).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return None;
    }
    let up = home.components().skip(common).map(|_| "..");
    let down = target.components().skip(common);
    let mut out: PathBuf = up.collect();
    out.extend(down);
    Some(if out.as_os_str().is_empty() { PathBuf::from(".") } else { out })
}

#[cfg(test)]
mod tests {
    use super::relative;
    use std::path::{Path, PathBuf};

    #[test]
    fn relative_paths() {
        let from = |t: &str, h: &str| relative(Path::new(t), Path::new(h)).unwrap();
        assert_eq!(from("/a/b/model", "/a/b"), PathBuf::from("model"));
        assert_eq!(from("/a/b/model", "/a/c/d"), PathBuf::from("../../b/model"));
        assert_eq!(from("/a/b", "/a/b"), PathBuf::from("."));
    }
}
