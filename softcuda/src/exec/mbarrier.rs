//! Barriers in shared memory (`mbarrier`). What is in their eight bytes is nobody's business: the state is kept beside.

use super::shadow::Access;
use super::warp::Warp;
use super::{Block, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{NONE, Op, Place, Space};

/// One barrier.
pub(crate) struct MBarrier {
    expected: u32,
    /// Arrivals that the phase still needs.
    pending: u32,
    /// Bytes of bulk copies that it still needs; copies may come before they are announced.
    bytes: i64,
    phase: u32,
    /// What the arrivals of this phase are ordered after, and those of all phases before.
    arriving: Vec<u32>,
    done: Vec<u32>,
}

impl MBarrier {
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase = self.phase.wrapping_add(1);
            self.pending = self.expected;
            for (done, seen) in self.done.iter_mut().zip(&mut self.arriving) {
                *done = (*done).max(std::mem::take(seen));
            }
        }
    }

    fn seen(&mut self, clock: &[u32]) {
        for (mine, theirs) in self.arriving.iter_mut().zip(clock) {
            *mine = (*mine).max(*theirs);
        }
    }
}

fn refuse(lane: usize, message: impl Into<String>) -> Box<Fault> {
    Fault::new(FaultKind::Trap, lane as u32, message)
}

impl Block<'_> {
    /// The offset in shared memory that a lane means.
    pub fn shared_place(&self, w: &Warp, lane: usize, place: Place) -> Result<u64, Box<Fault>> {
        let at = w.row(place.addr.base)[lane].wrapping_add(place.addr.offset as u64);
        match Self::resolve(place.space, at) {
            (Space::Shared, at) => self.unranked(lane, at),
            _ => Err(refuse(lane, format!("{at:#x} isn't an address of shared memory"))),
        }
    }

    /// The barrier that a lane means, which must be initialised, and seen to be.
    pub fn barrier_place(&self, w: &Warp, lane: usize, place: Place) -> Result<u32, Box<Fault>> {
        let at = self.shared_place(w, lane, place)?;
        let found = u32::try_from(at).ok().filter(|at| self.mbarriers.contains_key(at));
        let at = found.ok_or_else(|| refuse(lane, format!("there is no initialised mbarrier at {at}")))?;
        if !self.shadow.ordered(w.id, at) {
            let message = "data race: the mbarrier was initialised without a barrier between";
            return Err(Fault::new(FaultKind::Race, lane as u32, message));
        }
        Ok(at)
    }

    /// Runs `mbarrier` instructions; hands on the lanes whose wait is not over.
    pub fn mbarrier(&mut self, w: &mut Warp, mask: u32, op: &Op) -> Result<u32, Box<Fault>> {
        let columns = self.shadow.clock(w.id as usize).len();
        let mut waiting = 0;
        self.moved |= !matches!(op, Op::MbWait { .. } | Op::MbPending { .. });
        for lane in lanes(mask) {
            match op {
                Op::MbInit { at, count } => {
                    let at = self.shared_place(w, lane, *at)?;
                    let count = w.row(*count)[lane] as u32;
                    if count == 0 || count >= 1 << 20 {
                        return Err(refuse(lane, format!("an mbarrier of {count} arrivals")));
                    }
                    let at = self.check_shared(w.id, lane, at, 8, Access::Write)? as u32;
                    self.shadow.reserve(at, true);
                    let (arriving, done) = (vec![0; columns], vec![0; columns]);
                    let barrier = MBarrier { expected: count, pending: count, bytes: 0, phase: 0, arriving, done };
                    self.mbarriers.insert(at, barrier);
                }
                Op::MbInval { at } => {
                    let at = self.barrier_place(w, lane, *at)?;
                    self.mbarriers.remove(&at);
                    self.shadow.reserve(at, false);
                }
                Op::MbExpect { at, bytes } => {
                    let at = self.barrier_place(w, lane, *at)?;
                    let bytes = i64::from(w.row(*bytes)[lane] as u32);
                    self.barrier_mut(at).bytes += bytes;
                }
                Op::MbArrive { d, at, count, bytes, drop } => {
                    let at = self.barrier_place(w, lane, *at)?;
                    let count = if *count == NONE { 1 } else { w.row(*count)[lane] as u32 };
                    let bytes = if *bytes == NONE { 0 } else { i64::from(w.row(*bytes)[lane] as u32) };
                    let clock = self.shadow.clock(w.id as usize).to_vec();
                    let barrier = self.barrier_mut(at);
                    let state = u64::from(barrier.phase) << 32 | u64::from(barrier.pending);
                    if count > barrier.pending {
                        let message = format!("{count} arrivals at an mbarrier that waits for {}", barrier.pending);
                        return Err(refuse(lane, message));
                    }
                    barrier.seen(&clock);
                    barrier.bytes += bytes;
                    barrier.pending -= count;
                    if *drop {
                        barrier.expected -= count;
                    }
                    barrier.settle();
                    w.regs[*d as usize][lane] = state;
                }
                Op::MbWait { p, at, state, parity } => {
                    let at = self.barrier_place(w, lane, *at)?;
                    let state = w.row(*state)[lane];
                    let barrier = &self.mbarriers[&at];
                    let over = if *parity {
                        barrier.phase & 1 != state as u32 & 1
                    } else {
                        barrier.phase != (state >> 32) as u32
                    };
                    if over {
                        self.shadow.join(w.id as usize, &barrier.done);
                    } else {
                        waiting |= 1 << lane;
                    }
                    w.regs[*p as usize][lane] = u64::from(over);
                }
                Op::MbPending { d, state } => w.regs[*d as usize][lane] = w.row(*state)[lane] & 0xffff_ffff,
                _ => unreachable!("only mbarrier comes here"),
            }
        }
        if matches!(op, Op::MbArrive { .. } | Op::MbInit { .. }) {
            self.shadow.tick(w.id as usize);
        }
        Ok(waiting)
    }

    fn barrier_mut(&mut self, at: u32) -> &mut MBarrier {
        self.mbarriers.get_mut(&at).expect("the barrier was found just now")
    }

    /// A bulk copy of so many bytes is there.
    pub fn arrived(&mut self, at: u32, bytes: u32, clock: &[u32]) {
        // A barrier that was invalidated meanwhile has nobody who waits.
        if let Some(barrier) = self.mbarriers.get_mut(&at) {
            barrier.seen(clock);
            barrier.bytes -= i64::from(bytes);
            barrier.settle();
        }
    }

    /// Describes the waits that nothing can end any more.
    pub fn stuck_waiting(&self) -> Option<(usize, u32, Box<Fault>)> {
        let (i, w) = self.warps.iter().enumerate().find(|(_, w)| w.polling & w.alive() != 0)?;
        let lane = (w.polling & w.alive()).trailing_zeros();
        let mut open: Vec<String> = self
            .mbarriers
            .iter()
            .filter(|(_, b)| b.pending != b.expected || b.bytes != 0)
            .map(|(at, b)| format!("{} arrivals and {} bytes at {at}", b.pending, b.bytes))
            .collect();
        open.sort_unstable();
        let message = format!("deadlock: a wait for an mbarrier never ends; missing are [{}]", open.join("; "));
        Some((i, w.pcs[lane as usize].saturating_sub(1), Fault::new(FaultKind::Deadlock, lane, message)))
    }
}
