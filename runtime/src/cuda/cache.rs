//! Compiled kernels from run to run: one file a kernel, in a directory of the user's.
//!
//! A file's name is the hash of what the code depends on, and its contents carry a hash of their own: what is damaged is compiled anew.
//! Files get their names when they are whole, so that any number of processes may share the directory.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::nvrtc::Binary;
use crate::tuned;

/// What a file starts with; the last byte is the version of the layout.
const MAGIC: [u8; 8] = *b"CCLKRNL\x01";

/// The key of a kernel: its text, the architecture and the compiler.
pub(super) fn key(text: &str, architecture: &str, compiler: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [text, architecture, compiler] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// A directory of compiled kernels.
#[derive(Clone, Debug)]
pub(super) struct Cache(Option<PathBuf>);

impl Cache {
    /// The user's.
    pub(super) fn of_user() -> Self {
        Self(tuned::user_directory().map(|d| d.join("kernels")))
    }

    /// One in this directory.
    #[cfg(test)]
    fn at(folder: &Path) -> Self {
        Self(Some(folder.into()))
    }

    fn path(&self, key: &blake3::Hash) -> Option<PathBuf> {
        self.0.as_ref().map(|d| d.join(format!("{}.kernel", key.to_hex())))
    }

    /// The kernel with this key, if it is there and whole.
    pub(super) fn get(&self, key: &blake3::Hash) -> Option<Binary> {
        let path = self.path(key)?;
        let bytes = std::fs::read(&path).ok()?;
        let binary = decode(&bytes);
        if binary.is_none() {
            tracing::warn!("{}: is damaged and is compiled anew", path.display());
        }
        binary
    }

    /// Keeps a kernel. What cannot be written is compiled again another time.
    pub(super) fn put(&self, key: &blake3::Hash, binary: &Binary) {
        let Some(path) = self.path(key) else { return };
        if let Err(e) = write(&path, &encode(binary)) {
            tracing::debug!("{}: is not kept: {e}", path.display());
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map(|_| ()).map_err(|e| e.error)
}

/// Magic, hash of the rest, length of the PTX, PTX, machine code.
fn encode(binary: &Binary) -> Vec<u8> {
    let mut body = (binary.ptx.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(binary.ptx.as_bytes());
    body.extend_from_slice(&binary.cubin);
    [&MAGIC[..], blake3::hash(&body).as_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<Binary> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (hash, body) = rest.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    if blake3::hash(body) != *hash {
        return None;
    }
    let (length, rest) = body.split_first_chunk()?;
    let (ptx, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(Binary { ptx: String::from_utf8(ptx.to_vec()).ok()?, cubin: cubin.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_what_is_damaged_is_not() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let cache = Cache::at(&folder.path().join("new"));
        let binary = Binary { ptx: ".version 9.0".into(), cubin: vec![127, 69, 0, 255] };
        let key = super::key("text", "sm_90a", "NVRTC 13.0");
        assert_eq!(cache.get(&key), None);
        cache.put(&key, &binary);
        assert_eq!(cache.get(&key), Some(binary.clone()));
        let path = cache.path(&key).unwrap();
        let whole = std::fs::read(&path)?;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged)?;
            assert_eq!(cache.get(&key), None, "byte {at}");
            std::fs::write(&path, &whole[..at])?;
            assert_eq!(cache.get(&key), None, "cut off at byte {at}");
        }
        cache.put(&key, &binary);
        assert_eq!(cache.get(&key), Some(binary));
        Ok(())
    }

    #[test]
    fn a_key_tells_everything_apart() {
        let keys =
            [("ab", "c", "d"), ("a", "bc", "d"), ("ab", "c", "e"), ("ab", "x", "d")].map(|(a, b, c)| key(a, b, c));
        assert!((0..keys.len()).all(|i| !keys[..i].contains(&keys[i])));
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let (cache, key) = (Cache(None), super::key("", "", ""));
        cache.put(&key, &Binary { ptx: "p".into(), cubin: vec![1] });
        assert_eq!(cache.get(&key), None);
    }
}
