//! A small dataset whose every value tells where it belongs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ccl_data::{Sample, Schema, TensorSpec, Writer, WriterOptions};
use ccl_runtime::HostTensor;
use ccl_runtime::tensorfile::FileDType;
use tempfile::TempDir;

/// An empty directory that goes away with the value, and a path for a dataset in it.
pub fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    (dir, path)
}

/// Video, audio, text and a number, the streams stored as `dtype`.
pub fn schema(dtype: FileDType) -> Schema {
    let tensors = BTreeMap::from([
        ("video".to_string(), TensorSpec::new(dtype, [2, 3, 2, 1])),
        ("audio".to_string(), TensorSpec::new(dtype, [2, 5])),
        ("text".to_string(), TensorSpec::new(dtype, [1, 3])),
        ("truth.number".to_string(), TensorSpec::new(FileDType::I32, [])),
        ("truth.time".to_string(), TensorSpec::new(FileDType::F32, [2])),
    ]);
    Schema::new(tensors).unwrap()
}

/// Sample `number`: small whole numbers in the streams, which every float type holds.
pub fn sample(number: usize) -> Sample {
    let values = |n: usize, by: usize| (0..n).map(|i| ((number * by + i) % 120) as f32).collect::<Vec<_>>();
    Sample::from([
        ("video".into(), HostTensor::f32([2, 3, 2, 1], values(12, 3))),
        ("audio".into(), HostTensor::f32([2, 5], values(10, 5))),
        ("text".into(), HostTensor::f32([1, 3], values(3, 7))),
        ("truth.number".into(), HostTensor::i32([], vec![number as i32])),
        ("truth.time".into(), HostTensor::f32([2], vec![number as f32 + 0.1, -1.0])),
    ])
}

/// Writes `samples` samples.
pub fn write(dir: &Path, samples: usize, shard_samples: usize, dtype: FileDType) {
    let options = WriterOptions { shard_samples, ..WriterOptions::default() };
    let mut writer = Writer::create(dir, schema(dtype), options).unwrap();
    (0..samples).for_each(|i| writer.add(&sample(i)).unwrap());
    writer.finish().unwrap();
}

/// Names of the entries of a directory, sorted.
pub fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Wants a message of one line with all of these parts.
#[track_caller]
pub fn says(error: impl std::fmt::Display, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}
