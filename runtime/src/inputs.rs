//! Named inputs of a plan, from a file or from the caller.
//!
//! A tensor is read when it is asked for, after its shape has been checked against what the plan wants, so that a file with an
//! absurd tensor costs nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use ccl_ir::TensorType;

use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::tensorfile::TensorFile;

/// Inputs by name.
#[derive(Debug, Default)]
pub struct Inputs {
    file: Option<TensorFile>,
    given: BTreeMap<String, HostTensor>,
}

impl Inputs {
    /// No inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tensors of a safetensors file. Names that no plan asks for do no harm.
    ///
    /// # Errors
    /// When the file cannot be opened ([`TensorFile::open`]).
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        Ok(Self { file: Some(TensorFile::open(path)?), given: BTreeMap::new() })
    }

    /// Sets an input; it hides one of the same name in the file.
    pub fn insert(&mut self, name: impl Into<String>, tensor: HostTensor) {
        self.given.insert(name.into(), tensor);
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let stored = self.file.iter().flat_map(|f| f.tensors().keys()).filter(|n| !self.given.contains_key(*n));
        let mut names: Vec<&str> = self.given.keys().chain(stored).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether there is an input of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of an input, without reading it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let stored = || self.file.as_ref()?.tensors().get(name).map(|e| e.shape.as_slice());
        self.given.get(name).map(|t| t.shape.as_slice()).or_else(stored)
    }

    /// The input that a plan wants.
    ///
    /// # Errors
    /// When it is missing, has another shape, holds integers where the plan wants floats or the reverse, or has a value that is
    /// not finite.
    pub fn get(&self, name: &str, want: &TensorType) -> Result<Cow<'_, HostTensor>, RuntimeError> {
        self.get_with(name, want, |has| has == want.shape, || format!("{:?}", want.shape))
    }

    /// The input that a plan wants with up to `want.shape[axis]` entries on one axis, at least one: prompts may be shorter
    /// than the plan's capacity.
    ///
    /// # Errors
    /// As for [`Inputs::get`].
    pub fn get_up_to(&self, name: &str, want: &TensorType, axis: usize) -> Result<Cow<'_, HostTensor>, RuntimeError> {
        let fits = |has: &[usize]| {
            has.len() == want.shape.len()
                && has
                    .iter()
                    .zip(&want.shape)
                    .enumerate()
                    .all(|(i, (h, w))| h == w || (i == axis && (1..=*w).contains(h)))
        };
        let shown = || format!("{:?} or fewer on axis {axis}", want.shape);
        self.get_with(name, want, fits, shown)
    }

    fn get_with(
        &self,
        name: &str,
        want: &TensorType,
        fits: impl Fn(&[usize]) -> bool,
        shown: impl Fn() -> String,
    ) -> Result<Cow<'_, HostTensor>, RuntimeError> {
        let Some(shape) = self.shape(name) else {
            return Err(self.problem(name, format!("is missing; the plan wants it with shape {}", shown())));
        };
        if !fits(shape) {
            return Err(self.problem(name, format!("has shape {shape:?}, the plan wants {}", shown())));
        }
        if self.is_float(name) != want.dtype.is_float() {
            let kind = |float| if float { "floats" } else { "integers" };
            let (has, wants) = (kind(!want.dtype.is_float()), kind(want.dtype.is_float()));
            return Err(self.problem(name, format!("has {has}, the plan wants {wants}")));
        }
        match (self.given.get(name), &self.file) {
            (Some(tensor), _) => Ok(Cow::Borrowed(tensor)),
            (None, Some(file)) => file.read(name).map(Cow::Owned),
            (None, None) => Err(self.problem(name, "is missing")),
        }
    }

    fn is_float(&self, name: &str) -> bool {
        match (self.given.get(name), &self.file) {
            (Some(tensor), _) => tensor.as_f32().is_some(),
            (None, Some(file)) => file.tensors().get(name).is_some_and(|e| e.dtype.is_float()),
            (None, None) => false,
        }
    }

    /// Where the input of this name comes from, or would: the file, or `inputs`.
    pub fn place(&self, name: &str) -> String {
        match &self.file {
            Some(file) if !self.given.contains_key(name) => file.path().display().to_string(),
            _ => "inputs".into(),
        }
    }

    /// An error that says where the input comes from.
    pub(crate) fn problem(&self, name: &str, problem: impl Into<String>) -> RuntimeError {
        RuntimeError::input(&self.place(name), name, problem)
    }
}
