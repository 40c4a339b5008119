//! What every sample of a dataset has: tensors with their types and shapes.

use std::collections::BTreeMap;

use ccl_ir::types::MAX_ELEMENTS;
use ccl_runtime::tensorfile::FileDType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::DataError;

/// Longest name of a tensor.
const MAX_NAME: usize = 128;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;
/// Names with a meaning, with the number of dimensions that they have and what those are.
const KNOWN: [(&str, usize, &str); 4] =
    [("video", 4, "[C, T, H, W]"), ("audio", 2, "[C, L]"), ("text", 2, "[N, D]"), ("image", 2, "[N, D]")];

/// Type and shape of one tensor of every sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Element type in the files; in memory floats are `f32` and integers `i32`.
    #[serde(serialize_with = "dtype_name", deserialize_with = "dtype_of_name")]
    pub dtype: FileDType,
    /// Sizes, outermost first, without a batch.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this type and shape.
    pub fn new(dtype: FileDType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

fn dtype_name<S: Serializer>(dtype: &FileDType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.name())
}

fn dtype_of_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FileDType, D::Error> {
    let name = String::deserialize(deserializer)?;
    FileDType::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown type `{name}`")))
}

/// The tensors of every sample by name. A value of this type has been checked ([`Schema::new`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Schema {
    tensors: BTreeMap<String, TensorSpec>,
}

impl Schema {
    /// Checks the description of a sample.
    ///
    /// # Errors
    /// When `text` or both `video` and `audio` are missing, one of them or `image` has another number of dimensions than it should, a
    /// name is not made of letters, digits and `_.-`, or a size is 0 or absurd.
    pub fn new(tensors: BTreeMap<String, TensorSpec>) -> Result<Self, DataError> {
        for (name, spec) in &tensors {
            check_spec(name, spec).map_err(|problem| DataError::option(format!("tensor `{name}`"), problem))?;
        }
        if !tensors.contains_key("text") {
            return Err(DataError::option("tensors", "there is no `text`; every sample needs text features [N, D]"));
        }
        if !tensors.contains_key("video") && !tensors.contains_key("audio") {
            let problem = "there is neither `video` nor `audio`; every sample needs one of them or both";
            return Err(DataError::option("tensors", problem));
        }
        Ok(Self { tensors })
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorSpec> {
        &self.tensors
    }

    /// One tensor.
    pub fn get(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// The same tensors with the streams and features (`video`, `audio`, `text`, `image`) stored as `dtype`, a float.
    ///
    /// # Errors
    /// When `dtype` is no float type.
    pub fn stored_as(mut self, dtype: FileDType) -> Result<Self, DataError> {
        if !dtype.is_float() {
            return Err(DataError::option("dtype", format!("{dtype} is no float type; known are F32, BF16 and F16")));
        }
        for (name, ..) in KNOWN {
            if let Some(spec) = self.tensors.get_mut(name) {
                spec.dtype = dtype;
            }
        }
        Ok(self)
    }
}

fn check_spec(name: &str, spec: &TensorSpec) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!("has a bad name; use up to {MAX_NAME} letters, digits and `_.-`"));
    }
    let shape = &spec.shape;
    if shape.len() > MAX_RANK {
        return Err(format!("has {} dimensions, at most {MAX_RANK} are allowed", shape.len()));
    }
    if let Some((_, rank, axes)) = KNOWN.iter().find(|(known, ..)| *known == name) {
        if shape.len() != *rank {
            return Err(format!("has shape {shape:?}, but is {axes} in a sample"));
        }
        if !spec.dtype.is_float() {
            return Err(format!("has type {}, but holds real numbers", spec.dtype));
        }
    }
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64).filter(|&n| n <= MAX_ELEMENTS));
    match elements {
        Some(0) => Err(format!("has the empty shape {shape:?}")),
        Some(_) => Ok(()),
        None => Err(format!("has the impossible shape {shape:?}")),
    }
}
