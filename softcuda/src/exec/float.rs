//! f32 and f64 arithmetic.

use super::{Lanes, put};
use crate::op::{Bin, Mode, Round, Row, Ty, Un};

#[inline(always)]
fn f(value: u64) -> f32 {
    f32::from_bits(value as u32)
}

#[inline(always)]
fn d(value: u64) -> f64 {
    f64::from_bits(value)
}

/// Flushes a subnormal to a zero of its sign.
#[inline(always)]
pub(crate) fn flush(ftz: bool, x: f32) -> f32 {
    if ftz && x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// `min` and `max` of PTX: the other value wins over NaN, unless `.NaN` says otherwise.
#[inline(always)]
pub(crate) fn min_max(max: bool, nan: bool, a: f32, b: f32) -> f32 {
    if nan && (a.is_nan() || b.is_nan()) {
        return f32::from_bits(0x7fff_ffff);
    }
    if a.is_nan() {
        return b;
    }
    if b.is_nan() {
        return a;
    }
    if a == b {
        // The zeros differ by sign.
        return if a.is_sign_negative() == max { b } else { a };
    }
    if (a > b) == max { a } else { b }
}

/// The neighbour of an f32 in the direction of `up`.
fn next(x: f32, up: bool) -> f32 {
    if up { x.next_up() } else { x.next_down() }
}

/// Rounds `high + low` (exact, `low` below half an ulp of `high`) to f32.
pub(crate) fn narrow(high: f64, low: f64, round: Round) -> f32 {
    let near = high as f32;
    if round == Round::Near || round == Round::Away || !near.is_finite() || high.is_nan() {
        return near;
    }
    let back = f64::from(near);
    let difference = if back == high { low } else { high - back };
    match round {
        Round::Zero if back > 0.0 && difference < 0.0 => next(near, false),
        Round::Zero if back < 0.0 && difference > 0.0 => next(near, true),
        Round::Down if difference < 0.0 => next(near, false),
        Round::Up if difference > 0.0 => next(near, true),
        _ => near,
    }
}

/// `a * b + c` in f64 with its rounding error.
fn exact(a: f32, b: f32, c: f32) -> (f64, f64) {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let part = sum - product;
    (sum, (product - (sum - part)) + (c - part))
}

#[inline(always)]
fn finish(mode: Mode, x: f32) -> u64 {
    let x = flush(mode.ftz, x);
    let x = if mode.sat { if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) } } else { x };
    u64::from(x.to_bits())
}

#[inline(always)]
pub(crate) fn unary(regs: &mut [Lanes], mask: u32, op: Un, ty: Ty, mode: Mode, t: Row, a: Row) {
    let a = regs[a as usize];
    if ty == Ty::F64 {
        match op {
            Un::Abs => put(regs, mask, t, |l| a[l] & !(1 << 63)),
            Un::Neg => put(regs, mask, t, |l| a[l] ^ 1 << 63),
            Un::Rcp => put(regs, mask, t, |l| (1.0 / d(a[l])).to_bits()),
            Un::Sqrt => put(regs, mask, t, |l| d(a[l]).sqrt().to_bits()),
            Un::Rsqrt => put(regs, mask, t, |l| (1.0 / d(a[l]).sqrt()).to_bits()),
            _ => put(regs, mask, t, |l| a[l]),
        }
        return;
    }
    let x = |l: usize| flush(mode.ftz, f(a[l]));
    match op {
        Un::Abs => put(regs, mask, t, |l| finish(mode, x(l).abs())),
        Un::Neg => put(regs, mask, t, |l| finish(mode, -x(l))),
        Un::Rcp => put(regs, mask, t, |l| finish(mode, 1.0 / x(l))),
        Un::Sqrt => put(regs, mask, t, |l| finish(mode, x(l).sqrt())),
        Un::Rsqrt => put(regs, mask, t, |l| finish(mode, (1.0 / f64::from(x(l)).sqrt()) as f32)),
        Un::Ex2 => put(regs, mask, t, |l| finish(mode, x(l).exp2())),
        Un::Lg2 => put(regs, mask, t, |l| finish(mode, x(l).log2())),
        Un::Sin => put(regs, mask, t, |l| finish(mode, x(l).sin())),
        Un::Cos => put(regs, mask, t, |l| finish(mode, x(l).cos())),
        Un::Tanh => put(regs, mask, t, |l| finish(mode, x(l).tanh())),
        _ => put(regs, mask, t, |l| a[l]),
    }
}

