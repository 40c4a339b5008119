//! Files that are written whole or not at all.
//!
//! The new content goes to a temporary file beside the target, to disk, and takes the target's name last: a failure or
//! a crash leaves what was there before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use tempfile::{Builder, NamedTempFile, TempDir};

use crate::error::RuntimeError;
use crate::host::{HostData, HostTensor};

/// Replaces or creates the file at `path` with these bytes.
///
/// # Errors
/// When the file cannot be written; then there is the old file, or none. The message names the path.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    let target = target_of(path)?;
    let fail = |e| RuntimeError::io(path, "write", e);
    let mut file = temporary_beside(&target).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(&target).map_err(|e| fail(e.error))?;
    // The new name is safe on disk once the directory is; not every file system can do that, and the content is whole
    // either way.
    let _ = File::open(parent_of(&target)).and_then(|directory| directory.sync_all());
    Ok(())
}

/// Writes tensors as one safetensors file, sorted by type, then name. Replaces an existing file.
///
/// # Errors
/// As for [`write_atomic`].
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, HostTensor>) -> Result<(), RuntimeError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = match tensor.data {
            HostData::F32(_) => Dtype::F32,
            HostData::I32(_) => Dtype::I32,
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), tensor.bytes())
            .map_err(|e| RuntimeError::tensor(path, name, format!("cannot be written: {e}")))?;
        views.push((name, view));
    }
    let bytes = safetensors::serialize(views, None)
        .map_err(|e| RuntimeError::file(path, format!("cannot write tensors: {e}")))?;
    write_atomic(path, &bytes)
}

/// Checks that a file can be written at `path` without changing anything, to fail before long work instead of after it.
///
/// # Errors
/// When [`write_atomic`] would fail now.
pub fn check_writable(path: &Path) -> Result<(), RuntimeError> {
    let target = target_of(path)?;
    temporary_beside(&target).map(drop).map_err(|e| RuntimeError::io(path, "write", e))
}

/// A new hidden directory beside `target`, to be filled and then renamed to it; it goes away with the value.
///
/// # Errors
/// When `target` exists and is not an empty directory, or its parent does not exist or cannot be written. The message names `target`.
pub fn temporary_directory_beside(target: &Path) -> Result<TempDir, RuntimeError> {
    let fail = |e| RuntimeError::io(target, "write", e);
    match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(RuntimeError::file(target, "is not empty; name a new directory, or remove it first")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match target.file_name() {
            Some(_) if parent_of(target).is_dir() => {}
            Some(_) => {
                let problem = "cannot write: its parent directory does not exist; create it first";
                return Err(RuntimeError::file(target, problem));
            }
            None => return Err(RuntimeError::file(target, "is no name for a directory")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(RuntimeError::file(target, "is a file; name a new directory"));
        }
        Err(e) => return Err(fail(e)),
    }
    let mut builder = Builder::new();
    builder.prefix(".").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent_of(target)).map_err(|e| fail(e.kind().into()))
}

/// The file that is really meant: links are followed, so that the file behind them is replaced and they stay.
fn target_of(path: &Path) -> Result<PathBuf, RuntimeError> {
    match fs::metadata(path) {
        Ok(kind) if kind.is_dir() => Err(RuntimeError::file(path, "is a directory; name a file to write")),
        Ok(kind) if !kind.is_file() => Err(RuntimeError::file(path, "is no regular file; name a file to write")),
        Ok(_) => fs::canonicalize(path).map_err(|e| RuntimeError::io(path, "write", e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match path.file_name() {
            Some(_) if parent_of(path).is_dir() => Ok(path.into()),
            Some(_) => Err(RuntimeError::file(path, "cannot write: its directory does not exist; create it first")),
            None => Err(RuntimeError::file(path, "is no file name; name a file to write")),
        },
        Err(e) => Err(RuntimeError::io(path, "write", e)),
    }
}

fn temporary_beside(target: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".").suffix(".part");
    // As any program's output; the process's mask takes away what the user does not want to give.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The kind alone: the full text would name the temporary file, which says nothing to the user.
    builder.tempfile_in(parent_of(target)).map_err(|e| e.kind().into())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
