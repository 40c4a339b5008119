//! `mma.sync` and `wmma.mma`.

use super::half::{Kind, from_f32, to_f32};
use super::warp::Warp;
use super::{Block, Lanes};
use crate::op::{Mma, Shape, Ty};

/// Elements of one 32-bit register.
pub(super) fn per_register(ty: Ty) -> usize {
    4 / ty.size() as usize
}

fn element(ty: Ty, register: u64, i: usize) -> f32 {
    match ty {
        Ty::F16 => to_f32(Kind::F16, (register >> (i * 16)) as u16),
        Ty::Bf16 => to_f32(Kind::Bf16, (register >> (i * 16)) as u16),
        // The tensor cores ignore the low bits.
        Ty::Tf32 => f32::from_bits(register as u32 & !0x1fff),
        Ty::S8 => f32::from((register >> (i * 8)) as i8),
        Ty::U8 => f32::from((register >> (i * 8)) as u8),
        Ty::S32 => register as i32 as f32,
        _ => f32::from_bits(register as u32),
    }
}

/// Columns (of A) or rows (of B) that a step of registers covers, and the depth of the product.
fn depth(shape: Shape) -> usize {
    match shape {
        Shape::M16N8K4 => 4,
        Shape::M16N8K8 => 8,
        Shape::M16N8K32 => 32,
        _ => 16,
    }
}

/// Row and column of each element of an accumulator fragment of `mma.sync`.
fn accumulator(lane: usize, e: usize) -> (usize, usize) {
    (lane / 4 + e / 2 * 8, lane % 4 * 2 + e % 2)
}

impl Block<'_> {
    pub fn mma(&mut self, w: &mut Warp, mma: &Mma) {
        let halves = matches!(mma.a_ty, Ty::F16 | Ty::Bf16) && mma.c_ty == mma.d_ty;
        if !mma.wmma && halves && matches!(mma.shape, Shape::M16N8K8 | Shape::M16N8K16) {
            self.stats.matrix_ops += (16 * 8 * depth(mma.shape)) as u64;
            return multiply_halves(self.fast, &mut w.regs, mma);
        }
        let depth = depth(mma.shape);
        let columns = if mma.wmma { 16 } else { 8 };
        self.stats.matrix_ops += (16 * columns * depth) as u64;
        let mut a = [[0f32; 32]; 16];
        let mut b = [[0f32; 16]; 32];
        let mut c = [[0f32; 16]; 16];
        let mut c_int = [[0i32; 8]; 16];
        let per = per_register(mma.a_ty);
        for lane in 0..32 {
            if mma.wmma {
                for e in 0..8 {
                    let (i, j) = ((lane * 8 + e) / 16, (lane * 8 + e) % 16);
                    a[i][j] = element(mma.a_ty, w.row(mma.a[e / per])[lane], e % per);
                    b[i][j] = element(mma.b_ty, w.row(mma.b[e / per])[lane], e % per);
                    let per_c = per_register(mma.c_ty);
                    c[i][j] = element(mma.c_ty, w.row(mma.c[e / per_c])[lane], e % per_c);
                }
                continue;
            }
            let (g, t) = (lane / 4, lane % 4);
            for (r, row) in mma.a.iter().enumerate() {
                for e in 0..per {
                    a[g + r % 2 * 8][t * per + e + r / 2 * 4 * per] = element(mma.a_ty, w.row(*row)[lane], e);
                }
            }
            for (r, row) in mma.b.iter().enumerate() {
                for e in 0..per {
                    b[t * per + e + r * 4 * per][g] = element(mma.b_ty, w.row(*row)[lane], e);
                }
            }
            let per_c = per_register(mma.c_ty);
            for e in 0..4 {
                let (i, j) = accumulator(lane, e);
                let register = w.row(mma.c[e / per_c])[lane];
                c[i][j] = element(mma.c_ty, register, e % per_c);
                c_int[i][j] = register as i32;
            }
        }
        if mma.d_ty == Ty::S32 {
            for i in 0..16 {
                for (j, sum) in c_int[i].iter_mut().enumerate() {
                    for k in 0..depth {
                        *sum = sum.wrapping_add(a[i][k] as i32 * b[k][j] as i32);
                    }
                }
            }
        } else {
            multiply(self.fast, depth, &a, &b, &mut c);
        }
        let per_d = per_register(mma.d_ty);
        let elements = if mma.wmma { 8 } else { 4 };
        for (r, row) in mma.d.iter().enumerate() {
            for lane in 0..32 {
                let mut out = 0u64;
                for part in 0..per_d {
                    let e = (r * per_d + part) % elements;
                    let (i, j) = match mma.wmma {
                        true => ((lane * 8 + e) / 16, (lane * 8 + e) % 16),
                        false => accumulator(lane, e),
                    };
                    out |= match mma.d_ty {
                        Ty::F16 => u64::from(from_f32(Kind::F16, c[i][j])) << (part * 16),
                        Ty::S32 => u64::from(c_int[i][j] as u32),
                        _ => u64::from(c[i][j].to_bits()),
                    };
                }
                w.regs[*row as usize][lane] = out;
            }
        }
    }
}

