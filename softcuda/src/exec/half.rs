//! The 16-bit floats.

use ::half::{bf16, f16};

use crate::op::{Bin, Mode, Un};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F16,
    Bf16,
}

#[inline]
pub(crate) fn to_f32(kind: Kind, bits: u16) -> f32 {
    match kind {
        // Without branches, so that loops over lanes become vector instructions: the exponent is corrected by a
        // multiplication, which also normalises what is denormal.
        Kind::F16 => {
            let scaled = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
            let infinite = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
            f32::from_bits(scaled.to_bits() | infinite | u32::from(bits & 0x8000) << 16)
        }
        Kind::Bf16 => f32::from_bits(u32::from(bits) << 16),
    }
}

/// Rounds to nearest even.
#[inline]
pub(crate) fn from_f32(kind: Kind, value: f32) -> u16 {
    match kind {
        Kind::F16 => {
            if value.is_nan() {
                return 0x7fff;
            }
            f16::from_f32(value).to_bits()
        }
        Kind::Bf16 => {
            if value.is_nan() {
                return 0x7fff;
            }
            let bits = value.to_bits();
            (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
        }
    }
}

/// Rounds an f64 to nearest even, once.
pub(crate) fn from_f64(kind: Kind, value: f64) -> u16 {
    if value.is_nan() {
        return 0x7fff;
    }
    match kind {
        Kind::F16 => f16::from_f64(value).to_bits(),
        Kind::Bf16 => bf16::from_f64(value).to_bits(),
    }
}

fn clamp(mode: &Mode, value: f32) -> f32 {
    if mode.sat { if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) } } else { value }
}

/// One source.
pub(crate) fn unary(kind: Kind, op: Un, x: u16) -> u16 {
    let value = to_f32(kind, x);
    match op {
        Un::Neg => x ^ 0x8000,
        Un::Abs => x & 0x7fff,
        Un::Ex2 => from_f32(kind, value.exp2()),
        Un::Tanh => from_f32(kind, value.tanh()),
        Un::Rcp => from_f32(kind, 1.0 / value),
        Un::Sqrt => from_f32(kind, value.sqrt()),
        Un::Rsqrt => from_f32(kind, 1.0 / value.sqrt()),
        Un::Lg2 => from_f32(kind, value.log2()),
        Un::Sin => from_f32(kind, value.sin()),
        Un::Cos => from_f32(kind, value.cos()),
        _ => x,
    }
}

/// Two sources.
pub(crate) fn binary(kind: Kind, op: Bin, mode: &Mode, x: u16, y: u16) -> u16 {
    let (a, b) = (to_f32(kind, x), to_f32(kind, y));
    match op {
        Bin::Add => from_f32(kind, clamp(mode, a + b)),
        Bin::Sub => from_f32(kind, clamp(mode, a - b)),
        Bin::MulLo | Bin::MulHi | Bin::MulWide => from_f32(kind, clamp(mode, a * b)),
        Bin::Div => from_f32(kind, a / b),
        Bin::Min | Bin::Max => from_f32(kind, super::float::min_max(op == Bin::Max, mode.nan, a, b)),
        Bin::Copysign => x & 0x8000 | y & 0x7fff,
        _ => x,
    }
}

/// Multiply-add with one rounding.
pub(crate) fn fma(kind: Kind, mode: &Mode, x: u16, y: u16, z: u16) -> u16 {
    let (a, b, c) = (f64::from(to_f32(kind, x)), f64::from(to_f32(kind, y)), f64::from(to_f32(kind, z)));
    let mut value = a * b + c;
    if mode.sat {
        value = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) };
    }
    if mode.relu && value < 0.0 {
        value = 0.0;
    }
    from_f64(kind, value)
}
