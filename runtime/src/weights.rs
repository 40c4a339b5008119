//! Weights by canonical name, in the type that a plan wants.
//!
//! A [`WeightStore`] knows for every weight of a model where it comes from: a tensor in a mapped file, or an initialiser.
//! It promises that the set is complete and that every shape is right before anything runs. A weight that a file holds
//! in the wanted type is used where it is mapped; any other is converted when a plan asks for it, and stored nowhere else.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use ccl_ir::{DType, TensorType};
use rayon::prelude::*;

use crate::checkpoint::Directory;
use crate::convert;
use crate::error::{RuntimeError, one_line};
use crate::random::Stream;
use crate::tensorfile::{TensorEntry, TensorFile};

/// How a weight starts that no file holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// The normal distribution around 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform within `bound` of 0.
    Uniform {
        /// Largest magnitude.
        bound: f32,
    },
    /// Uniform within `sqrt(6 / (fan_in + fan_out))` of 0 (Glorot and Bengio, 2010).
    XavierUniform {
        /// Inputs of each output.
        fan_in: usize,
        /// Outputs of each input.
        fan_out: usize,
    },
}

/// A weight that a model has.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedTensor {
    /// Canonical name.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// How it starts where no file holds it.
    pub init: Init,
}

/// Something that has weights for plans.
pub trait WeightSource: Send + Sync {
    /// The weight with this canonical name, in this type. Different weights may be loaded at the same time.
    ///
    /// # Errors
    /// When there is no such weight, it has another shape, or a value does not fit the type.
    fn load(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError>;
}

/// The bytes of one weight: little-endian, dense, aligned for their element type.
#[derive(Clone, Debug)]
pub struct WeightBytes(Bytes);

#[derive(Clone, Debug)]
enum Bytes {
    Mapped { file: Arc<TensorFile>, range: Range<usize> },
    Owned { lines: Arc<Vec<Line>>, len: usize },
}

/// A cache line, so that owned bytes are aligned for every vector instruction.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl WeightBytes {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped { file, range } => file.slice(range.clone()),
            Bytes::Owned { lines, len } => &bytemuck::cast_slice(lines.as_slice())[..*len],
        }
    }

    /// Whether the bytes are those of a mapped file, which take no memory of the program's own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Bytes::Mapped { .. })
    }

    /// A weight that a program has in its own memory, rounded to the type that a plan wants.
    ///
    /// # Errors
    /// When there are more or fewer values than `want` has elements, or memory is short.
    pub fn of_values(name: &str, values: &[f32], want: &TensorType) -> Result<Self, RuntimeError> {
        if want.checked_elements() != Some(values.len() as u64) || !want.dtype.is_float() {
            return Err(RuntimeError::weight(name, format!("has {} values, the plan wants {want}", values.len())));
        }
        Self::make(name, byte_len(name, want)?, |out| {
            convert::round_to(values, want.dtype, out);
            Ok(())
        })
    }

    /// New memory of `len` bytes that `fill` writes.
    fn make(
        name: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), RuntimeError>,
    ) -> Result<Self, RuntimeError> {
        let count = len.div_ceil(size_of::<Line>());
        let mut lines = Vec::new();
        lines
            .try_reserve_exact(count)
            .map_err(|_| RuntimeError::weight(name, format!("needs {len} bytes, which do not fit into memory")))?;
        lines.resize(count, Line::zeroed());
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len])?;
        Ok(Self(Bytes::Owned { lines: Arc::new(lines), len }))
    }
}

impl Deref for WeightBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct WeightStore {
    weights: BTreeMap<String, Weight>,
}

#[derive(Clone, Debug)]
struct Weight {
    shape: Vec<usize>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    File { file: Arc<TensorFile>, raw: String, entry: TensorEntry },
    Fresh { init: Init, seed: u64 },
}

