//! Matrix instructions of a warp: `mma.sync`, `wmma`, `ldmatrix` and `stmatrix`.
//!
//! `wmma` leaves the layout of fragments open. Here lane `l` holds the eight elements from `8 l` of the row-major
//! 16 x 16 matrix, in its first registers; further registers of a fragment repeat them.

use super::Block;
use super::half::{Kind, from_f32, to_f32};
use super::shadow::Access;
use super::warp::Warp;
use crate::error::Fault;
use crate::op::{Addr, Mma, Op, Row, Shape, Space, Ty};

/// Elements of one 32-bit register.
fn per_register(ty: Ty) -> usize {
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

    /// Checks the rows of eight-by-eight matrices, whose addresses the lanes give in order; hands each row's offset on.
    fn matrix_rows(
        &mut self,
        w: &Warp,
        n: usize,
        addr: Addr,
        space: Space,
        access: Access,
    ) -> Result<Vec<usize>, Box<Fault>> {
        let mut addr = self.addresses(w, addr);
        if space == Space::Generic {
            addr.iter_mut().for_each(|a| *a = Self::resolve(space, *a).1);
        }
        let mut out = Vec::with_capacity(n * 8);
        for lane in 0..n * 8 {
            out.push(self.check_shared(w.id, lane, addr[lane], 16, access)?);
        }
        self.count_banks(if n == 4 { u32::MAX } else { (1 << (n * 8)) - 1 }, &addr, 16);
        Ok(out)
    }

    pub fn ldmatrix(
        &mut self,
        w: &mut Warp,
        trans: bool,
        d: &[Row],
        addr: Addr,
        space: Space,
    ) -> Result<(), Box<Fault>> {
        let rows = self.matrix_rows(w, d.len(), addr, space, Access::Read)?;
        for (m, target) in d.iter().enumerate() {
            for lane in 0..32 {
                let mut out = 0u64;
                for e in 0..2 {
                    let (i, j) = if trans { (lane % 4 * 2 + e, lane / 4) } else { (lane / 4, lane % 4 * 2 + e) };
                    let at = rows[m * 8 + i] + j * 2;
                    out |= u64::from(u16::from_le_bytes([self.shared[at], self.shared[at + 1]])) << (e * 16);
                }
                w.regs[*target as usize][lane] = out;
            }
        }
        Ok(())
    }

    pub fn stmatrix(
        &mut self,
        w: &mut Warp,
        trans: bool,
        a: &[Row],
        addr: Addr,
        space: Space,
    ) -> Result<(), Box<Fault>> {
        let rows = self.matrix_rows(w, a.len(), addr, space, Access::Write)?;
        for (m, source) in a.iter().enumerate() {
            for lane in 0..32 {
                for e in 0..2 {
                    let (i, j) = if trans { (lane % 4 * 2 + e, lane / 4) } else { (lane / 4, lane % 4 * 2 + e) };
                    let value = (w.regs[*source as usize][lane] >> (e * 16)) as u16;
                    let at = rows[m * 8 + i] + j * 2;
                    self.shared[at..at + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    pub fn wmma_load(&mut self, w: &mut Warp, op: &Op, pc: u32) -> Result<(), Box<Fault>> {
        let Op::WmmaLoad { row, ty, space, d, addr, stride, .. } = op else { unreachable!("only loads") };
        let per = per_register(*ty);
        let mut out = vec![[0u64; 32]; d.len()];
        for e in 0..8 {
            let at = self.element_addresses(w, *addr, *stride, *row, *ty, e);
            let value = self.element_load(w, pc, *space, *ty, &at)?;
            for (r, target) in out.iter_mut().enumerate() {
                for part in 0..per {
                    if (r * per + part) % 8 == e {
                        for lane in 0..32 {
                            target[lane] |= value[lane] << (part * ty.size() as usize * 8);
                        }
                    }
                }
            }
        }
        for (target, value) in d.iter().zip(out) {
            w.regs[*target as usize] = value;
        }
        Ok(())
    }

    pub fn wmma_store(&mut self, w: &mut Warp, op: &Op, pc: u32) -> Result<(), Box<Fault>> {
        let Op::WmmaStore { row, ty, space, a, addr, stride, .. } = op else { unreachable!("only stores") };
        let per = per_register(*ty);
        for e in 0..8 {
            let at = self.element_addresses(w, *addr, *stride, *row, *ty, e);
            let source = *w.row(a[e / per]);
            let shift = (e % per) * ty.size() as usize * 8;
            let saved = w.regs[SCRATCH as usize];
            w.regs[SCRATCH as usize] = at;
            // The value goes through a second row, as stores take theirs from registers.
            let value: super::Lanes = std::array::from_fn(|l| source[l] >> shift);
            let result = self.element_store(w, pc, *space, *ty, value);
            w.regs[SCRATCH as usize] = saved;
            result?;
        }
        Ok(())
    }

    fn element_addresses(&self, w: &Warp, addr: Addr, stride: Row, row: bool, ty: Ty, e: usize) -> super::Lanes {
        let base = self.addresses(w, addr);
        let stride = w.row(stride);
        std::array::from_fn(|lane| {
            let (i, j) = ((lane * 8 + e) as u64 / 16, (lane * 8 + e) as u64 % 16);
            let step = stride[lane] & 0xffff_ffff;
            let index = if row { i * step + j } else { j * step + i };
            base[lane].wrapping_add(index * u64::from(ty.size()))
        })
    }

    fn element_load(
        &mut self,
        w: &mut Warp,
        pc: u32,
        space: Space,
        ty: Ty,
        at: &super::Lanes,
    ) -> Result<super::Lanes, Box<Fault>> {
        w.regs[SCRATCH as usize] = *at;
        self.load(w, u32::MAX, pc, space, ty, &[(SCRATCH, 4)], Addr { base: SCRATCH, offset: 0 })?;
        Ok(w.regs[SCRATCH as usize])
    }

    fn element_store(
        &mut self,
        w: &mut Warp,
        pc: u32,
        space: Space,
        ty: Ty,
        value: super::Lanes,
    ) -> Result<(), Box<Fault>> {
        let spare = w.regs.len() as Row;
        w.regs.push(value);
        let result = self.store(w, u32::MAX, pc, space, ty, &[spare], Addr { base: SCRATCH, offset: 0 });
        w.regs.pop();
        result
    }
}

/// The row that nobody reads serves as scratch space.
const SCRATCH: Row = crate::op::SINK;

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