#[inline(always)]
pub(crate) fn binary(regs: &mut [Lanes], mask: u32, op: Bin, ty: Ty, mode: Mode, t: Row, a: Row, b: Row) {
    let (a, b) = (regs[a as usize], regs[b as usize]);
    if ty == Ty::F64 {
        match op {
            Bin::Add => put(regs, mask, t, |l| (d(a[l]) + d(b[l])).to_bits()),
            Bin::Sub => put(regs, mask, t, |l| (d(a[l]) - d(b[l])).to_bits()),
            Bin::Div => put(regs, mask, t, |l| (d(a[l]) / d(b[l])).to_bits()),
            Bin::Min => put(regs, mask, t, |l| d(a[l]).min(d(b[l])).to_bits()),
            Bin::Max => put(regs, mask, t, |l| d(a[l]).max(d(b[l])).to_bits()),
            Bin::Copysign => put(regs, mask, t, |l| a[l] & 1 << 63 | b[l] & !(1 << 63)),
            _ => put(regs, mask, t, |l| (d(a[l]) * d(b[l])).to_bits()),
        }
        return;
    }
    let (x, y) = (|l: usize| flush(mode.ftz, f(a[l])), |l: usize| flush(mode.ftz, f(b[l])));
    if mode.round != Round::Near && matches!(op, Bin::Add | Bin::Sub | Bin::MulLo) {
        let round = mode.round;
        put(regs, mask, t, |l| {
            let (high, low) = match op {
                Bin::Add => exact(x(l), 1.0, y(l)),
                Bin::Sub => exact(x(l), 1.0, -y(l)),
                _ => exact(x(l), y(l), 0.0),
            };
            finish(mode, narrow(high, low, round))
        });
        return;
    }
    if !mode.ftz && !mode.sat {
        // The common forms, without anything that would keep the compiler from using vectors.
        match op {
            Bin::Add => return put(regs, mask, t, |l| u64::from((f(a[l]) + f(b[l])).to_bits())),
            Bin::Sub => return put(regs, mask, t, |l| u64::from((f(a[l]) - f(b[l])).to_bits())),
            Bin::MulLo => return put(regs, mask, t, |l| u64::from((f(a[l]) * f(b[l])).to_bits())),
            _ => {}
        }
    }
    match op {
        Bin::Add => put(regs, mask, t, |l| finish(mode, x(l) + y(l))),
        Bin::Sub => put(regs, mask, t, |l| finish(mode, x(l) - y(l))),
        Bin::Div => put(regs, mask, t, |l| finish(mode, x(l) / y(l))),
        Bin::Min => put(regs, mask, t, |l| finish(mode, min_max(false, mode.nan, x(l), y(l)))),
        Bin::Max => put(regs, mask, t, |l| finish(mode, min_max(true, mode.nan, x(l), y(l)))),
        Bin::Copysign => put(regs, mask, t, |l| u64::from(a[l] as u32 & 0x8000_0000 | b[l] as u32 & 0x7fff_ffff)),
        _ => put(regs, mask, t, |l| finish(mode, x(l) * y(l))),
    }
}

#[inline(always)]
pub(crate) fn ternary(regs: &mut [Lanes], mask: u32, ty: Ty, mode: Mode, t: Row, abc: [Row; 3]) {
    let [a, b, c] = abc.map(|r| regs[r as usize]);
    if ty == Ty::F64 {
        return put(regs, mask, t, |l| d(a[l]).mul_add(d(b[l]), d(c[l])).to_bits());
    }
    match () {
        _ if mode.round != Round::Near => put(regs, mask, t, |l| {
            let (high, low) = exact(flush(mode.ftz, f(a[l])), flush(mode.ftz, f(b[l])), flush(mode.ftz, f(c[l])));
            finish(mode, narrow(high, low, mode.round))
        }),
        _ if !mode.ftz && !mode.sat => {
            put(regs, mask, t, |l| u64::from(f(a[l]).mul_add(f(b[l]), f(c[l])).to_bits()));
        }
        _ => put(regs, mask, t, |l| {
            let value = flush(mode.ftz, f(a[l])).mul_add(flush(mode.ftz, f(b[l])), flush(mode.ftz, f(c[l])));
            finish(mode, value)
        }),
    }
}
