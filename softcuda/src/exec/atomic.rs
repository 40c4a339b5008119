//! Atomic operations, lane after lane.

use super::access::{cut, extend, read, write};
use super::half::{Kind, from_f32, to_f32};
use super::shadow::Access;
use super::warp::Warp;
use super::{Block, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{Atomic, Op, Space, Ty};

impl Block<'_> {
    pub fn atomic(&mut self, w: &mut Warp, mask: u32, pc: u32, op: &Op) -> Result<(), Box<Fault>> {
        let Op::Atom { space, op, ty, d, addr, b, c } = op else { unreachable!("only atomics come here") };
        let addr = self.addresses(w, *addr);
        let each = ty.size();
        let size = each * b.len() as u32;
        for lane in lanes(mask) {
            let (space, at) = Self::resolve(*space, addr[lane]);
            let base = match space {
                Space::Global => {
                    let mut one = [0; 32];
                    one[lane] = at;
                    self.check_global(pc, 1 << lane, &one, size, "atomic")?;
                    self.stats.global_store_bytes += u64::from(size);
                    at as *mut u8
                }
                Space::Shared => {
                    let at = self.check_shared(w.id, lane, at, size, Access::Atomic)?;
                    // SAFETY: the check found the bytes in the block's shared memory.
                    unsafe { self.shared.as_mut_ptr().add(at) }
                }
                _ => {
                    let message = "atomic outside of global and shared memory";
                    return Err(Fault::new(FaultKind::IllegalAddress, lane as u32, message));
                }
            };
            for (i, row) in b.iter().enumerate() {
                let value = w.regs[*row as usize][lane];
                let swap = w.row(*c)[lane];
                // SAFETY: the checks above cover all the parts.
                let old = unsafe {
                    let place = base.add(i * each as usize);
                    let old = read(place, each);
                    write(place, each, combine(*op, *ty, old, value, swap));
                    old
                };
                w.regs[d[i] as usize][lane] = old;
            }
        }
        if matches!(space, Space::Global) {
            self.count_sectors(mask, &addr, size);
        }
        Ok(())
    }
}

/// The value that an atomic leaves behind.
pub(crate) fn combine(op: Atomic, ty: Ty, old: u64, value: u64, swap: u64) -> u64 {
    let size = ty.size();
    let (old, value) = (cut(old, size), cut(value, size));
    match op {
        Atomic::And => old & value,
        Atomic::Or => old | value,
        Atomic::Xor => old ^ value,
        Atomic::Exch => value,
        Atomic::Cas => {
            if old == value {
                swap
            } else {
                old
            }
        }
        Atomic::Inc => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        Atomic::Dec => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        Atomic::Add | Atomic::Min | Atomic::Max => match ty {
            Ty::F32 => {
                let (x, y) = (f32::from_bits(old as u32), f32::from_bits(value as u32));
                u64::from(float(op, x, y).to_bits())
            }
            Ty::F64 => {
                let (x, y) = (f64::from_bits(old), f64::from_bits(value));
                match op {
                    Atomic::Add => (x + y).to_bits(),
                    Atomic::Min => x.min(y).to_bits(),
                    _ => x.max(y).to_bits(),
                }
            }
            Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => {
                let kind = if matches!(ty, Ty::F16 | Ty::F16x2) { Kind::F16 } else { Kind::Bf16 };
                let mut out = 0u64;
                for half in 0..size / 2 {
                    let part = |v: u64| to_f32(kind, (v >> (half * 16)) as u16);
                    out |= u64::from(from_f32(kind, float(op, part(old), part(value)))) << (half * 16);
                }
                out
            }
            _ => match op {
                Atomic::Add => old.wrapping_add(value),
                _ => {
                    let less =
                        if ty.signed() { (extend(ty, value) as i64) < extend(ty, old) as i64 } else { value < old };
                    if less == (op == Atomic::Min) { value } else { old }
                }
            },
        },
    }
}

fn float(op: Atomic, x: f32, y: f32) -> f32 {
    match op {
        Atomic::Add => x + y,
        Atomic::Min => x.min(y),
        _ => x.max(y),
    }
}
