//! Instructions for which the lanes of a mask meet: votes, shuffles, reductions and matrices.

use super::atomic::combine;
use super::warp::Warp;
use super::{Block, bits, lanes, put};
use crate::error::{Fault, FaultKind};
use crate::op::{Op, Row, Shfl, Vote};

/// The row with the mask, or `None` when the instruction needs the whole warp.
fn mask_row(op: &Op) -> Option<Row> {
    match op {
        Op::WarpBar { mask }
        | Op::Vote { mask, .. }
        | Op::Shfl { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Match { mask, .. }
        | Op::Elect { mask, .. } => Some(*mask),
        _ => None,
    }
}

impl Block<'_> {
    /// Runs the instruction for the lanes of `mask`; `false` when others that it needs aren't here yet.
    pub fn collective(&mut self, w: &mut Warp, op: &Op, mask: u32, pc: u32) -> Result<bool, Box<Fault>> {
        if let Op::ActiveMask { d } = op {
            put(&mut w.regs, mask, *d, |_| u64::from(mask));
            return Ok(true);
        }
        let first = mask.trailing_zeros();
        let Some(row) = mask_row(op) else {
            return self.whole(w, op, mask, pc);
        };
        // Lanes may name different masks; each of them is a group of its own.
        let members = *w.row(row);
        let mut rest = mask;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            let named = members[lane as usize] as u32;
            if named >> lane & 1 == 0 {
                let message = format!("the mask {named:#010x} doesn't name the lane itself");
                return Err(Fault::new(FaultKind::MissingLanes, lane, message));
            }
            let gone = named & !w.alive();
            // `bar.warp.sync` with a full mask is how `__syncwarp()` reads, in warps of any size.
            if gone & w.valid != 0 || gone != 0 && !matches!(op, Op::WarpBar { .. }) {
                let message =
                    format!("the mask {named:#010x} names lanes {gone:#010x} that don't exist or have exited");
                return Err(Fault::new(FaultKind::MissingLanes, first, message));
            }
            if named & w.valid & !mask != 0 {
                return Ok(false);
            }
            rest &= !named;
        }
        let mut rest = mask;
        while rest != 0 {
            let group = members[rest.trailing_zeros() as usize] as u32 & mask;
            rest &= !group;
            group_op(w, op, group);
        }
        Ok(true)
    }

    fn whole(&mut self, w: &mut Warp, op: &Op, mask: u32, pc: u32) -> Result<bool, Box<Fault>> {
        if mask != u32::MAX {
            if w.alive() != u32::MAX {
                let message = format!("a matrix instruction needs 32 lanes; {:#010x} are alive", w.alive());
                return Err(Fault::new(FaultKind::MissingLanes, mask.trailing_zeros(), message));
            }
            return Ok(false);
        }
        match op {
            Op::Mma(mma) => {
                self.mma(w, mma);
                Ok(())
            }
            Op::Ldmatrix { trans, d, addr, space } => self.ldmatrix(w, *trans, d, *addr, *space),
            Op::Stmatrix { trans, a, addr, space } => self.stmatrix(w, *trans, a, *addr, *space),
            Op::WmmaLoad { .. } => self.wmma_load(w, op, pc),
            Op::WmmaStore { .. } => self.wmma_store(w, op, pc),
            _ => unreachable!("no other instruction needs the whole warp"),
        }?;
        Ok(true)
    }
}

fn group_op(w: &mut Warp, op: &Op, group: u32) {
    match *op {
        Op::WarpBar { .. } => {}
        Op::Vote { mode, d, a, neg, .. } => {
            let set = bits(w.row(a));
            let set = group & if neg { !set } else { set };
            let value = match mode {
                Vote::All => u64::from(set == group),
                Vote::Any => u64::from(set != 0),
                Vote::Uni => u64::from(set == 0 || set == group),
                Vote::Ballot => u64::from(set),
            };
            put(&mut w.regs, group, d, |_| value);
        }
        Op::Shfl { mode, d, p, a, b, c, .. } => {
            let [a, b, c] = [a, b, c].map(|r| *w.row(r));
            let mut sources = [(0usize, false); 32];
            for lane in lanes(group) {
                let (b, c) = (b[lane] as u32 & 31, c[lane] as u32);
                let (clamp, segment) = (c & 31, c >> 8 & 31);
                let l = lane as u32;
                let high = l & segment | clamp & !segment;
                let low = l & segment;
                let (source, valid) = match mode {
                    Shfl::Up => (l.wrapping_sub(b), l as i32 - b as i32 >= high as i32),
                    Shfl::Down => (l + b, l + b <= high),
                    Shfl::Bfly => (l ^ b, l ^ b <= high),
                    Shfl::Idx => {
                        let source = low | b & !segment;
                        (source, source <= high)
                    }
                };
                sources[lane] = if valid { ((source & 31) as usize, true) } else { (lane, false) };
            }
            put(&mut w.regs, group, d, |l| a[sources[l].0] & 0xffff_ffff);
            put(&mut w.regs, group, p, |l| u64::from(sources[l].1));
        }
        Op::Redux { op, ty, d, a, .. } => {
            let a = *w.row(a);
            let total = lanes(group).map(|l| a[l]).reduce(|x, y| combine(op, ty, x, y, 0)).unwrap_or(0);
            put(&mut w.regs, group, d, |_| total & 0xffff_ffff);
        }
        Op::Match { all, ty, d, p, a, .. } => {
            let mut a = *w.row(a);
            a.iter_mut().for_each(|v| *v = super::access::cut(*v, ty.size()));
            let same = |l: usize| lanes(group).filter(|o| a[*o] == a[l]).fold(0u64, |m, o| m | 1 << o);
            if all {
                let every = same(group.trailing_zeros() as usize) as u32 == group;
                put(&mut w.regs, group, d, |_| if every { u64::from(group) } else { 0 });
                put(&mut w.regs, group, p, |_| u64::from(every));
            } else {
                put(&mut w.regs, group, d, same);
            }
        }
        Op::Elect { d, p, .. } => {
            let leader = group.trailing_zeros() as usize;
            put(&mut w.regs, group, d, |_| leader as u64);
            put(&mut w.regs, group, p, |l| u64::from(l == leader));
        }
        _ => unreachable!("only warp instructions come here"),
    }
}
