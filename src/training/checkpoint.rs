//! Checkpoints: complete directories that appear under their name at once.
//!
//! `OUT/step-000600` is a model directory (`model.safetensors`, `config.json`), and holds the averaged parameters as another (`ema/`), the
//! optimiser's moments (`optimiser.safetensors`), and last what else a training needs to go on (`train.json`), with size and BLAKE3 of the other
//! files. Everything is written and synced under a hidden name; then the directory is renamed. Nothing in it depends on the
//! clock: the same training writes the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ccl_runtime::RuntimeError;
use ccl_runtime::session::Tensors;
use ccl_runtime::write::{write_atomic, write_tensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use super::metrics::Averages;
use super::scaling::Scaling;
use crate::error::Error;

/// Parameters.
pub const MODEL: &str = "model.safetensors";
/// The directory of the averaged parameters.
pub const EMA: &str = "ema";
/// Moments and counts of the optimiser.
pub const OPTIMISER: &str = "optimiser.safetensors";
/// The model's configuration.
pub const CONFIG: &str = "config.json";
/// What else a training needs.
pub const RECORD: &str = "train.json";
/// The version that this program writes and reads.
const VERSION: u32 = 1;

/// What a training needs to go on, beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the format.
    pub version: u32,
    /// Steps that are done.
    pub step: u64,
    /// Samples that were used, through all epochs: where the data goes on.
    pub position: u64,
    /// Updates that were skipped.
    pub skipped: u64,
    /// Averages of the losses.
    pub averages: Averages,
    /// The factor of the gradients, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// What the course of the training depends on ([`super::config::TrainConfig::settings`]).
    pub settings: BTreeMap<String, Value>,
    /// BLAKE3 of the settings.
    pub settings_hash: String,
    /// Size and BLAKE3 of every other file.
    pub files: BTreeMap<String, FileRecord>,
}

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

impl Record {
    /// A record without files.
    pub fn new(step: u64, position: u64, skipped: u64, averages: Averages, settings: BTreeMap<String, Value>) -> Self {
        let text = serde_json::to_string(&settings).unwrap_or_default();
        let settings_hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        let (version, files) = (VERSION, BTreeMap::new());
        Self { version, step, position, skipped, averages, scaling: None, settings, settings_hash, files }
    }

    /// Checks that a training with these settings may go on from here.
    ///
    /// # Errors
    /// Names every setting that differs.
    pub fn agrees(&self, settings: &BTreeMap<String, Value>, dir: &Path) -> Result<(), Error> {
        let names: std::collections::BTreeSet<&String> = self.settings.keys().chain(settings.keys()).collect();
        let shown = |v: Option<&Value>| v.map_or("absent".to_owned(), Value::to_string);
        let differ: Vec<String> = names
            .into_iter()
            .filter(|n| self.settings.get(*n) != settings.get(*n))
            .map(|n| format!("{n} was {}, is {} now", shown(self.settings.get(n)), shown(settings.get(n))))
            .collect();
        if differ.is_empty() {
            return Ok(());
        }
        let what = differ.join("; ");
        let place = dir.display();
        Err(Error::Failed(format!(
            "{place}: belongs to a training with other settings: {what}; undo that, or begin anew with another --out"
        )))
    }
}

/// A checkpoint in the making; it goes away if it is not finished.
pub struct Draft {
    dir: TempDir,
    target: PathBuf,
    files: BTreeMap<String, FileRecord>,
}

/// The name of a step's checkpoint.
pub fn name(step: u64) -> String {
    format!("step-{step:06}")
}

