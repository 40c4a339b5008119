//! Safetensors files made by hand, right ones and wrong ones.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// A tensor to be stored.
pub struct Stored {
    /// Name in the header.
    pub name: String,
    /// Type as the header calls it.
    pub dtype: &'static str,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A tensor of `f32`.
pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Stored { name: name.into(), dtype: "F32", shape: shape.into(), bytes }
}

/// A tensor of any type.
pub fn stored(name: &str, dtype: &'static str, shape: &[usize], bytes: impl IntoIterator<Item = u8>) -> Stored {
    Stored { name: name.into(), dtype, shape: shape.into(), bytes: bytes.into_iter().collect() }
}

/// A file of this header and data, whatever they say.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len() as u64;
    [&length.to_le_bytes(), header.as_bytes(), data].concat()
}

/// A right file; the header is padded with spaces until the data starts at `offset` modulo 8.
pub fn file_at(offset: usize, tensors: &[Stored]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for t in tensors {
        let start = data.len();
        data.extend(&t.bytes);
        let (name, dtype, shape, end) = (&t.name, t.dtype, &t.shape, data.len());
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
    }
    let mut header = format!("{{{}}}", entries.join(","));
    while header.len() % 8 != offset {
        header.push(' ');
    }
    raw(&header, &data)
}

/// A right file.
pub fn file(tensors: &[Stored]) -> Vec<u8> {
    file_at(0, tensors)
}

/// Writes a file into a directory.
pub fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Checks that an error is one line that has all these parts.
pub fn check_message(error: impl Display, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "one line: {text:?}");
    assert!(text.len() < 1000, "short: {text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` should be in: {text}");
    }
}
