//! What outlives a tile that takes the device, or the program, with it: which tile was at work, which ones ended like that before, and what was found.
//!
//! Measuring then goes on in a new process. The two know of each other by a directory of small files: `trying.json` and `done.json` are written by the
//! process that measures, `before.json` by the one that starts it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ccl_codegen::gpu::tiles::{Problem, ProblemTile};
use ccl_runtime::RuntimeError;
use ccl_runtime::tuned::Tried;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A tile that was at work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Name of the problem.
    pub problem: String,
    /// The tile.
    pub tile: ProblemTile,
    /// What came of it, where it ended its process.
    pub why: Option<String>,
}

impl Attempt {
    /// A tile of a problem.
    pub(super) fn of(problem: &Problem, tile: ProblemTile) -> Self {
        Self { problem: problem.key(), tile, why: None }
    }
}

/// What is at work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtWork {
    /// The tile.
    pub attempt: Attempt,
    /// Another number whenever there was progress.
    pub number: u64,
    /// How long it may take until there is more, where that is known.
    pub patience: Option<Duration>,
}

/// What was before this process began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Before {
    spent: Duration,
    lost: Vec<Attempt>,
}

/// The directory, or none: then nothing outlives the process.
#[derive(Debug, Default)]
pub struct Journal {
    folder: Option<PathBuf>,
    before: Before,
    patience: Option<Duration>,
    number: AtomicU64,
}

impl Journal {
    /// What the directory tells; nothing where it is empty.
    pub fn open(folder: &Path) -> Self {
        let before = read(&folder.join("before.json")).unwrap_or_default();
        Self { folder: Some(folder.into()), before, ..Self::default() }
    }

    /// The same, where a tile may take so long to come to the device, and as long again there; as long as it likes without a time.
    pub fn with_patience(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
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

    /// A tile is at work, or took the device with it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn trying(&self, attempt: &Attempt) -> Result<(), RuntimeError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.write("trying.json", &AtWork { attempt: attempt.clone(), number, patience: self.patience })
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

    /// What is at work.
    pub fn at_work(&self) -> Option<AtWork> {
        read(&self.folder.as_ref()?.join("trying.json"))
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

/// What a file says; `None` where it is missing.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
