//! Plans as files (`.cclp`).
//!
//! The bytes are [`Plan::to_bytes`]'s; this module adds what files need: whole-or-nothing writing, a bound on what is
//! read, and messages that name the file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ccl_ir::{IrError, Plan};

use crate::device::human_bytes;
use crate::error::RuntimeError;
use crate::write::write_atomic;

/// The largest plan file that is read. A plan of the 14B model takes a few megabytes.
pub const MAX_BYTES: u64 = 1 << 30;

/// Writes a plan; replaces an existing file.
///
/// # Errors
/// When the plan is not safe to run, or the file cannot be written.
pub fn save(path: &Path, plan: &Plan) -> Result<(), RuntimeError> {
    let bytes = plan.to_bytes().map_err(|e| in_file(path, e))?;
    write_atomic(path, &bytes)
}

/// Reads a plan.
///
/// # Errors
/// When there is no such file, or it holds no undamaged plan of this version that is safe to run.
pub fn load(path: &Path) -> Result<Plan, RuntimeError> {
    let file = File::open(path).map_err(|e| RuntimeError::io(path, "read", e))?;
    let mut bytes = Vec::new();
    // What is read, not what the system says of the size, is bounded: it may be a pipe.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| RuntimeError::io(path, "read", e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(RuntimeError::file(path, format!("is larger than {}, no plan is", human_bytes(MAX_BYTES))));
    }
    Plan::from_bytes(&bytes).map_err(|e| in_file(path, e))
}

/// The same error with the file's name before it.
fn in_file(path: &Path, error: IrError) -> RuntimeError {
    let problem = match error {
        IrError::Plan(problem) => problem.0,
        other => other.to_string(),
    };
    RuntimeError::file(path, problem)
}
