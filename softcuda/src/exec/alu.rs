//! Instructions that touch registers only.

use super::access::{cut, extend};
use super::half::{self, Kind};
use super::{LOCAL_WINDOW, Lanes, PARAM_WINDOW, SHARED_WINDOW, WINDOW, bits, convert, float, integer, put};
use crate::op::{Bool, Cmp, NONE, Op, Row, SINK, Space, Tri, Ty};

/// Runs one instruction; `fast` when the host has AVX2 and fused multiply-add.
pub(crate) fn run(fast: bool, regs: &mut [Lanes], mask: u32, op: &Op) {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: the caller found the features on this host.
        return unsafe { run_fast(regs, mask, op) };
    }
    let _ = fast;
    body(regs, mask, op);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn run_fast(regs: &mut [Lanes], mask: u32, op: &Op) {
    body(regs, mask, op);
}

fn kind(ty: Ty) -> Option<(Kind, bool)> {
    Some(match ty {
        Ty::F16 => (Kind::F16, false),
        Ty::F16x2 => (Kind::F16, true),
        Ty::Bf16 => (Kind::Bf16, false),
        Ty::Bf16x2 => (Kind::Bf16, true),
        _ => return None,
    })
}

/// Applies `f` to the one or two halves of a value.
#[inline(always)]
fn halves(packed: bool, f: impl Fn(u32) -> u16) -> u64 {
    if packed { u64::from(f(16)) << 16 | u64::from(f(0)) } else { u64::from(f(0)) }
}

