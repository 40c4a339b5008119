//! Integer arithmetic.

use super::access::{cut, extend};
use super::{Lanes, put};
use crate::op::{Bin, Row, Tri, Ty, Un};

#[inline(always)]
pub(crate) fn unary(regs: &mut [Lanes], mask: u32, op: Un, ty: Ty, t: Row, a: Row) {
    let a = regs[a as usize];
    let size = ty.size();
    let bits = u64::from(size * 8);
    let x = |l: usize| cut(a[l], size);
    match op {
        Un::Not if ty == Ty::Pred => put(regs, mask, t, |l| !a[l] & 1),
        Un::Not => put(regs, mask, t, |l| cut(!a[l], size)),
        Un::Neg => put(regs, mask, t, |l| cut(a[l].wrapping_neg(), size)),
        Un::Abs => put(regs, mask, t, |l| cut((extend(ty, x(l)) as i64).wrapping_abs() as u64, size)),
        Un::Cnot => put(regs, mask, t, |l| u64::from(x(l) == 0)),
        Un::Popc => put(regs, mask, t, |l| u64::from(x(l).count_ones())),
        Un::Clz => put(regs, mask, t, |l| u64::from(x(l).leading_zeros()) - (64 - bits)),
        Un::Brev => put(regs, mask, t, |l| x(l).reverse_bits() >> (64 - bits)),
        Un::Bfind(shift) => put(regs, mask, t, |l| {
            let v = if ty.signed() && (extend(ty, x(l)) as i64) < 0 { cut(!x(l), size) } else { x(l) };
            match v {
                0 => 0xffff_ffff,
                v if shift => u64::from(v.leading_zeros()) - (64 - bits),
                v => 63 - u64::from(v.leading_zeros()),
            }
        }),
        _ => put(regs, mask, t, |l| a[l]),
    }
}

