//! What outlives a tile that takes the device, or the program, with it: which tile was at work, which ones ended like that before, and what was found.
//!
//! Measuring then goes on in a new process. The two know of each other by a directory of small files: `trying.json` and `done.json` are written by the
//! process that measures, `before.json` by the one that starts it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ccl_codegen::gpu::tensor::tiles::ProblemTile;
use ccl_runtime::RuntimeError;
use ccl_runtime::tuned::Tried;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A tile that was at work.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct Attempt {
    /// Name of the problem.
    pub problem: String,
    /// The tile.
    pub tile: ProblemTile,
    /// What came of it, where that is known.
    pub why: Option<String>,
}

/// What was before this process began.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize)]
struct Before {
    spent: Duration,
    lost: Vec<Attempt>,
}

/// The directory, or none: then nothing outlives the process.
#[derive(Debug, Default)]
pub struct Journal {
    folder: Option<PathBuf>,
    before: Before,
}

impl Journal {
    /// What the directory tells; nothing where it is empty.
    pub fn open(folder: &Path) -> Self {
        let before = read(&folder.join("before.json")).unwrap_or_default();
        Self { folder: Some(folder.into()), before }
    }

    /// Time that earlier processes took.
    pub fn spent(&self) -> Duration {
        self.before.spent
    }

    /// Why a tile is not tried again, for any problem: it ended a process at one.
    pub(super) fn lost(&self, tile: ProblemTile) -> Option<String> {
        let attempt = self.before.lost.iter().find(|attempt| attempt.tile == tile)?;
        let why = attempt.why.as_deref().unwrap_or("the program ended");
        Some(format!("not tried again after {}: {why}", attempt.problem))
    }

    /// A tile is at work; or with a reason, it took the device with it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn trying(&self, problem: &str, tile: ProblemTile, why: Option<String>) -> Result<(), RuntimeError> {
        self.write("trying.json", &Attempt { problem: problem.into(), tile, why })
    }

    /// It is not at work any more.
    pub(super) fn tried(&self) {
        if let Some(folder) = &self.folder {
            // Where it cannot be removed, what is tried next takes its place.
            let _ = std::fs::remove_file(folder.join("trying.json"));
        }
    }

    /// What was found by earlier processes.
    pub(super) fn done(&self) -> Vec<Tried> {
        self.folder.as_ref().and_then(|folder| read(&folder.join("done.json"))).unwrap_or_default()
    }

    /// All that was found so far.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn found(&self, done: &[Tried]) -> Result<(), RuntimeError> {
        self.write("done.json", &done)
    }

    /// The tile that is at work, and since when.
    pub fn at_work(&self) -> Option<(Attempt, SystemTime)> {
        let path = self.folder.as_ref()?.join("trying.json");
        let since = std::fs::metadata(&path).and_then(|m| m.modified()).ok()?;
        Some((read(&path)?, since))
    }

    /// A tile that ended a process, with its reason, is not tried again; processes took so long together.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn leave_out(&mut self, attempt: Attempt, spent: Duration) -> Result<(), RuntimeError> {
        self.before.lost.push(attempt);
        self.before.spent = spent;
        self.tried();
        self.write("before.json", &self.before)
    }

    /// How many tiles are not tried again.
    pub fn left_out(&self) -> usize {
        self.before.lost.len()
    }

    /// Whole or not at all, for whoever looks meanwhile; there is no need that it outlives the system.
    fn write(&self, name: &str, what: &impl Serialize) -> Result<(), RuntimeError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
        let bytes = serde_json::to_vec(what).map_err(|e| RuntimeError::file(&path, format!("cannot write: {e}")))?;
        let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, &path));
        written.map_err(|e| RuntimeError::io(&path, "write", e))
    }
}

/// What a file says; `None` where it is missing or half of it is.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