type Wide = [[f32; 16]; 32];

fn multiply(fast: bool, depth: usize, a: &[[f32; 32]; 16], b: &Wide, c: &mut [[f32; 16]; 16]) {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: the caller found the features on this host.
        return unsafe { multiply_fast(depth, a, b, c) };
    }
    let _ = fast;
    multiply_body(depth, a, b, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_fast(depth: usize, a: &[[f32; 32]; 16], b: &Wide, c: &mut [[f32; 16]; 16]) {
    multiply_body(depth, a, b, c);
}

#[inline(always)]
fn multiply_body(depth: usize, a: &[[f32; 32]; 16], b: &Wide, c: &mut [[f32; 16]; 16]) {
    for i in 0..16 {
        for k in 0..depth {
            for j in 0..16 {
                c[i][j] = a[i][k].mul_add(b[k][j], c[i][j]);
            }
        }
    }
}

/// Eight rows of eight elements: what one register of a fragment holds of all lanes, in order.
type Square = [f32; 64];

fn multiply_halves(fast: bool, regs: &mut [Lanes], mma: &Mma) {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: the caller found the features on this host.
        return unsafe { multiply_halves_fast(regs, mma) };
    }
    let _ = fast;
    multiply_halves_body(regs, mma);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_halves_fast(regs: &mut [Lanes], mma: &Mma) {
    multiply_halves_body(regs, mma);
}

#[inline(always)]
fn square(kind: Kind, row: &Lanes) -> Square {
    let mut out = [0f32; 64];
    for (pair, value) in out.chunks_exact_mut(2).zip(row) {
        pair[0] = to_f32(kind, *value as u16);
        pair[1] = to_f32(kind, (*value >> 16) as u16);
    }
    out
}

/// The lanes of a register hold eight rows (of A or the sums) or columns (of B) of eight elements, two a lane.
#[inline(always)]
fn multiply_halves_body(regs: &mut [Lanes], mma: &Mma) {
    let kind = if mma.a_ty == Ty::F16 { Kind::F16 } else { Kind::Bf16 };
    let wide = mma.c_ty == Ty::F32;
    let mut sums = [[0f32; 64]; 2];
    for (half, sum) in sums.iter_mut().enumerate() {
        if wide {
            let (even, odd) = (&regs[mma.c[half * 2] as usize], &regs[mma.c[half * 2 + 1] as usize]);
            for ((pair, x), y) in sum.chunks_exact_mut(2).zip(even).zip(odd) {
                (pair[0], pair[1]) = (f32::from_bits(*x as u32), f32::from_bits(*y as u32));
            }
        } else {
            *sum = square(Kind::F16, &regs[mma.c[half] as usize]);
        }
    }
    for (part, row) in mma.b.iter().enumerate() {
        let columns = square(kind, &regs[*row as usize]);
        let mut b = [[0f32; 8]; 8];
        for (j, column) in columns.chunks_exact(8).enumerate() {
            for (k, value) in column.iter().enumerate() {
                b[k][j] = *value;
            }
        }
        for (half, sum) in sums.iter_mut().enumerate() {
            let a = square(kind, &regs[mma.a[part * 2 + half] as usize]);
            for (row, line) in a.chunks_exact(8).zip(sum.chunks_exact_mut(8)) {
                let mut total: [f32; 8] = std::array::from_fn(|j| line[j]);
                for (x, y) in row.iter().zip(&b) {
                    total = std::array::from_fn(|j| x.mul_add(y[j], total[j]));
                }
                line.copy_from_slice(&total);
            }
        }
    }
    for (half, sum) in sums.iter().enumerate() {
        if wide {
            for e in 0..2 {
                for (slot, pair) in regs[mma.d[half * 2 + e] as usize].iter_mut().zip(sum.chunks_exact(2)) {
                    *slot = u64::from(pair[e].to_bits());
                }
            }
        } else {
            regs[mma.d[half] as usize] = std::array::from_fn(|lane| {
                let bits = |e: usize| u64::from(from_f32(Kind::F16, sum[lane * 2 + e]));
                bits(0) | bits(1) << 16
            });
        }
    }
}
