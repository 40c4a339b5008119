//! Small tensors on the host: inputs, outputs and what tests compare.

use ccl_ir::DType;

use crate::convert::{self, NotStorable};
use crate::header::{FileDType, TensorEntry};

/// The elements of a [`HostTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// Real numbers.
    F32(Vec<f32>),
    /// Whole numbers.
    I32(Vec<i32>),
}

/// A dense tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, last dimension fastest.
    pub data: HostData,
}

impl HostTensor {
    /// A tensor of real numbers. The caller vouches that there are as many as `shape` says.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: HostData::F32(data) }
    }

    /// A tensor of whole numbers. The caller vouches that there are as many as `shape` says.
    pub fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: HostData::I32(data) }
    }

    /// The real numbers, or `None` where these are whole numbers.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            HostData::F32(data) => Some(data),
            HostData::I32(_) => None,
        }
    }

    /// The whole numbers, or `None` where these are real numbers.
    pub fn as_i32(&self) -> Option<&[i32]> {
        match &self.data {
            HostData::I32(data) => Some(data),
            HostData::F32(_) => None,
        }
    }

    /// The elements as bytes, four for each.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            HostData::F32(data) => bytemuck::cast_slice(data),
            HostData::I32(data) => bytemuck::cast_slice(data),
        }
    }

    /// Converts a file's tensor: floats of any width to `f32`, integers to `i32`.
    ///
    /// # Errors
    /// As the rest of a sentence about the tensor: a value is not finite or too large, or memory is short.
    pub(crate) fn from_file(entry: &TensorEntry, bytes: &[u8]) -> Result<Self, String> {
        let elements = bytes.len() / entry.dtype.bytes();
        let data = if entry.dtype.is_float() {
            let mut data = zeroed::<f32>(elements)?;
            convert::convert(entry.dtype, bytes, DType::F32, bytemuck::cast_slice_mut(&mut data))
                .map_err(|e| e.to_string())?;
            HostData::F32(data)
        } else {
            let mut data = zeroed::<i32>(elements)?;
            for (index, out) in data.iter_mut().enumerate() {
                *out = integer(entry.dtype, bytes, index)?;
            }
            HostData::I32(data)
        };
        Ok(Self { shape: entry.shape.clone(), data })
    }
}

fn integer(dtype: FileDType, bytes: &[u8], index: usize) -> Result<i32, String> {
    let at = &bytes[index * dtype.bytes()..];
    match (dtype, at.first_chunk::<8>(), at.first_chunk::<4>()) {
        (FileDType::I64, Some(b), _) => {
            let value = i64::from_le_bytes(*b);
            i32::try_from(value).map_err(|_| NotStorable { index, value: value as f64, to: "i32" }.to_string())
        }
        (_, _, Some(b)) => Ok(i32::from_le_bytes(*b)),
        _ => Ok(0),
    }
}

/// A vector of zeros, or an error where memory is short (instead of the abort that `vec!` would be).
fn zeroed<T: bytemuck::Zeroable + Clone>(elements: usize) -> Result<Vec<T>, String> {
    let mut data = Vec::new();
    data.try_reserve_exact(elements).map_err(|_| format!("has {elements} elements, which do not fit into memory"))?;
    data.resize(elements, T::zeroed());
    Ok(data)
}