#[inline(always)]
fn body(regs: &mut [Lanes], mask: u32, op: &Op) {
    match op {
        &Op::Mov { d, a } => {
            let a = regs[a as usize];
            put(regs, mask, d, |l| a[l]);
        }
        Op::Pack { d, parts, bits } => {
            let mut out = [0u64; 32];
            for (i, part) in parts.iter().enumerate() {
                for (o, v) in out.iter_mut().zip(&regs[*part as usize]) {
                    *o |= cut(*v, bits / 8) << (i as u32 * bits);
                }
            }
            put(regs, mask, *d, |l| out[l]);
        }
        Op::Unpack { parts, a, bits } => {
            let a = regs[*a as usize];
            for (i, part) in parts.iter().enumerate() {
                put(regs, mask, *part, |l| cut(a[l] >> (i as u32 * bits), bits / 8));
            }
        }
        &Op::Un { op, ty, mode, d, a } => match kind(ty) {
            Some((k, packed)) => {
                let a = regs[a as usize];
                put(regs, mask, d, |l| halves(packed, |s| half::unary(k, op, (a[l] >> s) as u16)));
            }
            None if ty.float() => float::unary(regs, mask, op, ty, mode, d, a),
            None => integer::unary(regs, mask, op, ty, d, a),
        },
        &Op::Bin { op, ty, mode, d, a, b } => match kind(ty) {
            Some((k, packed)) => {
                let (a, b) = (regs[a as usize], regs[b as usize]);
                put(regs, mask, d, |l| {
                    halves(packed, |s| half::binary(k, op, &mode, (a[l] >> s) as u16, (b[l] >> s) as u16))
                });
            }
            None if ty.float() => float::binary(regs, mask, op, ty, mode, d, a, b),
            None => integer::binary(regs, mask, op, ty, mode.sat, d, a, b),
        },
        &Op::Tri { op, ty, mode, d, a, b, c } => match kind(ty) {
            Some((k, packed)) => {
                let [a, b, c] = [a, b, c].map(|r| regs[r as usize]);
                put(regs, mask, d, |l| {
                    halves(packed, |s| half::fma(k, &mode, (a[l] >> s) as u16, (b[l] >> s) as u16, (c[l] >> s) as u16))
                });
            }
            None if ty.float() && !matches!(op, Tri::Lop3(_)) => float::ternary(regs, mask, ty, mode, d, [a, b, c]),
            None => integer::ternary(regs, mask, op, ty, d, [a, b, c]),
        },
        &Op::Carry { sub, ty, d, a, b, carry_in, flag } => {
            let (a, b, before) = (regs[a as usize], regs[b as usize], regs[flag as usize]);
            let size = ty.size();
            let wide = |l: usize| {
                let carry = if carry_in { u128::from(before[l]) } else { 0 };
                let (x, y) = (u128::from(cut(a[l], size)), u128::from(cut(b[l], size)));
                if sub { x.wrapping_sub(y).wrapping_sub(carry) } else { x + y + carry }
            };
            put(regs, mask, flag, |l| (wide(l) >> (size * 8)) as u64 & 1);
            put(regs, mask, d, |l| cut(wide(l) as u64, size));
        }
        &Op::Bfi { ty, d, a, b, c, e } => {
            let [a, b, c, e] = [a, b, c, e].map(|r| regs[r as usize]);
            let size = ty.size();
            put(regs, mask, d, |l| {
                let (pos, len) = ((c[l] & 0xff) as u32, (e[l] & 0xff) as u32);
                let field = if len >= 64 { u64::MAX } else { (1u64 << len) - 1 };
                let field = field.checked_shl(pos).unwrap_or(0);
                cut(b[l] & !field | a[l].checked_shl(pos).unwrap_or(0) & field, size)
            });
        }
        Op::Cvt { .. } => convert::run(regs, mask, op),
        &Op::Setp { cmp, ty, ftz, combine, p, q, a, b } => setp(regs, mask, cmp, ty, ftz, combine, [p, q, a, b]),
        &Op::Set { cmp, ty, to, combine, d, a, b } => {
            let second = combined(regs, combine);
            let (a, b) = (regs[a as usize], regs[b as usize]);
            let one = match to {
                Ty::F32 => 0x3f80_0000,
                Ty::F16 => 0x3c00,
                Ty::Bf16 => 0x3f80,
                other => cut(u64::MAX, other.size()),
            };
            match kind(ty) {
                Some((k, true)) => {
                    let one = match to {
                        Ty::F16x2 => 0x3c00,
                        Ty::Bf16x2 => 0x3f80,
                        _ => 0xffff,
                    };
                    put(regs, mask, d, |l| {
                        halves(true, |s| {
                            let (x, y) = (half::to_f32(k, (a[l] >> s) as u16), half::to_f32(k, (b[l] >> s) as u16));
                            if second(l, compare(cmp, x.partial_cmp(&y))) { one } else { 0 }
                        })
                    });
                }
                _ => put(regs, mask, d, |l| if second(l, order(cmp, ty, false, a[l], b[l])) { one } else { 0 }),
            }
        }
        &Op::Selp { d, a, b, p, neg } => {
            let [a, b, p] = [a, b, p].map(|r| regs[r as usize]);
            put(regs, mask, d, |l| if (p[l] & 1 != 0) != neg { a[l] } else { b[l] });
        }
        &Op::Slct { ty, d, a, b, c } => {
            let [a, b, c] = [a, b, c].map(|r| regs[r as usize]);
            put(regs, mask, d, |l| {
                let first = if ty == Ty::F32 { f32::from_bits(c[l] as u32) >= 0.0 } else { c[l] as i32 >= 0 };
                if first { a[l] } else { b[l] }
            });
        }
        &Op::Testp { ty, what, d, a } => {
            let a = regs[a as usize];
            put(regs, mask, d, |l| {
                use std::num::FpCategory::*;
                let class = match ty {
                    Ty::F64 => f64::from_bits(a[l]).classify(),
                    _ => f32::from_bits(a[l] as u32).classify(),
                };
                u64::from(match what {
                    0 => !matches!(class, Nan | Infinite),
                    1 => class == Infinite,
                    2 => class != Nan,
                    3 => class == Nan,
                    4 => class == Normal,
                    _ => class == Subnormal,
                })
            });
        }
        &Op::Cvta { d, a, space, to, width } => {
            let a = regs[a as usize];
            let base = match space {
                Space::Shared => SHARED_WINDOW,
                Space::Local => LOCAL_WINDOW,
                Space::Param => PARAM_WINDOW,
                _ => 0,
            };
            put(regs, mask, d, |l| cut(if to { a[l].wrapping_sub(base) } else { a[l].wrapping_add(base) }, width));
        }
        &Op::Isspacep { d, a, space } => {
            let a = regs[a as usize];
            let low = match space {
                Space::Shared => SHARED_WINDOW,
                Space::Local => LOCAL_WINDOW,
                Space::Param => PARAM_WINDOW,
                _ => 0,
            };
            put(regs, mask, d, |l| u64::from(a[l] >= low && a[l] - low < WINDOW));
        }
        _ => unreachable!("the warp runs everything else"),
    }
}

