//! What is measured of one arm, seed and task, and the file that keeps it.

use std::path::{Path, PathBuf};

use ccl_model::Task;
use ccl_runtime::write::write_atomic;
use ccl_world::Measures;
use serde::{Deserialize, Serialize};

use super::Study;
use super::arms::Arm;
use crate::attention::Attention;
use crate::error::Error;
use crate::evaluation::Evaluation;

/// Something found of a checkpoint, with what it was found of: a file is used again only where both agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept<T> {
    /// The checkpoint: hash of its training's settings, and its step.
    pub checkpoint: String,
    /// How it was measured.
    pub how: String,
    /// What was found.
    pub found: T,
}

/// Measures of samples.
pub type KeptMeasures = Kept<Measures>;
/// Shares of attention.
pub type KeptAttention = Kept<Attention>;

impl<T: Serialize + for<'d> Deserialize<'d>> Kept<T> {
    /// Reads a file; `None` where there is none, or it is of something else.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn read(path: &Path, checkpoint: &str, how: &str) -> Result<Option<Self>, Error> {
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Error::read(path, &e))?,
        };
        let kept: Self = serde_json::from_str(&text)
            .map_err(|e| Error::Failed(format!("{}: {e}; remove it and it is measured again", path.display())))?;
        Ok((kept.checkpoint == checkpoint && kept.how == how).then_some(kept))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let home = path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(home).map_err(|e| Error::Failed(format!("{}: {e}", home.display())))?;
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
        Ok(write_atomic(path, (text + "\n").as_bytes())?)
    }
}

impl Study {
    /// File with the measures of an arm.
    pub fn measures_file(&self, arm: &Arm, seed: u64, task: Task) -> PathBuf {
        self.out.join("measures").join(format!("{}-s{seed}-{task}.json", arm.key))
    }

    /// File with the attention of the model with context tokens.
    pub fn attention_file(&self, seed: u64) -> PathBuf {
        self.out.join("measures").join(format!("attention-s{seed}.json"))
    }

    /// How an arm is measured.
    pub fn evaluation(&self, arm: &Arm, task: Task) -> Evaluation {
        Evaluation {
            clips: self.clips,
            rate: self.rate(),
            steps: self.sample_steps,
            guiding: arm.guiding,
            ..Evaluation::new(task)
        }
    }
}
