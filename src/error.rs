//! Errors of the program: one line each, and the exit code that goes with them.

use std::path::Path;

use ccl_data::DataError;
use ccl_ir::IrError;
use ccl_model::ModelError;
use ccl_passes::PassError;
use ccl_runtime::RuntimeError;
use ccl_world::WorldError;
use thiserror::Error;

/// What can go wrong in a command.
#[derive(Debug, Error)]
pub enum Error {
    /// The command was used wrongly: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The work failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// A check did not hold; the command has said which. Exit code 1.
    #[error("{0}")]
    Check(String),
    /// The model's description is wrong.
    #[error("{place}: {source}")]
    Model {
        /// The file or option that it came from.
        place: String,
        /// What is wrong.
        source: ModelError,
    },
    /// Sizes or settings that the model cannot serve: exit code 2 where they are a setting's fault.
    #[error("{0}")]
    Spec(ModelError),
    /// Compilation failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// Running failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A dataset cannot be used or made.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Latents or prompts are not of the bounce world.
    #[error("{place}: {source}")]
    World {
        /// The file or option that they came from.
        place: String,
        /// What is wrong.
        source: WorldError,
    },
    /// A plan cannot be used.
    #[error(transparent)]
    Ir(#[from] IrError),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Runtime(RuntimeError::Option { .. }) => 2,
            Error::Data(DataError::Option { .. } | DataError::Runtime(RuntimeError::Option { .. })) => 2,
            Error::Spec(ModelError::Clip { .. } | ModelError::Spec(_)) => 2,
            _ => 1,
        }
    }

    /// A failure to read a file.
    pub fn read(path: &Path, source: &std::io::Error) -> Self {
        Error::Failed(format!("{}: cannot read: {source}", path.display()))
    }
}