impl Draft {
    /// Begins the checkpoint of a step in `out`, which exists.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn begin(out: &Path, step: u64) -> Result<Self, Error> {
        let target = out.join(name(step));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".step-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let dir = builder.tempdir_in(out).map_err(|e| failed(&target, e.kind().into()))?;
        Ok(Self { dir, target, files: BTreeMap::new() })
    }

    /// Writes tensors.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn tensors(&mut self, file: &str, tensors: &Tensors) -> Result<(), Error> {
        let path = self.path(file)?;
        write_tensors(&path, tensors).map_err(|e| self.shown(e))?;
        self.note(file, &path)
    }

    /// Writes text.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn text(&mut self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.path(file)?;
        write_atomic(&path, text.as_bytes()).map_err(|e| self.shown(e))?;
        self.note(file, &path)
    }

    /// Writes the record and gives the checkpoint its name.
    ///
    /// # Errors
    /// When it cannot be written; then there is no new checkpoint.
    pub fn finish(self, mut record: Record) -> Result<PathBuf, Error> {
        record.files = self.files.clone();
        let text = serde_json::to_string_pretty(&record).map_err(|e| Error::Failed(format!("{RECORD}: {e}")))?;
        write_atomic(&self.dir.path().join(RECORD), (text + "\n").as_bytes()).map_err(|e| self.shown(e))?;
        let fail = |e| failed(&self.target, e);
        // One of this name is damaged, or this step would not be done again.
        remove(&self.target)?;
        fs::rename(self.dir.path(), &self.target).map_err(fail)?;
        let target = self.target.clone();
        // The directory has another name now and stays.
        let _ = self.dir.keep();
        sync(target.parent().unwrap_or(Path::new(".")));
        Ok(target)
    }

    fn path(&self, file: &str) -> Result<PathBuf, Error> {
        let path = self.dir.path().join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| failed(&self.target, e))?;
        }
        Ok(path)
    }

    fn note(&mut self, file: &str, path: &Path) -> Result<(), Error> {
        let record = FileRecord::of(path).map_err(|e| failed(&self.target, e))?;
        self.files.insert(file.into(), record);
        Ok(())
    }

    /// An error that names the checkpoint instead of a hidden directory.
    fn shown(&self, e: RuntimeError) -> Error {
        match e {
            RuntimeError::Io { source, .. } => failed(&self.target, source),
            other => Error::Failed(format!("{}: {other}", self.target.display())),
        }
    }
}

impl FileRecord {
    fn of(path: &Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let bytes = io::copy(&mut File::open(path)?, &mut hasher)?;
        Ok(Self { bytes, blake3: hasher.finalize().to_hex().to_string() })
    }
}

/// The newest checkpoint in `out` that is whole. Damaged ones are warned of and passed over.
///
/// # Errors
/// When there are checkpoints, none of which is whole, or `out` cannot be read.
pub fn newest(out: &Path) -> Result<Option<(PathBuf, Record)>, Error> {
    let mut broken = None;
    for (_, dir) in list(out)?.into_iter().rev() {
        match open(&dir) {
            Ok(record) => return Ok(Some((dir, record))),
            Err(e) => {
                tracing::warn!("{e}; looking for an older one");
                broken.get_or_insert(e);
            }
        }
    }
    broken.map_or(Ok(None), Err)
}

/// Reads the record of a checkpoint and checks its files.
///
/// # Errors
/// When a file is missing or not as it was written.
pub fn open(dir: &Path) -> Result<Record, Error> {
    let damaged = |what: String| Error::Failed(format!("{}: is damaged: {what}", dir.display()));
    let text = fs::read_to_string(dir.join(RECORD)).map_err(|e| damaged(format!("{RECORD}: {e}")))?;
    let record: Record = serde_json::from_str(&text).map_err(|e| damaged(format!("{RECORD}: {e}")))?;
    if record.version != VERSION {
        return Err(damaged(format!("{RECORD} has version {}, this program reads {VERSION}", record.version)));
    }
    for (file, wanted) in &record.files {
        let found = FileRecord::of(&dir.join(file)).map_err(|e| damaged(format!("{file}: {e}")))?;
        if found != *wanted {
            return Err(damaged(format!("{file} is not what was written")));
        }
    }
    Ok(record)
}

/// Checkpoints by step, the oldest first.
///
/// # Errors
/// When `out` cannot be read.
pub fn list(out: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found: Vec<(u64, PathBuf)> = names(out)?
        .into_iter()
        .filter_map(|n| Some((n.strip_prefix("step-")?.parse().ok()?, out.join(&n))))
        .filter(|(step, dir)| dir.ends_with(name(*step)))
        .collect();
    found.sort();
    Ok(found)
}

