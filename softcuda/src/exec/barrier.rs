//! Barriers of a block, and what to say when nothing can run any more.

use super::warp::Warp;
use super::{Block, bits, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{NONE, Op, Row, Vote};

/// Lanes of a warp that wait at a barrier.
struct Waiter {
    warp: usize,
    mask: u32,
    pc: u32,
    reduce: Option<(Vote, Row)>,
}

/// One of the sixteen barriers.
pub(crate) struct Barrier {
    /// Threads that it needs; `None` is all that are alive.
    expected: Option<u32>,
    aligned: bool,
    /// Threads that arrived without waiting.
    arrived: u32,
    waiters: Vec<Waiter>,
    /// What the arrivals are ordered after.
    clocks: Vec<u32>,
    votes: u32,
    touched: bool,
}

impl Barrier {
    pub fn new(warps: usize) -> Barrier {
        let clocks = vec![0; warps];
        Barrier { expected: None, aligned: false, arrived: 0, waiters: Vec::new(), clocks, votes: 0, touched: false }
    }

    pub fn reset(&mut self) {
        self.waiters.clear();
        self.clocks.fill(0);
        (self.expected, self.aligned, self.arrived, self.votes, self.touched) = (None, false, 0, 0, false);
    }
}

impl Block<'_> {
    /// Lanes of a warp arrive at a barrier, or wait for that of the cluster.
    pub fn arrive(&mut self, w: &mut Warp, op: &Op, mask: u32, pc: u32) -> Result<(), Box<Fault>> {
        let (id, count, aligned, arrive, reduce) = match op {
            Op::Bar { id, count, aligned, arrive, reduce } => (id, count, aligned, arrive, reduce),
            Op::ClusterArrive { release, aligned } => return self.gate_arrive(w, mask, pc, *release, *aligned),
            Op::ClusterWait { aligned } => return self.gate_wait(w, mask, pc, *aligned),
            _ => unreachable!("only barriers come here"),
        };
        let first = mask.trailing_zeros();
        let id = w.row(*id)[first as usize] as usize;
        let expected = (*count != NONE).then(|| w.row(*count)[first as usize] as u32);
        let Some(barrier) = self.barriers.get_mut(id) else {
            return Err(Fault::new(FaultKind::Trap, first, format!("barrier {id} doesn't exist")));
        };
        if barrier.touched && barrier.expected != expected {
            return Err(Fault::new(
                FaultKind::Deadlock,
                first,
                format!("threads disagree on the count of barrier {id}"),
            ));
        }
        barrier.touched = true;
        barrier.expected = expected;
        barrier.aligned = *aligned;
        for (seen, mine) in barrier.clocks.iter_mut().zip(self.shadow.clock(w.id as usize)) {
            *seen = (*seen).max(*mine);
        }
        self.shadow.tick(w.id as usize);
        let mut target = None;
        if let Some((vote, p, neg, d)) = reduce {
            let set = bits(w.row(*p));
            let set = mask & if *neg { !set } else { set };
            barrier.votes += set.count_ones();
            target = Some((*vote, *d));
        }
        if *arrive {
            barrier.arrived += mask.count_ones();
        } else {
            barrier.waiters.push(Waiter { warp: w.id as usize, mask, pc, reduce: target });
            w.blocked |= mask;
        }
        Ok(())
    }

    /// Lets the waiters of every complete barrier go on; whether there was one.
    pub fn release(&mut self) -> Result<bool, (usize, u32, Box<Fault>)> {
        let alive: u32 = self.warps.iter().map(|w| w.alive().count_ones()).sum();
        let mut released = false;
        for barrier in &mut self.barriers {
            if !barrier.touched {
                continue;
            }
            let waiting: u32 = barrier.waiters.iter().map(|x| x.mask.count_ones()).sum();
            let complete = match barrier.expected {
                None => waiting + barrier.arrived == alive,
                Some(n) => {
                    // Aligned barriers count whole warps: lanes that the block lacks are there from the start.
                    let missing: u32 = if barrier.aligned {
                        let mut seen: Vec<usize> = barrier.waiters.iter().map(|x| x.warp).collect();
                        seen.sort_unstable();
                        seen.dedup();
                        seen.iter().map(|w| (!self.warps[*w].valid).count_ones()).sum()
                    } else {
                        0
                    };
                    waiting + missing + barrier.arrived >= n
                }
            };
            if !complete || waiting == 0 && barrier.expected.is_none() {
                continue;
            }
            if barrier.aligned {
                for x in &barrier.waiters {
                    if let Some(y) = barrier.waiters.iter().find(|y| y.warp == x.warp && y.pc != x.pc) {
                        let message = "lanes of one warp reached an aligned barrier at different instructions";
                        let lane = y.mask.trailing_zeros();
                        return Err((y.warp, y.pc, Fault::new(FaultKind::Deadlock, lane, message)));
                    }
                }
            }
            let total = waiting + barrier.arrived;
            let votes = barrier.votes;
            let clocks = barrier.clocks.clone();
            for x in std::mem::take(&mut barrier.waiters) {
                let w = &mut self.warps[x.warp];
                w.blocked &= !x.mask;
                if let Some((vote, d)) = x.reduce {
                    let value = match vote {
                        Vote::All => u64::from(votes == total),
                        Vote::Any | Vote::Uni => u64::from(votes > 0),
                        Vote::Ballot => u64::from(votes),
                    };
                    super::put(&mut w.regs, x.mask, d, |_| value);
                }
                self.shadow.join(x.warp, &clocks);
            }
            barrier.reset();
            self.stats.barriers += 1;
            released = true;
        }
        Ok(released)
    }

    /// Describes why nothing can run.
    pub fn stuck(&self) -> (usize, u32, Box<Fault>) {
        for (i, w) in self.warps.iter().enumerate() {
            let waiting = w.waiting & w.alive();
            if let Some(lane) = lanes(waiting).next() {
                let pc = w.pcs[lane];
                let here = lanes(waiting).filter(|l| w.pcs[*l] == pc).fold(0u32, |m, l| m | 1 << l);
                let message = format!(
                    "a warp instruction waits for lanes of its mask that never come: lanes {here:#010x} are here, \
                     {:#010x} have exited",
                    w.exited
                );
                return (i, pc, Fault::new(FaultKind::MissingLanes, lane as u32, message));
            }
        }
        if let Some(found) = self.stuck_group().or_else(|| self.stuck_waiting()) {
            return found;
        }
        for (id, barrier) in self.barriers.iter().enumerate() {
            if let Some(x) = barrier.waiters.first() {
                let waiting: u32 = barrier.waiters.iter().map(|x| x.mask.count_ones()).sum();
                let alive: u32 = self.warps.iter().map(|w| w.alive().count_ones()).sum();
                let message = format!(
                    "deadlock: barrier {id} has {} of {} threads, and no thread can run ({alive} of the block are alive)",
                    waiting + barrier.arrived,
                    barrier.expected.unwrap_or(alive)
                );
                return (x.warp, x.pc, Fault::new(FaultKind::Deadlock, x.mask.trailing_zeros(), message));
            }
        }
        (0, 0, Fault::new(FaultKind::Deadlock, 0, "deadlock: no thread can run"))
    }
}
