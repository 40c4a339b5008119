//! Moves of matrices by a warp: `ldmatrix`, `stmatrix`, and the loads and stores of `wmma`.
//!
//! `wmma` leaves the layout of fragments open. Here lane `l` holds the eight elements from `8 l` of the row-major
//! 16 x 16 matrix, in its first registers; further registers of a fragment repeat them.

use super::Block;
use super::shadow::Access;
use super::warp::Warp;
use crate::error::Fault;
use crate::op::{Addr, Op, Row, Space, Ty};

use super::mma::per_register;

impl Block<'_> {
    /// Checks the rows of eight-by-eight matrices, whose addresses the lanes give in order; hands each row's offset on.
    fn matrix_rows(
        &mut self,
        w: &Warp,
        n: usize,
        addr: Addr,
        space: Space,
        access: Access,
    ) -> Result<[usize; 32], Box<Fault>> {
        let mut addr = self.addresses(w, addr);
        if space == Space::Generic {
            addr.iter_mut().for_each(|a| *a = Self::resolve(space, *a).1);
        }
        let mut out = [0; 32];
        for (lane, slot) in out.iter_mut().enumerate().take(n * 8) {
            *slot = self.check_shared(w.id, lane, addr[lane], 16, access)?;
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
            let rows = &rows[m * 8..][..8];
            let shared = &self.shared;
            let half = |at: usize| u64::from(u16::from_le_bytes([shared[at], shared[at + 1]]));
            for (lane, slot) in w.regs[*target as usize].iter_mut().enumerate() {
                let (i, j) = (lane / 4, lane % 4 * 2);
                *slot = if trans {
                    half(rows[j] + i * 2) | half(rows[j + 1] + i * 2) << 16
                } else {
                    half(rows[i] + j * 2) | half(rows[i] + j * 2 + 2) << 16
                };
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
