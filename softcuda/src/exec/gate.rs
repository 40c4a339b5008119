//! What one block knows of its cluster's barrier. Whether all have arrived is for the cluster to say.

use super::Block;
use super::warp::Warp;
use crate::error::{Fault, FaultKind};

/// The lanes of one warp.
#[derive(Clone, Copy, Default)]
struct Arrivals {
    /// They arrived in this phase, at this instruction.
    arrived: u32,
    arrived_at: u32,
    /// They wait for its end, at this instruction.
    waiting: u32,
    waiting_at: u32,
    /// They arrived in a phase that is over and have yet to wait for it, which won't take long.
    passed: u32,
}

/// One block's side of the barrier.
pub(crate) struct Gate {
    warps: Vec<Arrivals>,
    /// What the arrivals of this phase are ordered after, those with `.relaxed` left out.
    arriving: Vec<u32>,
    /// The last clock of each warp that the phases before have shown to the other blocks.
    pub shown: Vec<u32>,
}

impl Gate {
    /// `copies`: bulk copies have a clock, as in the shadow.
    pub fn new(warps: usize, copies: bool) -> Gate {
        let clocks = vec![0; warps + usize::from(copies)];
        Gate { warps: vec![Arrivals::default(); warps], arriving: clocks.clone(), shown: clocks }
    }

    pub fn reset(&mut self) {
        self.warps.fill(Arrivals::default());
        self.arriving.fill(0);
        self.shown.fill(0);
    }

    /// Whether some thread waits.
    pub fn waits(&self) -> bool {
        self.warps.iter().any(|w| w.waiting != 0)
    }

    /// The phase is over: what its arrivals showed is seen by all.
    pub fn settle(&mut self) {
        for (shown, seen) in self.shown.iter_mut().zip(&mut self.arriving) {
            *shown = (*shown).max(std::mem::take(seen));
        }
    }
}

fn aligned_apart(lane: u32) -> Box<Fault> {
    let message = "lanes of one warp reached an aligned barrier of the cluster at different instructions";
    Fault::new(FaultKind::Deadlock, lane, message)
}

impl Block<'_> {
    /// Lanes of a warp arrive without waiting.
    pub fn gate_arrive(
        &mut self,
        w: &Warp,
        mask: u32,
        pc: u32,
        release: bool,
        aligned: bool,
    ) -> Result<(), Box<Fault>> {
        let here = &mut self.gate.warps[w.id as usize];
        let again = mask & (here.arrived | here.passed);
        if again != 0 {
            let message = "arrival at the cluster's barrier without a wait since the last one";
            return Err(Fault::new(FaultKind::Trap, again.trailing_zeros(), message));
        }
        if aligned && here.arrived & w.alive() != 0 && here.arrived_at != pc {
            return Err(aligned_apart(mask.trailing_zeros()));
        }
        here.arrived |= mask;
        here.arrived_at = pc;
        if release {
            for (seen, mine) in self.gate.arriving.iter_mut().zip(self.shadow.clock(w.id as usize)) {
                *seen = (*seen).max(*mine);
            }
        }
        self.shadow.tick(w.id as usize);
        Ok(())
    }

    /// Lanes of a warp wait for the phase in which they arrived, if it isn't over yet.
    pub fn gate_wait(&mut self, w: &mut Warp, mask: u32, pc: u32, aligned: bool) -> Result<(), Box<Fault>> {
        let here = &mut self.gate.warps[w.id as usize];
        let early = mask & !(here.arrived | here.passed);
        if early != 0 {
            let message = "wait for the cluster's barrier without an arrival";
            return Err(Fault::new(FaultKind::Trap, early.trailing_zeros(), message));
        }
        if aligned && here.waiting != 0 && here.waiting_at != pc {
            return Err(aligned_apart(mask.trailing_zeros()));
        }
        here.waiting |= mask & here.arrived;
        here.waiting_at = pc;
        w.blocked |= here.waiting;
        if mask & here.passed != 0 {
            here.passed &= !mask;
            self.shadow.join(w.id as usize, &self.gate.shown);
        }
        Ok(())
    }

    /// Whether every thread that is left has arrived in this phase.
    pub fn gate_full(&self) -> bool {
        self.warps.iter().zip(&self.gate.warps).all(|(w, here)| w.alive() & !here.arrived == 0)
    }

    /// Lets those who wait go on.
    pub fn gate_open(&mut self) {
        for (i, (w, here)) in self.warps.iter_mut().zip(&mut self.gate.warps).enumerate() {
            if here.waiting != 0 {
                w.blocked &= !here.waiting;
                self.shadow.join(i, &self.gate.shown);
            }
            here.passed |= here.arrived & !here.waiting;
            (here.arrived, here.waiting) = (0, 0);
        }
        self.stats.barriers += u64::from(!self.ended());
    }
}
