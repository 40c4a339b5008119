//! `cp.async`: copies happen when their thread waits for them, never earlier, so that a missing wait shows.

use super::shadow::Access;
use super::warp::Warp;
use super::{Block, bits, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{NONE, Op};

/// A copy that was issued and not waited for.
#[derive(Clone, Copy)]
pub(crate) struct Pending {
    lane: u8,
    size: u8,
    /// Bytes that are copied; the rest become zero.
    given: u8,
    group: u32,
    dst: u32,
    src: u64,
}

impl Block<'_> {
    pub fn copy_async(&mut self, w: &mut Warp, mask: u32, pc: u32, op: &Op) -> Result<(), Box<Fault>> {
        let Op::CpAsync { dst, src, size, src_size, ignore, ignore_neg } = op else { unreachable!("only copies") };
        let to = self.addresses(w, *dst);
        let from = self.addresses(w, *src);
        let mut skipped = 0;
        if *ignore != NONE {
            let set = bits(w.row(*ignore));
            skipped = if *ignore_neg { !set } else { set };
        }
        let mut reading = 0u32;
        for lane in lanes(mask) {
            let mut given = if *src_size == NONE { *size } else { (w.row(*src_size)[lane] as u32).min(*size) };
            if skipped >> lane & 1 != 0 {
                given = 0;
            }
            reading |= u32::from(given > 0) << lane;
            let at = self.check_shared(w.id, lane, to[lane], *size, Access::Begin)?;
            w.pending.push(Pending {
                lane: lane as u8,
                size: *size as u8,
                given: given as u8,
                group: w.groups[lane],
                dst: at as u32,
                src: from[lane],
            });
        }
        if reading == 0 {
            return Ok(());
        }
        self.check_awaited(reading, "read (cp.async)")?;
        // Partial reads are checked for the bytes that they read.
        let partial =
            w.pending.iter().rev().take(mask.count_ones() as usize).any(|p| p.given != p.size && p.given != 0);
        if !partial {
            self.check_global(pc, reading, &from, *size, "read (cp.async)")?;
        } else {
            for lane in lanes(reading) {
                let given = w.row(*src_size)[lane] as u32;
                let end = from[lane] + u64::from(given.min(*size));
                if !self.ranges.iter().any(|(b, e)| *b <= from[lane] && end <= *e) {
                    let message = format!("global read (cp.async) at {:#x} is outside of every allocation", from[lane]);
                    return Err(Fault::new(FaultKind::IllegalAddress, lane as u32, message));
                }
            }
        }
        self.count_sectors(reading, &from, *size);
        self.count_banks(mask, &to, *size);
        self.stats.global_load_bytes += u64::from(size * reading.count_ones());
        Ok(())
    }

    /// Completes the copies of all groups but the last `keep`; with `None` also those that no group has yet.
    pub fn wait_copies(&mut self, w: &mut Warp, mask: u32, keep: Option<u32>) -> Result<(), Box<Fault>> {
        let mut rest = std::mem::take(&mut w.pending);
        let mut broken = None;
        rest.retain(|p| {
            let lane = p.lane as usize;
            let done = match keep {
                Some(keep) => p.group + keep < w.groups[lane],
                None => true,
            };
            if mask >> lane & 1 == 0 || !done || broken.is_some() {
                return true;
            }
            if let Err((kind, message)) = self.shadow.touch(w.id, lane, p.dst, u32::from(p.size), Access::End) {
                broken = Some(Fault::new(kind, lane as u32, message));
            }
            let (given, size) = (usize::from(p.given), usize::from(p.size));
            let target = &mut self.shared[p.dst as usize..][..size];
            // SAFETY: the source was checked when the copy was issued, and nothing was freed since; the target is
            // memory of this block.
            unsafe { std::ptr::copy_nonoverlapping(p.src as *const u8, target.as_mut_ptr(), given) };
            target[given..].fill(0);
            false
        });
        w.pending = rest;
        match broken {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// A thread that exits leaves no copies behind.
    pub fn finish_copies(&mut self, w: &mut Warp, mask: u32) -> Result<(), Box<Fault>> {
        if w.pending.is_empty() { Ok(()) } else { self.wait_copies(w, mask, None) }
    }
}