impl WeightStore {
    /// Takes the weights from a model directory.
    ///
    /// `rename` gives the canonical name of a tensor's name in the files, or `None` where the model has no such tensor.
    /// `fresh` says of a canonical name whether it may start by its initialiser, drawn from `seed`, where no file holds it.
    ///
    /// # Errors
    /// When a tensor is missing, surplus, mis-shaped, no float, or there under two names. The message names the first by
    /// canonical name (surplus ones: by name in the files) and says how many more there are.
    pub fn from_directory(
        directory: &Directory,
        expected: &[ExpectedTensor],
        rename: &dyn Fn(&str) -> Option<String>,
        fresh: &dyn Fn(&str) -> bool,
        seed: u64,
    ) -> Result<Self, RuntimeError> {
        let mut wanted: BTreeMap<&str, &ExpectedTensor> = expected.iter().map(|e| (e.name.as_str(), e)).collect();
        let mut weights: BTreeMap<String, Weight> = BTreeMap::new();
        let mut surplus: Vec<(PathBuf, &str)> = Vec::new();
        for (raw, (file, entry)) in directory.tensors() {
            let file = &directory.files()[*file];
            let name = rename(raw).unwrap_or_default();
            if let Some(Weight { source: Source::File { raw: other, .. }, .. }) = weights.get(&name) {
                let text = format!("is the weight `{}`, but so is `{}`; keep one", one_line(&name), one_line(other));
                return Err(RuntimeError::tensor(file.path(), raw, text));
            }
            let Some(expected) = wanted.remove(name.as_str()) else {
                surplus.push((file.path().into(), raw));
                continue;
            };
            check_entry(entry, &expected.shape).map_err(|text| RuntimeError::tensor(file.path(), raw, text))?;
            let source = Source::File { file: Arc::clone(file), raw: raw.clone(), entry: entry.clone() };
            weights.insert(name, Weight { shape: expected.shape.clone(), source });
        }
        if let [(path, raw), more @ ..] = surplus.as_slice() {
            let text = format!("is none that the model of this configuration has{}", and_more(more.len()));
            return Err(RuntimeError::tensor(path, raw, text));
        }
        let missing: Vec<&str> = wanted.keys().copied().filter(|name| !fresh(name)).collect();
        if let [name, more @ ..] = missing.as_slice() {
            let text = format!("of shape {:?} is missing{}", wanted[name].shape, and_more(more.len()));
            return Err(RuntimeError::tensor(directory.path(), name, text));
        }
        for (name, expected) in wanted {
            weights.insert(name.into(), Weight::fresh(expected, expected.init, seed));
        }
        Ok(Self { weights })
    }

    /// Weights that all start by their initialisers.
    pub fn fresh(expected: &[ExpectedTensor], seed: u64) -> Self {
        Self { weights: expected.iter().map(|e| (e.name.clone(), Weight::fresh(e, e.init, seed))).collect() }
    }

    /// Random weights that keep every path of a model alive, for timing: what starts at one stays at one, all else is
    /// uniform with standard deviation 0.02 (quicker to draw than normal numbers), zeros too.
    pub fn random(expected: &[ExpectedTensor], seed: u64) -> Self {
        let uniform = Init::Uniform { bound: 0.02 * 3f32.sqrt() };
        let alive = |e: &ExpectedTensor| if e.init == Init::Ones { Init::Ones } else { uniform };
        Self { weights: expected.iter().map(|e| (e.name.clone(), Weight::fresh(e, alive(e), seed))).collect() }
    }

    /// Canonical names of all weights, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }

    /// Canonical names of the weights that no file holds, sorted.
    pub fn fresh_names(&self) -> impl Iterator<Item = &str> {
        let fresh = |w: &Weight| matches!(w.source, Source::Fresh { .. });
        self.weights.iter().filter(move |(_, w)| fresh(w)).map(|(name, _)| name.as_str())
    }

