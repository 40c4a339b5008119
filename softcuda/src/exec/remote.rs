//! Shared memory of the other blocks of a cluster: addresses of it, and loads with their checks.
//!
//! An address of another block has its rank plus one above the lower bits, which a block's own memory never exceeds.

use super::access::{cut, extend, read};
use super::shadow::{BARRIER, Broken, COPIED, PENDING, SPLIT, Shadow, WRITTEN, at_byte};
use super::warp::Warp;
use super::{Block, Lanes, SHARED_WINDOW, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{Row, Space, Ty};

/// Bits of an address within one block.
const OWN_BITS: u32 = 24;

/// A read of a block's shared memory by another block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteRead {
    begin: u32,
    end: u32,
    /// The reader, and its clock at that time.
    pub rank: u32,
    pub warp: usize,
    pub lane: u32,
    pub pc: u32,
    pub clock: u32,
}

impl Shadow {
    /// Checks that another block may read `size` bytes at `at`, which are in range: they were written by what the
    /// clocks in `shown` include.
    pub fn readable_elsewhere(&self, at: u32, size: u32, shown: &[u32]) -> Result<(), Broken> {
        let (mut byte, end) = (at, at + size);
        while byte < end {
            let word = &self.words[byte as usize / 4];
            let split = word.flags & SPLIT != 0;
            let cell = if split { &self.narrow[byte as usize] } else { word };
            let writer = cell.writer as usize;
            let broken = if cell.flags & BARRIER != 0 {
                Some((FaultKind::Trap, "read of the bytes of an mbarrier".into()))
            } else if cell.flags & PENDING != 0 {
                Some((FaultKind::PendingCopy, "read while an asynchronous copy into the bytes is pending".into()))
            } else if cell.flags & WRITTEN == 0 {
                Some((FaultKind::Uninitialised, "read of shared memory that was never written in that block".into()))
            } else if cell.clock > shown[writer] {
                let who = if cell.flags & COPIED != 0 { "a bulk copy".into() } else { format!("warp {writer}") };
                let message = format!(
                    "data race: read of what {who} wrote, without an arrival at the cluster's barrier (one not .relaxed) \
                     and a wait between"
                );
                Some((FaultKind::Race, message))
            } else {
                None
            };
            if let Some(broken) = broken {
                return Err(at_byte(broken, byte));
            }
            byte += if split { 1 } else { 4 - byte % 4 };
        }
        Ok(())
    }

    /// Records a read by another block.
    pub fn note_remote(&mut self, read: RemoteRead) {
        self.guarded = true;
        // Lanes often read side by side, or the same.
        if let Some(last) = self.remote.last_mut()
            && (RemoteRead { begin: last.begin, end: last.end, lane: last.lane, ..read }) == *last
            && (last.begin..=last.end).contains(&read.begin)
        {
            last.end = last.end.max(read.end);
            return;
        }
        self.remote.push(read);
    }

    /// Fails if another block read any of the bytes, and no barrier of the cluster was since.
    pub fn unread_elsewhere(&self, at: u32, size: u32) -> Result<(), Broken> {
        match self.remote.iter().find(|r| r.begin < at + size && at < r.end) {
            Some(r) => {
                let message = format!(
                    "data race: write of what the block of rank {} read, without a barrier of the cluster between",
                    r.rank
                );
                Err(at_byte((FaultKind::Race, message), at.max(r.begin)))
            }
            None => Ok(()),
        }
    }
}