#[inline(always)]
pub(crate) fn binary(regs: &mut [Lanes], mask: u32, op: Bin, ty: Ty, sat: bool, t: Row, a: Row, b: Row) {
    let (a, b) = (regs[a as usize], regs[b as usize]);
    let size = ty.size();
    let signed = ty.signed();
    if size == 4 && !sat {
        // Most instructions are 32 bits wide: forms that vectorise.
        let (x, y) = (|l: usize| a[l] as u32, |l: usize| b[l] as u32);
        match op {
            Bin::Add => return put(regs, mask, t, |l| u64::from(x(l).wrapping_add(y(l)))),
            Bin::Sub => return put(regs, mask, t, |l| u64::from(x(l).wrapping_sub(y(l)))),
            Bin::MulLo => return put(regs, mask, t, |l| u64::from(x(l).wrapping_mul(y(l)))),
            Bin::MulWide if !signed => return put(regs, mask, t, |l| u64::from(x(l)) * u64::from(y(l))),
            Bin::Shl => return put(regs, mask, t, |l| u64::from(x(l).checked_shl(y(l)).unwrap_or(0))),
            Bin::Shr if !signed => return put(regs, mask, t, |l| u64::from(x(l).checked_shr(y(l)).unwrap_or(0))),
            Bin::Shr => return put(regs, mask, t, |l| u64::from((x(l) as i32 >> y(l).min(31)) as u32)),
            _ => {}
        }
    }
    let sx = |l: usize| extend(ty, cut(a[l], size)) as i64;
    let sy = |l: usize| extend(ty, cut(b[l], size)) as i64;
    let (ux, uy) = (|l: usize| cut(a[l], size), |l: usize| cut(b[l], size));
    match op {
        Bin::And => put(regs, mask, t, |l| a[l] & b[l]),
        Bin::Or => put(regs, mask, t, |l| a[l] | b[l]),
        Bin::Xor => put(regs, mask, t, |l| a[l] ^ b[l]),
        Bin::Add if sat => put(regs, mask, t, |l| saturate(sx(l) + sy(l))),
        Bin::Sub if sat => put(regs, mask, t, |l| saturate(sx(l) - sy(l))),
        Bin::Add => put(regs, mask, t, |l| cut(a[l].wrapping_add(b[l]), size)),
        Bin::Sub => put(regs, mask, t, |l| cut(a[l].wrapping_sub(b[l]), size)),
        Bin::MulLo => put(regs, mask, t, |l| cut(a[l].wrapping_mul(b[l]), size)),
        Bin::MulWide if signed => put(regs, mask, t, |l| cut(sx(l).wrapping_mul(sy(l)) as u64, size * 2)),
        Bin::MulWide => put(regs, mask, t, |l| cut(ux(l).wrapping_mul(uy(l)), size * 2)),
        Bin::MulHi if signed => {
            put(regs, mask, t, |l| cut(((i128::from(sx(l)) * i128::from(sy(l))) >> (size * 8)) as u64, size));
        }
        Bin::MulHi => put(regs, mask, t, |l| cut(((u128::from(ux(l)) * u128::from(uy(l))) >> (size * 8)) as u64, size)),
        // Hardware divides by zero to all ones.
        Bin::Div if signed => put(regs, mask, t, |l| match sy(l) {
            0 => cut(u64::MAX, size),
            y => cut(sx(l).wrapping_div(y) as u64, size),
        }),
        Bin::Div => put(regs, mask, t, |l| ux(l).checked_div(uy(l)).unwrap_or(cut(u64::MAX, size))),
        Bin::Rem if signed => put(regs, mask, t, |l| match sy(l) {
            0 => cut(sx(l) as u64, size),
            y => cut(sx(l).wrapping_rem(y) as u64, size),
        }),
        Bin::Rem => put(regs, mask, t, |l| ux(l).checked_rem(uy(l)).unwrap_or(ux(l))),
        Bin::Min if signed => put(regs, mask, t, |l| cut(sx(l).min(sy(l)) as u64, size)),
        Bin::Min => put(regs, mask, t, |l| ux(l).min(uy(l))),
        Bin::Max if signed => put(regs, mask, t, |l| cut(sx(l).max(sy(l)) as u64, size)),
        Bin::Max => put(regs, mask, t, |l| ux(l).max(uy(l))),
        Bin::Shl => put(regs, mask, t, |l| match b[l] as u32 {
            n if n >= size * 8 => 0,
            n => cut(a[l] << n, size),
        }),
        Bin::Shr if signed => put(regs, mask, t, |l| cut((sx(l) >> (b[l] as u32).min(size * 8 - 1)) as u64, size)),
        Bin::Shr => put(regs, mask, t, |l| match b[l] as u32 {
            n if n >= size * 8 => 0,
            n => ux(l) >> n,
        }),
        Bin::Copysign => {}
    }
}

fn saturate(value: i64) -> u64 {
    u64::from(value.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 as u32)
}