#[inline(always)]
fn compare(cmp: Cmp, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let unordered = order.is_none();
    match cmp {
        Cmp::Eq => order == Some(Equal),
        Cmp::Ne => !unordered && order != Some(Equal),
        Cmp::Lt => order == Some(Less),
        Cmp::Le => matches!(order, Some(Less | Equal)),
        Cmp::Gt => order == Some(Greater),
        Cmp::Ge => matches!(order, Some(Greater | Equal)),
        Cmp::Equ => unordered || order == Some(Equal),
        Cmp::Neu => order != Some(Equal),
        Cmp::Ltu => unordered || order == Some(Less),
        Cmp::Leu => order != Some(Greater),
        Cmp::Gtu => unordered || order == Some(Greater),
        Cmp::Geu => order != Some(Less),
        Cmp::Num => !unordered,
        Cmp::Nan => unordered,
    }
}

#[inline(always)]
fn order(cmp: Cmp, ty: Ty, ftz: bool, a: u64, b: u64) -> bool {
    let flush = |x: u64| float::flush(ftz, f32::from_bits(x as u32));
    let ordering = match ty {
        Ty::F32 => flush(a).partial_cmp(&flush(b)),
        Ty::F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        Ty::F16 | Ty::F16x2 => half::to_f32(Kind::F16, a as u16).partial_cmp(&half::to_f32(Kind::F16, b as u16)),
        Ty::Bf16 | Ty::Bf16x2 => half::to_f32(Kind::Bf16, a as u16).partial_cmp(&half::to_f32(Kind::Bf16, b as u16)),
        _ => {
            let size = ty.size();
            let (x, y) = (extend(ty, cut(a, size)), extend(ty, cut(b, size)));
            Some(if ty.signed() { (x as i64).cmp(&(y as i64)) } else { x.cmp(&y) })
        }
    };
    compare(cmp, ordering)
}

/// The function that combines a comparison with the instruction's predicate.
fn combined(regs: &[Lanes], combine: Option<(Bool, Row, bool)>) -> impl Fn(usize, bool) -> bool + Copy + use<> {
    let (set, how) = match combine {
        Some((how, row, neg)) => {
            let set = bits(&regs[row as usize]);
            (if neg { !set } else { set }, Some(how))
        }
        None => (0, None),
    };
    move |lane, value| {
        let other = set >> lane & 1 != 0;
        match how {
            None => value,
            Some(Bool::And) => value && other,
            Some(Bool::Or) => value || other,
            Some(Bool::Xor) => value != other,
        }
    }
}

#[inline(always)]
fn setp(
    regs: &mut [Lanes],
    mask: u32,
    cmp: Cmp,
    ty: Ty,
    ftz: bool,
    combine: Option<(Bool, Row, bool)>,
    rows: [Row; 4],
) {
    let [p, q, a, b] = rows;
    let second = combined(regs, combine);
    let (a, b) = (regs[a as usize], regs[b as usize]);
    if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
        // One predicate per half; with a single destination both halves must hold.
        let test = |l: usize, shift: u32| second(l, order(cmp, ty, ftz, a[l] >> shift, b[l] >> shift));
        if q == NONE {
            return put(regs, mask, p, |l| u64::from(test(l, 0) && test(l, 16)));
        }
        put(regs, mask, p, |l| u64::from(test(l, 0)));
        return put(regs, mask, q, |l| u64::from(test(l, 16)));
    }
    if q != SINK {
        put(regs, mask, q, |l| u64::from(second(l, !order(cmp, ty, ftz, a[l], b[l]))));
    }
    match (ty, combine.is_none()) {
        (Ty::U32 | Ty::B32, true) => put(regs, mask, p, |l| u64::from(order(cmp, Ty::U32, false, a[l], b[l]))),
        (Ty::S32, true) => put(regs, mask, p, |l| u64::from(order(cmp, Ty::S32, false, a[l], b[l]))),
        _ => put(regs, mask, p, |l| u64::from(second(l, order(cmp, ty, ftz, a[l], b[l])))),
    }
}
