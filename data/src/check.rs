//! Looks at every byte of a dataset and names everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ccl_runtime::RuntimeError;
use ccl_runtime::error::one_line;
use ccl_runtime::header;
use ccl_runtime::tensorfile::TensorFile;
use serde::Serialize;

use crate::dataset::{header_problem, strangers};
use crate::error::DataError;
use crate::index::{Index, Shard, split_name, tensor_name};

/// Largest shard that is looked at again after it was found to be cut short.
const MAX_RECOVER: u64 = 4 << 30;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The shard's file name.
    pub shard: String,
    /// The sample, where it is one sample's problem.
    pub sample: Option<usize>,
    /// The tensor of the sample, where it is one tensor's problem.
    pub tensor: Option<String>,
    /// What is wrong, as the rest of a sentence.
    pub problem: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.sample, &self.tensor) {
            (Some(sample), Some(tensor)) => {
                write!(f, "{}: sample {sample}: `{tensor}` {}", self.shard, self.problem)
            }
            (Some(sample), None) => write!(f, "{}: sample {sample}: {}", self.shard, self.problem),
            _ => write!(f, "{}: {}", self.shard, self.problem),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Samples that the index names.
    pub samples: usize,
    /// Shards that the index names.
    pub shards: usize,
    /// Everything that is wrong, in order of shard and sample.
    pub problems: Vec<Problem>,
    /// Numbers of the samples that cannot be used, in order.
    pub broken: Vec<usize>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks the dataset in a directory: every shard is there and has the size and the bytes that the index says, and every sample has its
/// tensors with the right types and shapes and finite values. Goes on after a problem. `progress` is called before each shard with
/// how many are done.
///
/// # Errors
/// When the directory or the index itself cannot be used.
pub fn check(dir: &Path, progress: &mut dyn FnMut(usize)) -> Result<Report, DataError> {
    let index = Index::read(dir)?;
    let mut problems = Vec::new();
    let mut broken = BTreeSet::new();
    for (i, (shard, start)) in index.shards.iter().zip(index.starts()).enumerate() {
        progress(i);
        let mut look = Look { dir, index: &index, shard, start, problems: Vec::new(), broken: BTreeSet::new() };
        look.at_shard();
        problems.append(&mut look.problems);
        broken.append(&mut look.broken);
    }
    progress(index.shards.len());
    problems.append(&mut left_over(dir, &index)?);
    Ok(Report { samples: index.samples, shards: index.shards.len(), problems, broken: broken.into_iter().collect() })
}

/// Shards in the directory that the index does not name.
fn left_over(dir: &Path, index: &Index) -> Result<Vec<Problem>, DataError> {
    let fail = |e| RuntimeError::io(dir, "read", e);
    let known: BTreeSet<&str> = index.shards.iter().map(|s| s.file.as_str()).collect();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && !known.contains(name.as_str()) {
            names.insert(one_line(&name));
        }
    }
    let problem = |shard| Problem { shard, sample: None, tensor: None, problem: "is not in the index".into() };
    Ok(names.into_iter().map(problem).collect())
}

/// The look at one shard.
struct Look<'a> {
    dir: &'a Path,
    index: &'a Index,
    shard: &'a Shard,
    start: usize,
    problems: Vec<Problem>,
    broken: BTreeSet<usize>,
}

impl Look<'_> {
    fn at_shard(&mut self) {
        let path = self.dir.join(&self.shard.file);
        let file = match TensorFile::open(&path) {
            Ok(file) => file,
            Err(e) => return self.unreadable(&path, &problem_of(&e)),
        };
        for sample in self.start..self.start + self.shard.samples {
            for name in self.index.schema.tensors().keys() {
                let problem = header_problem(&file, &self.index.schema, sample, name)
                    .or_else(|| file.read(&tensor_name(sample, name)).err().map(|e| problem_of(&e)));
                if let Some(problem) = problem {
                    self.of_sample(sample, Some(name), problem);
                }
            }
        }
        let strange: Vec<(String, String)> = strangers(&file, &self.index.schema, self.start, self.shard.samples)
            .map(|(n, p)| (one_line(n), p))
            .collect();
        for (name, problem) in strange {
            self.of_shard(format!("tensor `{name}` {problem}"));
        }
        drop(file);
        self.bytes(&path);
    }

    /// Compares the bytes with the index. Where something else is wrong already, that says more.
    fn bytes(&mut self, path: &Path) {
        if !self.problems.is_empty() {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        match fs::File::open(path).and_then(|mut file| hasher.update_reader(&mut file).map(drop)) {
            Err(e) => self.of_shard(format!("cannot read: {e}")),
            Ok(()) if hasher.finalize().to_hex().as_str() == self.shard.blake3 => {}
            Ok(()) => {
                let (first, last) = (self.start, self.start + self.shard.samples - 1);
                self.of_shard(format!(
                    "its bytes are not those that were written (BLAKE3 differs), though every tensor can be read: values of \
                     samples {first} to {last} may have changed"
                ));
            }
        }
    }

    /// A shard that cannot be opened. Where it is only cut short, its header tells which samples are lost.
    fn unreadable(&mut self, path: &Path, problem: &str) {
        let Some((entries, has)) = self.recover(path) else {
            self.of_shard(problem.into());
            self.broken.extend(self.start..self.start + self.shard.samples);
            return;
        };
        self.of_shard(format!("is cut short: has {has} of {} bytes", self.shard.bytes));
        for sample in self.start..self.start + self.shard.samples {
            let parts = entries.iter().filter(|(name, _)| split_name(name).is_some_and(|(s, _)| s == sample));
            let lost: Vec<&str> =
                parts.filter(|(_, end)| **end > has).filter_map(|(name, _)| Some(split_name(name)?.1)).collect();
            if !lost.is_empty() {
                self.of_sample(sample, None, format!("{} cut off", lost.join(", ")));
            }
        }
    }

    /// Where the tensors of a file that is cut short would end, and how many bytes there are. `None` where more is wrong with it, or
    /// the header itself is cut.
    fn recover(&self, path: &Path) -> Option<(BTreeMap<String, u64>, u64)> {
        let has = fs::metadata(path).ok()?.len();
        let whole = self.shard.bytes;
        if has >= whole || whole > MAX_RECOVER {
            return None;
        }
        let mut bytes = fs::read(path).ok()?;
        bytes.try_reserve_exact(usize::try_from(whole).ok()?.checked_sub(bytes.len())?).ok()?;
        bytes.resize(whole as usize, 0);
        let entries = header::parse(&bytes).ok()?;
        Some((entries.into_iter().map(|(name, e)| (name, e.range.end as u64)).collect(), has))
    }

    fn of_shard(&mut self, problem: String) {
        self.problems.push(Problem { shard: self.shard.file.clone(), sample: None, tensor: None, problem });
    }

    fn of_sample(&mut self, sample: usize, tensor: Option<&str>, problem: String) {
        self.broken.insert(sample);
        let tensor = tensor.map(str::to_owned);
        self.problems.push(Problem { shard: self.shard.file.clone(), sample: Some(sample), tensor, problem });
    }
}

/// What an error says without the file and the tensor that the reader knows already.
fn problem_of(error: &RuntimeError) -> String {
    match error {
        RuntimeError::Io { action, source, .. } => format!("cannot {action}: {source}"),
        RuntimeError::File { problem, .. } => problem.clone(),
        RuntimeError::Tensor { problem, name, .. } if split_name(name).is_some() => problem.clone(),
        other => other.to_string(),
    }
}
