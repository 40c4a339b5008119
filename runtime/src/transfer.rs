//! Tensors of the caller into and out of a plan's memory.

use ccl_ir::plan::Operand;
use ccl_ir::{DType, Tensor, TensorType};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::convert::CHUNK;
use crate::error::RuntimeError;
use crate::host::{HostData, HostTensor};

/// The elements that an operand views, from all bytes of its place; integers become whole numbers.
pub(crate) fn gather(o: &Operand, bytes: &[u8]) -> Tensor<f32> {
    Tensor::from_fn(o.ty.shape.clone(), |index| {
        let steps: u64 = index.iter().zip(&o.strides).map(|(&i, s)| i as u64 * s).sum();
        element(o.ty.dtype, bytes, (o.offset + steps) as usize)
    })
}

fn element(dtype: DType, bytes: &[u8], index: usize) -> f32 {
    let at = index * dtype.bytes() as usize;
    let two = || [bytes[at], bytes[at + 1]];
    let four = || [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    match dtype {
        DType::F32 => f32::from_ne_bytes(four()),
        DType::F16 => f16::from_ne_bytes(two()).to_f32(),
        DType::Bf16 => bf16::from_ne_bytes(two()).to_f32(),
        DType::I32 => i32::from_ne_bytes(four()) as f32,
    }
}

impl HostTensor {
    /// What an operator evaluated to, as numbers of the kind that `dtype` is of.
    pub(crate) fn of(dtype: DType, tensor: Tensor<f32>) -> Self {
        if dtype.is_float() {
            Self::f32(tensor.shape, tensor.data)
        } else {
            Self::i32(tensor.shape, tensor.data.iter().map(|&x| x as i32).collect())
        }
    }

    /// A tensor of zeros of this type, real numbers of every type as `f32`.
    pub fn zeros(ty: &TensorType) -> Self {
        let n = ty.elements() as usize;
        let data = if ty.dtype.is_float() { HostData::F32(vec![0.0; n]) } else { HostData::I32(vec![0; n]) };
        Self { shape: ty.shape.clone(), data }
    }

    /// Type and shape, for messages.
    pub fn ty(&self) -> TensorType {
        let dtype = if self.as_f32().is_some() { DType::F32 } else { DType::I32 };
        TensorType::new(dtype, self.shape.clone())
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.as_f32().is_none_or(|d| d.iter().all(|x| x.is_finite()))
    }

    /// Checks that this tensor can be written where a plan wants `want`: the same shape, and real numbers for real
    /// numbers.
    ///
    /// # Errors
    /// Names the tensor, what it is and what it should be.
    pub fn check(&self, name: &str, want: &TensorType) -> Result<(), RuntimeError> {
        let got = self.ty();
        if got.shape != want.shape || got.dtype.is_float() != want.dtype.is_float() {
            return Err(RuntimeError::input("inputs", name, format!("is {got}, the plan wants {want}")));
        }
        let have = self.as_f32().map_or_else(|| self.as_i32().map_or(0, <[i32]>::len), <[f32]>::len);
        if got.checked_elements() != Some(have as u64) {
            return Err(RuntimeError::input("inputs", name, format!("is said to be {got} but has {have} elements")));
        }
        Ok(())
    }

    /// Writes the elements as `dtype` into `out`, which has room for exactly these.
    pub(crate) fn encode(&self, dtype: DType, out: &mut [u8]) {
        match (&self.data, dtype) {
            (HostData::F32(d), DType::F16) => put(d, out, |x| f16::from_f32(x).to_ne_bytes()),
            (HostData::F32(d), DType::Bf16) => put(d, out, |x| bf16::from_f32(x).to_ne_bytes()),
            (HostData::F32(d), _) => out.copy_from_slice(bytemuck::cast_slice(d)),
            (HostData::I32(d), _) => out.copy_from_slice(bytemuck::cast_slice(d)),
        }
    }

    /// Reads elements that are stored as `ty` says.
    pub(crate) fn decode(ty: &TensorType, bytes: &[u8]) -> Self {
        let data = match ty.dtype {
            DType::F32 => HostData::F32(get(bytes, f32::from_ne_bytes)),
            DType::F16 => HostData::F32(get(bytes, |b| f16::from_ne_bytes(b).to_f32())),
            DType::Bf16 => HostData::F32(get(bytes, |b| bf16::from_ne_bytes(b).to_f32())),
            DType::I32 => HostData::I32(get(bytes, i32::from_ne_bytes)),
        };
        Self { shape: ty.shape.clone(), data }
    }
}

fn put<T: Copy + Sync, const N: usize>(data: &[T], out: &mut [u8], bytes: impl Fn(T) -> [u8; N] + Sync) {
    let some = |data: &[T], out: &mut [u8]| {
        for (x, o) in data.iter().zip(out.as_chunks_mut::<N>().0) {
            *o = bytes(*x);
        }
    };
    if data.len() <= CHUNK {
        // On this thread: small tensors must not wait for threads that compute.
        return some(data, out);
    }
    out.par_chunks_mut(CHUNK * N).zip(data.par_chunks(CHUNK)).for_each(|(out, data)| some(data, out));
}

fn get<T: Send, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    let elements = bytes.as_chunks::<N>().0;
    if elements.len() <= CHUNK {
        return elements.iter().map(|&b| value(b)).collect();
    }
    elements.par_iter().with_min_len(CHUNK).map(|&b| value(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_and_decode_agree() {
        let t = HostTensor::f32([2, 2], vec![0.5, -1.0, 3.25, 1e-3]);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let ty = TensorType::new(dtype, [2, 2]);
            let mut bytes = vec![0; ty.bytes() as usize];
            t.encode(dtype, &mut bytes);
            let back = HostTensor::decode(&ty, &bytes);
            assert_eq!(back.shape, t.shape);
            for (a, b) in back.as_f32().into_iter().flatten().zip(t.as_f32().into_iter().flatten()) {
                let room = if dtype == DType::F32 { 0.0 } else { b.abs() / 128.0 };
                assert!((a - b).abs() <= room, "{dtype}: {a} {b}");
            }
        }
        let n = HostTensor::i32([1], vec![-7]);
        let mut bytes = [0; 4];
        n.encode(DType::I32, &mut bytes);
        assert_eq!(HostTensor::decode(&TensorType::new(DType::I32, [1]), &bytes), n);
    }

    #[test]
    fn check_names_the_tensor_and_both_types() {
        let t = HostTensor::f32([2, 3], vec![0.0; 6]);
        assert!(t.check("x", &TensorType::new(DType::Bf16, [2, 3])).is_ok());
        let wrong = t.check("x", &TensorType::f32([3, 2])).map_err(|e| e.to_string());
        assert_eq!(wrong, Err("inputs: `x` is f32[2,3], the plan wants f32[3,2]".into()));
        assert!(t.check("x", &TensorType::new(DType::I32, [2, 3])).is_err());
        assert!(HostTensor::f32([2, 3], vec![0.0; 5]).check("x", &TensorType::f32([2, 3])).is_err());
    }
}
