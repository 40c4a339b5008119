//! Reading JSON objects field by field, so that every error names the field.

use serde_json::{Map, Value};

use crate::error::{ModelError, shown};

/// A JSON object with the path that leads to it.
pub(crate) struct Fields<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The object at `path` (empty for the document), whose fields all are among `known`.
    ///
    /// # Errors
    /// When the value is no object or has a field that is not known.
    pub fn new(path: &'a str, value: &'a Value, known: &[&str]) -> Result<Self, ModelError> {
        let Value::Object(map) = value else {
            let field = if path.is_empty() { "config" } else { path };
            return Err(ModelError::field(field, format!("must be an object, is {}", shown(&value.to_string()))));
        };
        let fields = Self { path, map };
        if let Some(name) = map.keys().find(|k| !known.contains(&k.as_str())) {
            let problem = format!("is unknown; the known ones are {}", known.join(", "));
            return Err(ModelError::field(fields.name(&shown(name)), problem));
        }
        Ok(fields)
    }

    /// The value of a field; `None` where it is absent.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name)
    }

    /// The value of a field; `None` where it is absent or null.
    pub fn some(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|v| !v.is_null())
    }

    /// A field that must be there.
    pub fn require(&self, name: &str) -> Result<&'a Value, ModelError> {
        self.get(name).ok_or_else(|| ModelError::field(self.name(name), "is missing"))
    }

    /// A whole number, zero or above; `default` where the field is absent, an error where there is no default.
    pub fn size(&self, name: &str, default: Option<usize>) -> Result<usize, ModelError> {
        match (self.get(name), default) {
            (None, Some(default)) => Ok(default),
            _ => self.as_size(name, self.require(name)?),
        }
    }

    /// A whole number or null.
    pub fn optional_size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.some(name).map(|v| self.as_size(name, v)).transpose()
    }

    /// A list of whole numbers.
    pub fn sizes(&self, name: &str, default: Option<&[usize]>) -> Result<Vec<usize>, ModelError> {
        match (self.get(name), default) {
            (None, Some(default)) => Ok(default.to_vec()),
            _ => match self.require(name)? {
                Value::Array(list) => list.iter().map(|v| self.as_size(name, v)).collect(),
                other => Err(self.wrong(name, "a list of whole numbers", other)),
            },
        }
    }

    /// A number.
    pub fn number(&self, name: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(name, "a number", v)),
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, name: &str, words: &[(&str, T)], default: T) -> Result<T, ModelError> {
        let Some(v) = self.get(name) else { return Ok(default) };
        let found = v.as_str().and_then(|s| words.iter().find(|(w, _)| *w == s));
        let list = || words.iter().map(|(w, _)| format!("\"{w}\"")).collect::<Vec<_>>().join(" or ");
        found.map(|(_, t)| *t).ok_or_else(|| self.wrong(name, &list(), v))
    }

    /// The error for a field that is not what it should be.
    pub fn wrong(&self, name: &str, want: &str, got: &Value) -> ModelError {
        ModelError::field(self.name(name), format!("must be {want}, is {}", shown(&got.to_string())))
    }

    /// Path of a field from the document.
    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn as_size(&self, name: &str, value: &Value) -> Result<usize, ModelError> {
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| self.wrong(name, "a whole number", value))
    }
}
