//! Conversion of stored floats to the type that a plan wants.
//!
//! Widening is exact, narrowing rounds once to the nearest value, ties to even. A value that is not finite, or becomes so,
//! is an error: NaN and infinity never enter a plan this way. The result does not depend on the number of threads.

use std::fmt;

use ccl_ir::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::header::FileDType;

/// Elements that one task converts.
pub(crate) const CHUNK: usize = 1 << 15;

/// A value that the wanted type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotStorable {
    /// Its index in row-major order.
    pub index: usize,
    /// The value.
    pub value: f64,
    /// Name of the wanted type.
    pub to: &'static str,
}

impl fmt::Display for NotStorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, value, to } = self;
        if value.abs() >= 1e15 && value.is_finite() {
            // Hundreds of digits help nobody.
            write!(f, "has the value {value:e} at element {index}, too large for {to}")
        } else if value.is_finite() {
            write!(f, "has the value {value} at element {index}, too large for {to}")
        } else {
            write!(f, "has the value {value} at element {index}; only finite numbers are allowed")
        }
    }
}

/// A stored float.
trait Stored: Copy {
    const BYTES: usize;
    fn read(bytes: &[u8]) -> Self;
    /// The value itself.
    fn to_f64(self) -> f64;
    /// The value where `f32` holds it, else its odd neighbour: rounding that to a half gives what one step would.
    fn to_f32_odd(self) -> f32;
}

/// A float that plans use.
trait Wanted: Copy + Send {
    const BYTES: usize;
    const NAME: &'static str;
    fn round(from: impl Stored) -> Self;
    fn is_finite(self) -> bool;
    fn write(self, bytes: &mut [u8]);
}

macro_rules! stored {
    ($t:ty, $to_f64:expr, $to_f32_odd:expr) => {
        impl Stored for $t {
            const BYTES: usize = size_of::<$t>();
            fn read(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$t>()];
                own.copy_from_slice(bytes);
                <$t>::from_le_bytes(own)
            }
            fn to_f64(self) -> f64 {
                $to_f64(self)
            }
            fn to_f32_odd(self) -> f32 {
                $to_f32_odd(self)
            }
        }
    };
}
stored!(f64, |x| x, round_to_odd);
stored!(f32, f64::from, |x| x);
stored!(f16, f16::to_f64, f16::to_f32);
stored!(bf16, bf16::to_f64, bf16::to_f32);

macro_rules! wanted {
    ($t:ty, $name:literal, $round:expr) => {
        impl Wanted for $t {
            const BYTES: usize = size_of::<$t>();
            const NAME: &'static str = $name;
            fn round(from: impl Stored) -> Self {
                $round(from)
            }
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    };
}
wanted!(f32, "f32", |x: _| Stored::to_f64(x) as f32);
wanted!(f16, "f16", |x: _| f16::from_f32(Stored::to_f32_odd(x)));
wanted!(bf16, "bf16", |x: _| bf16::from_f32(Stored::to_f32_odd(x)));

/// Rounds to the neighbour whose last bit is 1 unless `f32` holds `x` exactly.
///
/// `half` drops the low bits of an `f64` before it rounds, which turns values just above a tie into ties. An odd last
/// bit keeps them apart: see Boldo and Melquiond, "When double rounding is odd" (2005).
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || x.is_nan() {
        return nearest;
    }
    // Towards zero, then up to odd; the magnitude of a float grows with its bits.
    let beyond = f64::from(nearest).abs() > x.abs();
    f32::from_bits((nearest.to_bits() - u32::from(beyond)) | 1)
}

/// Converts `src` to elements of type `to`, which is a float.
///
/// # Errors
/// The first value in `src` that is not finite or that `to` cannot hold.
///
/// # Panics
/// When `from` or `to` are integers or `dst` has not the size of the result; callers check both.
pub(crate) fn convert(from: FileDType, src: &[u8], to: DType, dst: &mut [u8]) -> Result<(), NotStorable> {
    match from {
        FileDType::F64 => convert_from::<f64>(src, to, dst),
        FileDType::F32 => convert_from::<f32>(src, to, dst),
        FileDType::F16 => convert_from::<f16>(src, to, dst),
        FileDType::Bf16 => convert_from::<bf16>(src, to, dst),
        FileDType::I64 | FileDType::I32 => unreachable!("integers are never converted to floats"),
    }
}

fn convert_from<S: Stored>(src: &[u8], to: DType, dst: &mut [u8]) -> Result<(), NotStorable> {
    match to {
        DType::F32 => convert_all::<S, f32>(src, dst),
        DType::F16 => convert_all::<S, f16>(src, dst),
        DType::Bf16 => convert_all::<S, bf16>(src, dst),
        DType::I32 => unreachable!("floats are never converted to integers"),
    }
}

fn convert_all<S: Stored, W: Wanted>(src: &[u8], dst: &mut [u8]) -> Result<(), NotStorable> {
    assert_eq!(src.len() / S::BYTES, dst.len() / W::BYTES, "sizes of conversion");
    let convert_chunk = |(chunk, (dst, src)): (usize, (&mut [u8], &[u8]))| {
        let mut bad = None;
        for (i, (to, from)) in dst.chunks_exact_mut(W::BYTES).zip(src.chunks_exact(S::BYTES)).enumerate() {
            let value = S::read(from);
            let rounded = W::round(value);
            if !rounded.is_finite() && bad.is_none() {
                bad = Some(NotStorable { index: chunk * CHUNK + i, value: value.to_f64(), to: W::NAME });
            }
            rounded.write(to);
        }
        bad
    };
    let bad = if dst.len() <= CHUNK * W::BYTES {
        // On this thread: a reader of many small tensors must not wait for threads that compute.
        convert_chunk((0, (dst, src)))
    } else {
        let chunks = dst.par_chunks_mut(CHUNK * W::BYTES).zip(src.par_chunks(CHUNK * S::BYTES));
        chunks.enumerate().find_map_first(convert_chunk)
    };
    bad.map_or(Ok(()), Err)
}

/// The bytes of `src` as elements of type `to`, a float, little-endian.
///
/// # Errors
/// The first value that is not finite or that `to` cannot hold.
///
/// # Panics
/// When `to` is no float.
pub fn narrow(src: &[f32], to: DType) -> Result<Vec<u8>, NotStorable> {
    let mut dst = vec![0; src.len() * to.bytes() as usize];
    convert(FileDType::F32, bytemuck::cast_slice(src), to, &mut dst)?;
    Ok(dst)
}

/// Rounds `src` to elements of type `to`, which is a float; values too large become infinite.
pub(crate) fn round_to(src: &[f32], to: DType, dst: &mut [u8]) {
    fn all<W: Wanted>(src: &[f32], dst: &mut [u8]) {
        for (to, &from) in dst.chunks_exact_mut(W::BYTES).zip(src) {
            W::round(from).write(to);
        }
    }
    match to {
        DType::F32 => all::<f32>(src, dst),
        DType::F16 => all::<f16>(src, dst),
        DType::Bf16 => all::<bf16>(src, dst),
        DType::I32 => unreachable!("floats are never converted to integers"),
    }
}