impl Block<'_> {
    /// The rank that an address of shared memory has, if any, and the offset in that block.
    fn ranked(&self, at: u64) -> Option<(u32, u64)> {
        let rank = (at >> OWN_BITS).checked_sub(1).filter(|r| *r <= self.peers.len() as u64)?;
        // A block alone has no addresses with ranks.
        (!self.peers.is_empty()).then_some((rank as u32, at & ((1 << OWN_BITS) - 1)))
    }

    /// Refuses an address with a rank, as all but loads do.
    pub fn unranked(&self, lane: usize, at: u64) -> Result<u64, Box<Fault>> {
        let Some((rank, at)) = self.ranked(at) else { return Ok(at) };
        let message = format!(
            "an address with a rank ({at} in the block of rank {rank}): only ld.shared::cluster and generic loads of other \
             blocks' shared memory are supported"
        );
        Err(Fault::new(FaultKind::Trap, lane as u32, message))
    }

    /// The fault of a shared access that lies beyond the block's memory.
    #[cold]
    pub fn beyond(&self, lane: usize, at: u64, size: u32) -> Box<Fault> {
        match self.unranked(lane, at) {
            Ok(at) => {
                let message =
                    format!("shared access of {size} bytes at {at} in a block that has {}", self.shadow.bytes);
                Fault::new(FaultKind::SharedRange, lane as u32, message)
            }
            Err(fault) => fault,
        }
    }

    /// Runs `mapa`.
    pub fn map_address(
        &self,
        w: &mut Warp,
        mask: u32,
        space: Space,
        d: Row,
        a: Row,
        rank: Row,
    ) -> Result<(), Box<Fault>> {
        let base = if space == Space::Generic { SHARED_WINDOW } else { 0 };
        for lane in lanes(mask) {
            let refuse = |message: String| Err(Fault::new(FaultKind::Trap, lane as u32, message));
            let (rank, at) = (w.row(rank)[lane] & 0xffff_ffff, w.row(a)[lane]);
            let (Space::Shared, place) = Self::resolve(space, at) else {
                return refuse(format!("{at:#x} isn't an address of shared memory"));
            };
            let place = self.ranked(place).map_or(place, |(_, place)| place);
            if rank > self.peers.len() as u64 || place >> OWN_BITS != 0 {
                return refuse(format!("mapa of {place} to rank {rank} of {} blocks", self.peers.len() + 1));
            }
            let upper = if rank == u64::from(self.rank) { 0 } else { rank + 1 };
            w.regs[d as usize][lane] = base + (upper << OWN_BITS) + place;
        }
        Ok(())
    }

    /// Loads from shared memory, that of other blocks included.
    #[allow(clippy::too_many_arguments)]
    pub fn load_cluster(
        &mut self,
        w: &mut Warp,
        mask: u32,
        pc: u32,
        ty: Ty,
        parts: &[(Row, u32)],
        addr: &Lanes,
        size: u32,
    ) -> Result<(), Box<Fault>> {
        let (mut own, mut places) = (mask, *addr);
        for lane in lanes(mask) {
            let Some((rank, at)) = self.ranked(addr[lane]) else { continue };
            if rank == self.rank {
                places[lane] = at;
                continue;
            }
            own &= !(1 << lane);
            let values = self.read_elsewhere(w, lane, pc, (rank, at), size)?;
            for (part, (row, width)) in values.chunks(ty.size() as usize).zip(parts) {
                // SAFETY: a part is as long as its type.
                let raw = unsafe { read(part.as_ptr(), ty.size()) };
                w.regs[*row as usize][lane] = cut(extend(ty, raw), *width);
            }
        }
        if own != mask {
            self.count_banks(mask & !own, addr, size);
        }
        if own != 0 { self.load_part(w, own, pc, Space::Shared, ty, parts, &places, size) } else { Ok(()) }
    }

    /// The bytes that a lane reads in another block.
    fn read_elsewhere(
        &mut self,
        w: &Warp,
        lane: usize,
        pc: u32,
        (rank, at): (u32, u64),
        size: u32,
    ) -> Result<&[u8], Box<Fault>> {
        let warp = w.id as usize;
        let clock = self.shadow.clock(warp)[warp];
        let blocks = self.peers.len() as u32 + 1;
        let peer = &mut self.peers[((rank + blocks - self.rank - 1) % blocks) as usize];
        let refuse =
            |kind, what: &str| Err(Fault::new(kind, lane as u32, format!("{what}; the block has rank {rank}")));
        if at + u64::from(size) > u64::from(peer.shadow.bytes) {
            let what = format!("shared access of {size} bytes at {at} in a block that has {}", peer.shadow.bytes);
            return refuse(FaultKind::SharedRange, &what);
        }
        if at & (u64::from(size) - 1) != 0 {
            return refuse(FaultKind::Misaligned, &format!("misaligned shared access of {size} bytes at {at}"));
        }
        if peer.ended() {
            return refuse(FaultKind::Race, "data race: read of the shared memory of a block that has ended");
        }
        let (begin, end) = (at as u32, at as u32 + size);
        if let Err((kind, what)) = peer.shadow.readable_elsewhere(begin, size, &peer.gate.shown) {
            return refuse(kind, &what);
        }
        peer.shadow.note_remote(RemoteRead { begin, end, rank: self.rank, warp, lane: lane as u32, pc, clock });
        Ok(&peer.shared[begin as usize..end as usize])
    }
}