/// Removes all but the newest `keep` checkpoints; 0 keeps all.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(out: &Path, keep: usize) -> Result<(), Error> {
    let all = list(out)?;
    let old = if keep == 0 { 0 } else { all.len().saturating_sub(keep) };
    all[..old].iter().try_for_each(|(_, dir)| remove(dir))
}

/// Removes what interrupted runs left behind.
///
/// # Errors
/// When it cannot be removed.
pub fn clean(out: &Path) -> Result<(), Error> {
    for left in names(out)?.iter().filter(|n| n.starts_with(".step-") && n.ends_with(".part")) {
        let path = out.join(left);
        fs::remove_dir_all(&path).map_err(|e| RuntimeError::io(&path, "remove", e))?;
    }
    Ok(())
}

/// Removes a checkpoint that may be there. It loses its name first, so that no half of it is taken for one.
fn remove(dir: &Path) -> Result<(), Error> {
    let base = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let hidden = dir.with_file_name(format!(".{base}.old.part"));
    match fs::rename(dir, &hidden) {
        Ok(()) => Ok(fs::remove_dir_all(&hidden).map_err(|e| RuntimeError::io(dir, "remove", e))?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(RuntimeError::io(dir, "remove", e).into()),
    }
}

fn names(out: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(out) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::read(out, &e))?,
    };
    Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

/// A new name is safe on disk once its directory is; not every file system can do that, and the content is whole either way.
fn sync(dir: &Path) {
    let _ = File::open(dir).and_then(|d| d.sync_all());
}

fn failed(target: &Path, source: io::Error) -> Error {
    RuntimeError::io(target, "write", source).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(out: &Path, step: u64) -> PathBuf {
        let mut draft = Draft::begin(out, step).expect("a draft");
        draft.text(CONFIG, "{}").expect("a file");
        draft.text("ema/config.json", "{}").expect("a file");
        draft.finish(Record::new(step, 0, 0, Averages::default(), BTreeMap::new())).expect("a checkpoint")
    }

    #[test]
    fn the_newest_whole_one_is_found_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path();
        assert!(newest(out).expect("none").is_none());
        for step in [2, 10, 4] {
            write(out, step);
        }
        fs::create_dir(out.join(".step-abc.part")).expect("a leftover");
        clean(out).expect("a clean directory");
        assert_eq!(newest(out).expect("one").expect("one").1.step, 10);
        // A file that changed: the one before counts.
        fs::write(out.join("step-000010/config.json"), "{ }").expect("damage");
        assert_eq!(newest(out).expect("one").expect("one").1.step, 4);
        write(out, 10);
        assert_eq!(newest(out).expect("one").expect("one").1.step, 10);
        prune(out, 2).expect("fewer");
        assert_eq!(list(out).expect("a list").iter().map(|(s, _)| *s).collect::<Vec<_>>(), [4, 10]);
        assert_eq!(fs::read_dir(out).expect("entries").count(), 2);
        // None that is whole is an error, not a beginning from nothing.
        for name in ["step-000004", "step-000010"] {
            fs::remove_file(out.join(name).join(RECORD)).expect("damage");
        }
        assert!(newest(out).expect_err("damaged").to_string().contains("is damaged: train.json"));
    }

    #[test]
    fn an_unfinished_one_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut draft = Draft::begin(dir.path(), 1).expect("a draft");
        draft.text(CONFIG, "{}").expect("a file");
        drop(draft);
        assert_eq!(fs::read_dir(dir.path()).expect("entries").count(), 0);
    }

    #[test]
    fn other_settings_are_named() {
        let settings = |batch: u64| BTreeMap::from([("train.batch".to_owned(), Value::from(batch))]);
        let record = Record::new(1, 0, 0, Averages::default(), settings(16));
        assert!(record.agrees(&settings(16), Path::new("x")).is_ok());
        let text = record.agrees(&settings(32), Path::new("x")).expect_err("a difference").to_string();
        assert!(text.contains("train.batch was 16, is 32 now"), "{text}");
    }
}