#[inline(always)]
pub(crate) fn ternary(regs: &mut [Lanes], mask: u32, op: Tri, ty: Ty, t: Row, abc: [Row; 3]) {
    let [a, b, c] = abc.map(|r| regs[r as usize]);
    let size = ty.size();
    let signed = ty.signed();
    let sx = |l: usize| extend(ty, cut(a[l], size)) as i64;
    let sy = |l: usize| extend(ty, cut(b[l], size)) as i64;
    let (ux, uy) = (|l: usize| cut(a[l], size), |l: usize| cut(b[l], size));
    match op {
        Tri::MadLo | Tri::Fma if size == 4 => {
            put(regs, mask, t, |l| u64::from((a[l] as u32).wrapping_mul(b[l] as u32).wrapping_add(c[l] as u32)))
        }
        Tri::MadLo | Tri::Fma => put(regs, mask, t, |l| cut(a[l].wrapping_mul(b[l]).wrapping_add(c[l]), size)),
        Tri::MadWide if signed => {
            put(regs, mask, t, |l| cut((sx(l).wrapping_mul(sy(l)) as u64).wrapping_add(c[l]), size * 2));
        }
        Tri::MadWide => put(regs, mask, t, |l| cut(ux(l).wrapping_mul(uy(l)).wrapping_add(c[l]), size * 2)),
        Tri::MadHi if signed => put(regs, mask, t, |l| {
            cut((((i128::from(sx(l)) * i128::from(sy(l))) >> (size * 8)) as u64).wrapping_add(c[l]), size)
        }),
        Tri::MadHi => put(regs, mask, t, |l| {
            cut((((u128::from(ux(l)) * u128::from(uy(l))) >> (size * 8)) as u64).wrapping_add(c[l]), size)
        }),
        Tri::Bfe => put(regs, mask, t, |l| {
            let bits = size * 8;
            let (pos, len) = ((b[l] & 0xff) as u32, (c[l] & 0xff) as u32);
            if len == 0 {
                return 0;
            }
            let x = sx(l) as i128;
            let x = if signed { x } else { ux(l) as i128 };
            let shifted = x >> pos.min(bits);
            let top = (pos + len - 1).min(bits - 1);
            let low = if len >= bits { shifted } else { shifted & ((1i128 << len) - 1) };
            let fill = signed && ux(l) >> top & 1 != 0;
            cut(if fill && len < bits { (low | !((1i128 << len) - 1)) as u64 } else { low as u64 }, size)
        }),
        Tri::Lop3(table) => put(regs, mask, t, |l| {
            let mut out = 0;
            for i in 0..8u8 {
                if table >> i & 1 != 0 {
                    let x = if i & 4 != 0 { a[l] } else { !a[l] };
                    let y = if i & 2 != 0 { b[l] } else { !b[l] };
                    let z = if i & 1 != 0 { c[l] } else { !c[l] };
                    out |= x & y & z;
                }
            }
            cut(out, size)
        }),
        Tri::Prmt(mode) => put(regs, mask, t, |l| u64::from(prmt(mode, a[l] as u32, b[l] as u32, c[l] as u32))),
        Tri::ShfL(wrap) | Tri::ShfR(wrap) => put(regs, mask, t, |l| {
            let both = u64::from(b[l] as u32) << 32 | u64::from(a[l] as u32);
            let n = if wrap { c[l] as u32 & 31 } else { (c[l] as u32).min(32) };
            let left = matches!(op, Tri::ShfL(_));
            u64::from(if left { ((u128::from(both) << n) >> 32) as u32 } else { (both >> n) as u32 })
        }),
        Tri::Sad => put(regs, mask, t, |l| {
            let difference = if signed { sx(l).abs_diff(sy(l)) } else { ux(l).abs_diff(uy(l)) };
            cut(difference.wrapping_add(c[l]), size)
        }),
        Tri::Dp2a(sa, sb, upper) => put(regs, mask, t, |l| {
            let mut sum = c[l] as u32 as i64;
            for i in 0..2 {
                let half = (a[l] >> (i * 16)) as u16;
                let byte = (b[l] >> (i * 8 + if upper { 16 } else { 0 })) as u8;
                let half = if sa { i64::from(half as i16) } else { i64::from(half) };
                sum += half * if sb { i64::from(byte as i8) } else { i64::from(byte) };
            }
            u64::from(sum as u32)
        }),
        Tri::Dp4a(sa, sb) => put(regs, mask, t, |l| {
            let mut sum = c[l] as u32 as i64;
            for i in 0..4 {
                let part = |v: u64, s: bool| {
                    let byte = (v >> (i * 8)) as u8;
                    if s { i64::from(byte as i8) } else { i64::from(byte) }
                };
                sum += part(a[l], sa) * part(b[l], sb);
            }
            u64::from(sum as u32)
        }),
    }
}

fn prmt(mode: u8, a: u32, b: u32, c: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    let byte = |i: u32| (both >> ((i & 7) * 8)) as u8;
    let s = c & 3;
    let picks: [u32; 4] = match mode {
        1 => [s, s + 1, s + 2, s + 3],
        2 => [s, s.wrapping_sub(1), s.wrapping_sub(2), s.wrapping_sub(3)],
        3 => [s; 4],
        4 => [s, s.max(1), s.max(2), 3],
        5 => [0, s.min(1), s.min(2), s],
        6 => [(s & 1) * 2, (s & 1) * 2 + 1, (s & 1) * 2, (s & 1) * 2 + 1],
        _ => [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15],
    };
    let mut out = 0;
    for (i, pick) in picks.into_iter().enumerate() {
        let value = byte(pick);
        let value = if mode == 0 && pick & 8 != 0 { (value as i8 >> 7) as u8 } else { value };
        out |= u32::from(value) << (i * 8);
    }
    out
}
