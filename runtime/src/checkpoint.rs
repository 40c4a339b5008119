//! The safetensors files of a model directory.
//!
//! Which files hold the weights, first rule that applies:
//! 1. an index, `*.safetensors.index.json`: the shards that it names;
//! 2. one of `weights.safetensors`, `model.safetensors`, `diffusion_pytorch_model.safetensors`: that file;
//! 3. every `*.safetensors` except `inputs.safetensors` and `expected.safetensors`, which cases keep beside the weights.
//!
//! [`Directory::open`] promises that every tensor has one source, and with an index that the index and the shards agree.
//! It reads headers alone; data is mapped and loaded when it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{RuntimeError, one_line};
use crate::header::Pairs;
use crate::tensorfile::{TensorEntry, TensorFile};

/// Longest index that is read.
const MAX_INDEX: u64 = 100_000_000;
/// File names that mean "all weights" by themselves.
const WHOLE: [&str; 3] = ["weights.safetensors", "model.safetensors", "diffusion_pytorch_model.safetensors"];
/// File names that cases keep beside the weights.
const BESIDE: [&str; 2] = ["inputs.safetensors", "expected.safetensors"];
/// Bytes at each end of a tensor's data that the fingerprint reads.
const SAMPLE: usize = 4096;

/// The weights of a model directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: Vec<Arc<TensorFile>>,
    tensors: BTreeMap<String, (usize, TensorEntry)>,
}

impl Directory {
    /// Finds and opens the weights in a directory.
    ///
    /// # Errors
    /// When there are none or more than one index, an index and its shards disagree, a shard's name is not a plain file
    /// name, two files hold the same tensor, or a file cannot be opened ([`TensorFile::open`]).
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        let names = file_names(path)?;
        let indexes: Vec<&String> = names.iter().filter(|n| n.ends_with(".safetensors.index.json")).collect();
        match indexes.as_slice() {
            [] => Self::from_files(path, &weight_files(path, &names)?),
            [index] => Self::from_index(path, &path.join(index)),
            [a, b, ..] => Err(RuntimeError::file(
                path,
                format!("has two indexes, `{}` and `{}`; keep one", one_line(a), one_line(b)),
            )),
        }
    }

    /// The directory's path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open files, in order of name.
    pub fn files(&self) -> &[Arc<TensorFile>] {
        &self.files
    }

    /// Every tensor by its name in the files: index into [`Directory::files`], and the entry there.
    pub fn tensors(&self) -> &BTreeMap<String, (usize, TensorEntry)> {
        &self.tensors
    }

    /// BLAKE3, in hexadecimal, over each tensor's name, type, shape and the first and last 4 KiB of its data, in order of
    /// name. Independent of how the tensors are spread over files.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let number = |hasher: &mut blake3::Hasher, n: usize| {
            hasher.update(&(n as u64).to_le_bytes());
        };
        for (name, (file, entry)) in &self.tensors {
            number(&mut hasher, name.len());
            hasher.update(name.as_bytes());
            hasher.update(entry.dtype.name().as_bytes());
            number(&mut hasher, entry.shape.len());
            entry.shape.iter().for_each(|&d| number(&mut hasher, d));
            let data = self.files[*file].entry_bytes(entry);
            hasher.update(&data[..data.len().min(SAMPLE)]);
            hasher.update(&data[data.len().saturating_sub(SAMPLE)..]);
        }
        hasher.finalize().to_hex().to_string()
    }

    fn from_files(path: &Path, names: &[&str]) -> Result<Self, RuntimeError> {
        let mut found = Self { path: path.into(), files: Vec::new(), tensors: BTreeMap::new() };
        for name in names {
            let file = TensorFile::open(&path.join(name))?;
            for (tensor, entry) in file.tensors() {
                let source = (found.files.len(), entry.clone());
                if let Some((other, _)) = found.tensors.insert(tensor.clone(), source) {
                    let other = found.files[other].path().display();
                    return Err(RuntimeError::tensor(file.path(), tensor, format!("is in {other} too")));
                }
            }
            found.files.push(Arc::new(file));
        }
        Ok(found)
    }

    fn from_index(path: &Path, index: &Path) -> Result<Self, RuntimeError> {
        let weight_map = read_index(index)?;
        let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        for shard in &shards {
            if !is_plain_name(shard) {
                let text = format!("names the shard `{}`; a shard is a plain file name", one_line(shard));
                return Err(RuntimeError::file(index, text));
            }
            if !path.join(shard).exists() {
                return Err(RuntimeError::file(index, format!("names the shard `{shard}`, which does not exist")));
            }
        }
        let shards: Vec<&str> = shards.into_iter().collect();
        let found = Self::from_files(path, &shards)?;
        for (tensor, shard) in &weight_map {
            match found.tensors.get(tensor) {
                Some((file, _)) if shards[*file] == shard => {}
                Some((file, _)) => {
                    let text = format!("should be in `{shard}`, but is in `{}`", shards[*file]);
                    return Err(RuntimeError::tensor(index, tensor, text));
                }
                None => return Err(RuntimeError::tensor(index, tensor, format!("should be in `{shard}`, but is not"))),
            }
        }
        match found.tensors.iter().find(|(tensor, _)| !weight_map.contains_key(*tensor)) {
            Some((tensor, (file, _))) => {
                Err(RuntimeError::tensor(index, tensor, format!("is in `{}`, but not in the index", shards[*file])))
            }
            None => Ok(found),
        }
    }
}

/// Names of the directory's entries that may be weights, sorted. Hidden files are passed over.
fn file_names(path: &Path) -> Result<Vec<String>, RuntimeError> {
    let fail = |e| RuntimeError::io(path, "read", e);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        // A name that is no Unicode text cannot end with ours.
        if let Ok(name) = entry.map_err(fail)?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Rules 2 and 3 of this module.
fn weight_files<'a>(path: &Path, names: &'a [String]) -> Result<Vec<&'a str>, RuntimeError> {
    let all: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.ends_with(".safetensors")).collect();
    let whole: Vec<&str> = all.iter().copied().filter(|n| WHOLE.contains(n)).collect();
    match whole.as_slice() {
        [] => {}
        [_] => return Ok(whole),
        [a, b, ..] => {
            return Err(RuntimeError::file(path, format!("has both `{a}` and `{b}`, each a whole model; keep one")));
        }
    }
    let rest: Vec<&str> = all.into_iter().filter(|n| !BESIDE.contains(n)).collect();
    if rest.is_empty() {
        return Err(RuntimeError::file(path, "has no weights: no `*.safetensors` and no `*.safetensors.index.json`"));
    }
    Ok(rest)
}

#[derive(Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, RuntimeError> {
    let fail = |e| RuntimeError::io(path, "read", e);
    let kind = fs::metadata(path).map_err(fail)?;
    if !kind.is_file() {
        return Err(RuntimeError::file(path, "is no regular file; an index is needed"));
    }
    if kind.len() > MAX_INDEX {
        return Err(RuntimeError::file(path, format!("has {} bytes, too many for an index", kind.len())));
    }
    let text = fs::read(path).map_err(fail)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| RuntimeError::file(path, format!("bad index: {}", one_line(&e.to_string()))))?;
    let mut map = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        if map.contains_key(&tensor) {
            return Err(RuntimeError::tensor(path, &tensor, "is in the index twice"));
        }
        map.insert(tensor, shard);
    }
    if map.is_empty() {
        return Err(RuntimeError::file(path, "names no tensor"));
    }
    Ok(map)
}

/// Whether a name means a file in the directory itself on every system.
pub fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':'])
        && !name.chars().any(char::is_control)
}
