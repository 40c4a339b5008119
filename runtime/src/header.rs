//! The header of a safetensors file, read without trusting it.
//!
//! A file is eight bytes of header length (little-endian), a JSON object and the tensors' data. [`parse`] promises that
//! every tensor it returns lies inside the file, has the size that its shape and type say and shares no byte with
//! another tensor; that no byte of data is without a tensor; and that it allocates no more than the header that is there.
//! The `safetensors` crate checks most of this too, but keeps the last of two equal names and cannot always say which
//! tensor is at fault.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use ccl_ir::DType;
use ccl_ir::types::MAX_ELEMENTS;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::one_line;

/// Longest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;
/// Longest tensor name in bytes.
const MAX_NAME: usize = 1024;

/// Element types that a tensor in a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileDType {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed 64-bit integers.
    I64,
    /// Signed 32-bit integers.
    I32,
}

impl FileDType {
    const ALL: [Self; 6] = [Self::F64, Self::F32, Self::F16, Self::Bf16, Self::I64, Self::I32];

    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// True for every type that holds real numbers.
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::I64 | Self::I32)
    }

    /// The name in a file's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
        }
    }

    /// The type of a plan's tensor with the same bytes, if there is one.
    pub const fn plan_type(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
            Self::I32 => Some(DType::I32),
            Self::F64 | Self::I64 => None,
        }
    }

    /// The type with this name in a file's header.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }
}

impl fmt::Display for FileDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Type, shape and place of one tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Element type in the file.
    pub dtype: FileDType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// Why a file is no safetensors file; the caller adds its name.
#[derive(Debug, PartialEq, Eq)]
pub struct HeaderProblem {
    /// The tensor at fault, where there is one.
    pub tensor: Option<String>,
    /// What is wrong; with a tensor, the rest of a sentence.
    pub text: String,
}

fn whole(text: impl Into<String>) -> HeaderProblem {
    HeaderProblem { tensor: None, text: text.into() }
}

fn about(tensor: &str, text: impl Into<String>) -> HeaderProblem {
    HeaderProblem { tensor: Some(tensor.into()), text: text.into() }
}

/// Reads the tensors' entries from a whole file.
///
/// # Errors
/// When the file breaks any promise of this module, with the tensor at fault where there is one.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, TensorEntry>, HeaderProblem> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(whole(format!("{} bytes are too few for a safetensors file", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(whole(format!("is no safetensors file: its header would have {length} bytes")));
    }
    // `length` is at most MAX_HEADER here, which fits every usize.
    let Some((json, data)) = rest.split_at_checked(length as usize) else {
        return Err(whole(format!("is cut short: a header of {length} bytes in a file of {}", file.len())));
    };
    let Pairs(raw) = parse_pairs::<RawTensor>(json).map_err(|(tensor, e)| {
        let text = one_line(&e.to_string());
        HeaderProblem {
            text: format!("{}: {text}", if tensor.is_some() { "has a bad header entry" } else { "bad header" }),
            tensor,
        }
    })?;

    let data_at = file.len() - data.len();
    let mut entries = BTreeMap::new();
    for (name, raw) in raw {
        if name.len() > MAX_NAME {
            return Err(about(&name, format!("has a name of {} bytes, at most {MAX_NAME} are allowed", name.len())));
        }
        let entry = check_entry(&raw, data.len(), data_at).map_err(|text| about(&name, text))?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(about(&name, "is in the header twice"));
        }
    }
    check_cover(&entries, data_at, file.len())?;
    Ok(entries)
}

/// Checks one tensor by itself: name, type, shape and that its bytes are inside the data.
fn check_entry(raw: &RawTensor, data_len: usize, data_at: usize) -> Result<TensorEntry, String> {
    let Some(dtype) = FileDType::from_name(&raw.dtype) else {
        let known = FileDType::ALL.map(FileDType::name).join(", ");
        return Err(format!("has the unknown type `{}` (known: {known})", one_line(&raw.dtype)));
    };
    if raw.shape.len() > MAX_RANK {
        return Err(format!("has {} dimensions, at most {MAX_RANK} are allowed", raw.shape.len()));
    }
    let elements = raw.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d).filter(|&n| n <= MAX_ELEMENTS));
    let Some(elements) = elements else {
        return Err(format!("has the impossible shape {:?}", raw.shape));
    };
    let (start, end) = raw.data_offsets;
    let Some(given) = end.checked_sub(start) else {
        return Err(format!("ends at byte {end}, before its start {start}"));
    };
    if end > data_len as u64 {
        return Err(format!("ends at byte {end} of the data, but the file has only {data_len}: is it cut short?"));
    }
    let wanted = elements * dtype.bytes() as u64;
    if given != wanted {
        return Err(format!("has {given} bytes, but {dtype} {:?} needs {wanted}", raw.shape));
    }
    // All numbers are bounded by the length of a file in memory, so they fit usize.
    let shape = raw.shape.iter().map(|&d| d as usize).collect();
    Ok(TensorEntry { dtype, shape, range: data_at + start as usize..data_at + end as usize })
}

/// Checks that the tensors cover the data once: no byte in two tensors, none in no tensor.
fn check_cover(entries: &BTreeMap<String, TensorEntry>, data_at: usize, file_len: usize) -> Result<(), HeaderProblem> {
    let mut by_place: Vec<(&Range<usize>, &String)> = entries.iter().map(|(name, e)| (&e.range, name)).collect();
    by_place.sort_by_key(|(range, name)| (range.start, range.end, *name));
    let mut end = data_at;
    let mut before = "";
    for (range, name) in by_place {
        if range.start < end {
            return Err(about(name, format!("shares bytes with `{}`", one_line(before))));
        }
        if range.start > end {
            return Err(about(name, format!("starts after {} bytes that belong to no tensor", range.start - end)));
        }
        (end, before) = (range.end, name);
    }
    if end < file_len {
        return Err(whole(format!("the last {} bytes belong to no tensor", file_len - end)));
    }
    Ok(())
}

/// What the header says of one tensor.
#[derive(Deserialize)]
#[serde(expecting = "an object with dtype, shape and data_offsets")]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads a JSON object pair by pair; maps of the usual kind would silently keep the last of two equal names. The value of
/// `__metadata__` is passed over.
///
/// # Errors
/// What is wrong and, where it is inside the value of a name, that name.
pub(crate) fn parse_pairs<T: DeserializeOwned>(json: &[u8]) -> Result<Pairs<T>, (Option<String>, serde_json::Error)> {
    let mut last = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let pairs = Collect { last: &mut last, value: PhantomData }
        .deserialize(&mut deserializer)
        .and_then(|pairs| deserializer.end().map(|()| pairs));
    pairs.map(Pairs).map_err(|e| (last, e))
}

/// Collects an object's pairs and remembers the name whose value is being read.
struct Collect<'a, T> {
    last: &'a mut Option<String>,
    value: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Collect<'_, T> {
    type Value = Vec<(String, T)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Collect<'_, T> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            *self.last = Some(name.clone());
            pairs.push((name, map.next_value()?));
            *self.last = None;
        }
        Ok(pairs)
    }
}

/// The pairs of a JSON object in order, equal names included.
pub(crate) struct Pairs<T>(pub(crate) Vec<(String, T)>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Collect { last: &mut None, value: PhantomData }.deserialize(deserializer).map(Self)
    }
}