    /// The weight with this canonical name, in this type: mapped where the file holds just that, else converted. Widening is
    /// exact, narrowing rounds to nearest, ties to even. Only a conversion looks at the values.
    ///
    /// # Errors
    /// When there is no such weight, it has another shape, or a conversion meets a value that is not finite or too large for the
    /// wanted type.
    pub fn fetch(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError> {
        let Some(weight) = self.weights.get(name) else {
            return Err(RuntimeError::weight(name, "is not in the model that these weights are for"));
        };
        if weight.shape != want.shape {
            let text = format!("has shape {:?}, the plan wants {:?}", weight.shape, want.shape);
            return Err(RuntimeError::weight(name, text));
        }
        if !want.dtype.is_float() {
            return Err(RuntimeError::weight(name, format!("is made of floats, the plan wants {}", want.dtype)));
        }
        match &weight.source {
            Source::File { file, raw, entry } => from_file(file, raw, entry, name, want),
            Source::Fresh { init, seed } => {
                let len = byte_len(name, want)?;
                WeightBytes::make(name, len, |out| {
                    init.fill(&Stream::new(*seed, name), want.dtype, out);
                    Ok(())
                })
            }
        }
    }
}

impl WeightSource for WeightStore {
    fn load(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError> {
        self.fetch(name, want)
    }
}

impl Weight {
    fn fresh(expected: &ExpectedTensor, init: Init, seed: u64) -> Self {
        Self { shape: expected.shape.clone(), source: Source::Fresh { init, seed } }
    }
}

impl Init {
    /// Writes this initialiser's values, rounded to `dtype`.
    fn fill(self, stream: &Stream, dtype: DType, out: &mut [u8]) {
        const CHUNK: usize = 1 << 14;
        let bound = match self {
            Self::XavierUniform { fan_in, fan_out } => (6.0 / (fan_in as f64 + fan_out as f64)).sqrt() as f32,
            Self::Uniform { bound } => bound,
            _ => 0.0,
        };
        let bytes = dtype.bytes() as usize;
        out.par_chunks_mut(CHUNK * bytes).enumerate().for_each_init(
            || vec![0.0f32; CHUNK],
            |values, (i, out)| {
                let values = &mut values[..out.len() / bytes];
                match self {
                    Self::Zeros => values.fill(0.0),
                    Self::Ones => values.fill(1.0),
                    Self::Normal { std } => {
                        stream.normal_at(i * CHUNK, values);
                        values.iter_mut().for_each(|x| *x *= std);
                    }
                    Self::Uniform { .. } | Self::XavierUniform { .. } => {
                        stream.uniform_at(i * CHUNK, values);
                        values.iter_mut().for_each(|x| *x *= bound);
                    }
                }
                convert::round_to(values, dtype, out);
            },
        );
    }
}

/// The bytes of a tensor in a file, whose shape is the wanted one.
fn from_file(
    file: &Arc<TensorFile>,
    raw: &str,
    entry: &TensorEntry,
    name: &str,
    want: &TensorType,
) -> Result<WeightBytes, RuntimeError> {
    let stored = file.entry_bytes(entry);
    if entry.dtype.plan_type() != Some(want.dtype) {
        let len = byte_len(name, want)?;
        return WeightBytes::make(name, len, |out| {
            convert::convert(entry.dtype, stored, want.dtype, out)
                .map_err(|e| RuntimeError::tensor(file.path(), raw, e.to_string()))
        });
    }
    if stored.as_ptr().addr().is_multiple_of(want.dtype.bytes() as usize) {
        return Ok(WeightBytes(Bytes::Mapped { file: Arc::clone(file), range: entry.range.clone() }));
    }
    WeightBytes::make(name, stored.len(), |out| {
        out.copy_from_slice(stored);
        Ok(())
    })
}

/// Checks a stored tensor against the shape that the model has.
fn check_entry(entry: &TensorEntry, shape: &[usize]) -> Result<(), String> {
    if entry.shape != shape {
        return Err(format!("has shape {:?}, the model wants {shape:?}", entry.shape));
    }
    if !entry.dtype.is_float() {
        return Err(format!("has type {}; weights are floats", entry.dtype));
    }
    Ok(())
}

fn byte_len(name: &str, want: &TensorType) -> Result<usize, RuntimeError> {
    let bytes = want.checked_elements().and_then(|n| usize::try_from(n * want.dtype.bytes()).ok());
    bytes.ok_or_else(|| RuntimeError::weight(name, format!("has the impossible shape {:?}", want.shape)))
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}
