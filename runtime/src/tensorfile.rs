//! Safetensors files, memory-mapped.
//!
//! Opening a file reads its header alone; the system loads the data when it is used. The header is not trusted (see
//! [`header`](crate::header)): every range in [`TensorFile::tensors`] lies inside the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::RuntimeError;
use crate::header;
pub use crate::header::{FileDType, TensorEntry};
use crate::host::HostTensor;

// Files are little-endian and their bytes are handed to kernels as they are.
const _: () = assert!(cfg!(target_endian = "little"), "ccl needs a little-endian machine");

/// An open safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    mmap: Mmap,
    tensors: BTreeMap<String, TensorEntry>,
}

impl TensorFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// When the file cannot be read, is no regular file or has a header that does not fit it; the message names the file
    /// and, where one is at fault, the tensor.
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        // Asked before opening: opening a pipe would wait for a writer.
        let kind = std::fs::metadata(path).map_err(|e| RuntimeError::io(path, "read", e))?;
        if !kind.is_file() {
            let is = if kind.is_dir() { "is a directory" } else { "is no regular file" };
            return Err(RuntimeError::file(path, format!("{is}; a safetensors file is needed")));
        }
        let file = File::open(path).map_err(|e| RuntimeError::io(path, "read", e))?;
        // SAFETY: the map is private to this value and only ever read. The one thing that memory safety needs and that
        // no program can enforce is that nobody shortens or rewrites the file meanwhile; every reader of mapped
        // checkpoints relies on that, and our own writers replace files instead of changing them.
        let mmap = unsafe { Mmap::map(&file) }.map_err(|e| RuntimeError::io(path, "map", e))?;
        let tensors = header::parse(&mmap).map_err(|problem| match problem.tensor {
            Some(name) => RuntimeError::tensor(path, &name, problem.text),
            None => RuntimeError::file(path, problem.text),
        })?;
        Ok(Self { path: path.into(), mmap, tensors })
    }

    /// The file's path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    /// Type, shape and place of a tensor.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn entry(&self, name: &str) -> Result<&TensorEntry, RuntimeError> {
        self.tensors.get(name).ok_or_else(|| RuntimeError::tensor(&self.path, name, "is not in the file"))
    }

    /// The stored bytes of a tensor, little-endian, at any alignment.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8], RuntimeError> {
        self.entry(name).map(|entry| self.entry_bytes(entry))
    }

    /// The bytes of one of this file's own entries.
    pub(crate) fn entry_bytes(&self, entry: &TensorEntry) -> &[u8] {
        self.slice(entry.range.clone())
    }

    /// A range of one of this file's own entries.
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.mmap[range]
    }

    /// Copies a tensor to the host: floats of any width become `f32`, integers `i32`.
    ///
    /// # Errors
    /// When there is none of this name, a value is not finite or too large, or memory is short.
    pub fn read(&self, name: &str) -> Result<HostTensor, RuntimeError> {
        let entry = self.entry(name)?;
        HostTensor::from_file(entry, self.entry_bytes(entry)).map_err(|e| RuntimeError::tensor(&self.path, name, e))
    }
}
