//! `cvt`: every type to every other.

use super::access::{cut, extend};
use super::half::{Kind, from_f32, from_f64, to_f32};
use super::{Lanes, put};
use crate::op::{Mode, Op, Round, Ty};

fn integral(round: Round, x: f64) -> f64 {
    match round {
        Round::Near => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// A float as an integer of type `to`: saturating, NaN to zero.
fn to_integer(to: Ty, round: Round, x: f64) -> u64 {
    let x = integral(round, x);
    match to {
        Ty::S8 => x as i8 as u8 as u64,
        Ty::S16 => x as i16 as u16 as u64,
        Ty::S32 => x as i32 as u32 as u64,
        Ty::S64 => x as i64 as u64,
        Ty::U8 | Ty::B8 => x as u8 as u64,
        Ty::U16 | Ty::B16 => x as u16 as u64,
        Ty::U32 | Ty::B32 => x as u32 as u64,
        _ => x as u64,
    }
}

fn kind(ty: Ty) -> Kind {
    if matches!(ty, Ty::F16 | Ty::F16x2) { Kind::F16 } else { Kind::Bf16 }
}

/// A float of type `from` as f64 (exact).
fn widen(from: Ty, ftz: bool, bits: u64) -> f64 {
    match from {
        Ty::F64 => f64::from_bits(bits),
        Ty::F16 | Ty::Bf16 => f64::from(to_f32(kind(from), bits as u16)),
        _ => f64::from(super::float::flush(ftz, f32::from_bits(bits as u32))),
    }
}

/// A half with directed rounding.
fn half_directed(kind: Kind, x: f64, round: Round) -> u16 {
    let near = from_f64(kind, x);
    let back = f64::from(to_f32(kind, near));
    if round == Round::Near || !back.is_finite() && x.is_infinite() || x.is_nan() || back == x {
        return near;
    }
    let shrink = match round {
        Round::Zero => back.abs() > x.abs(),
        Round::Down => back > x && x > 0.0,
        Round::Up => back < x && x < 0.0,
        _ => false,
    };
    let grow = match round {
        Round::Down => back > x && x < 0.0,
        Round::Up => back < x && x > 0.0,
        _ => false,
    };
    near.wrapping_sub(u16::from(shrink)).wrapping_add(u16::from(grow))
}

/// A float of type `to` from an f64 that holds the source exactly (or an integer within its precision).
fn narrow(to: Ty, mode: &Mode, x: f64) -> u64 {
    let mut x = if mode.integral { integral(mode.round, x) } else { x };
    if mode.sat {
        x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
    }
    if mode.relu && (x < 0.0 || x.is_nan()) {
        x = 0.0;
    }
    let round = if mode.integral { Round::Near } else { mode.round };
    match to {
        Ty::F64 => x.to_bits(),
        Ty::F16 | Ty::Bf16 => u64::from(half_directed(kind(to), x, round)),
        Ty::Tf32 => {
            let bits = (x as f32).to_bits();
            if x.is_nan() || x.is_infinite() {
                return u64::from(bits);
            }
            let bits = match round {
                Round::Away => bits.wrapping_add(0x1000),
                Round::Zero => bits,
                _ => bits.wrapping_add(0xfff + (bits >> 13 & 1)),
            };
            u64::from(bits & !0x1fff)
        }
        _ => {
            let value = super::float::flush(mode.ftz, super::float::narrow(x, 0.0, round));
            u64::from(value.to_bits())
        }
    }
}

/// An integer as a float of type `to`.
fn from_integer(to: Ty, from: Ty, mode: &Mode, raw: u64) -> u64 {
    let value = extend(from, raw);
    let exact = from.size() < 8 || if from.signed() { (value as i64).unsigned_abs() } else { value } < 1 << 53;
    if exact {
        let x = if from.signed() { value as i64 as f64 } else { value as f64 };
        return narrow(to, mode, x);
    }
    // Wider than an f64's precision: one rounding straight to the target.
    match (to, from.signed()) {
        (Ty::F32, true) => u64::from((value as i64 as f32).to_bits()),
        (Ty::F32, false) => u64::from((value as f32).to_bits()),
        (_, true) => narrow(to, mode, value as i64 as f64),
        (_, false) => narrow(to, mode, value as f64),
    }
}

fn saturate(to: Ty, from: Ty, raw: u64) -> u64 {
    let value = if from.signed() { i128::from(extend(from, raw) as i64) } else { i128::from(raw) };
    let bits = to.size() * 8;
    let (low, high) =
        if to.signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    value.clamp(low, high) as u64
}

/// One value.
fn convert(to: Ty, from: Ty, mode: &Mode, raw: u64, width: u32) -> u64 {
    let raw = cut(raw, from.size());
    match (to.float(), from.float()) {
        (false, false) => {
            let value = if mode.sat { saturate(to, from, raw) } else { extend(from, raw) };
            cut(extend(to, cut(value, to.size())), width.max(to.size()))
        }
        (false, true) => {
            let value = to_integer(to, mode.round, widen(from, mode.ftz, raw));
            cut(extend(to, value), width.max(to.size()))
        }
        (true, false) => from_integer(to, from, mode, raw),
        (true, true) => narrow(to, mode, widen(from, mode.ftz, raw)),
    }
}

/// Runs a `cvt`.
#[inline(always)]
pub(crate) fn run(regs: &mut [Lanes], mask: u32, op: &Op) {
    let &Op::Cvt { to, from, mode, d, a, b, width } = op else { unreachable!("only conversions come here") };
    let a = regs[a as usize];
    match (to, from) {
        (Ty::F16x2 | Ty::Bf16x2, _) => {
            let b = regs[b as usize];
            let each = if to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            put(regs, mask, d, |l| convert(each, from, &mode, a[l], 2) << 16 | convert(each, from, &mode, b[l], 2));
        }
        // The common forms by themselves.
        (Ty::U64 | Ty::S64 | Ty::U32 | Ty::S32, Ty::U32) if !mode.sat => put(regs, mask, d, |l| u64::from(a[l] as u32)),
        (Ty::U32 | Ty::S32, Ty::U64 | Ty::S64) if !mode.sat && width == 4 => {
            put(regs, mask, d, |l| u64::from(a[l] as u32))
        }
        (Ty::S64, Ty::S32) => put(regs, mask, d, |l| a[l] as i32 as i64 as u64),
        (Ty::F32, Ty::S32) if mode.round == Round::Near => {
            put(regs, mask, d, |l| u64::from((a[l] as i32 as f32).to_bits()))
        }
        (Ty::F32, Ty::U32) if mode.round == Round::Near => {
            put(regs, mask, d, |l| u64::from((a[l] as u32 as f32).to_bits()))
        }
        (Ty::F32, Ty::F16) if !mode.sat && !mode.integral => {
            put(regs, mask, d, |l| u64::from(to_f32(Kind::F16, a[l] as u16).to_bits()));
        }
        (Ty::F32, Ty::Bf16) if !mode.sat && !mode.integral => put(regs, mask, d, |l| u64::from((a[l] as u32) << 16)),
        (Ty::F16 | Ty::Bf16, Ty::F32) if mode.round == Round::Near && !mode.sat && !mode.relu && !mode.integral => {
            let k = kind(to);
            put(regs, mask, d, |l| u64::from(from_f32(k, f32::from_bits(a[l] as u32))));
        }
        _ => put(regs, mask, d, |l| convert(to, from, &mode, a[l], width)),
    }
}
