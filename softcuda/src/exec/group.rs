//! `wgmma` instructions are executed by four warps together: they meet at each of them.

use super::warp::Warp;
use super::{Block, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{GroupMma, Left, Op};

/// Warps of a warpgroup that wait at an instruction.
#[derive(Clone, Copy, Default)]
pub(crate) struct Meeting {
    /// What each of them is about to do: the instruction, and its descriptors and predicate.
    here: [Option<(u32, [u64; 3])>; 4],
}

/// Whether four warps execute the instruction together.
pub(crate) fn op_needs_group(op: &Op) -> bool {
    matches!(op, Op::GroupFence | Op::GroupCommit | Op::GroupWait { .. } | Op::GroupMma(_))
}

/// The operands that all threads must agree on.
fn agreed(w: &Warp, mma: &GroupMma) -> Result<[u64; 3], Box<Fault>> {
    let mut rows = vec![(mma.b, "descriptor of B"), (mma.scale.0, "scale-d")];
    if let Left::Shared(row) = mma.a {
        rows.push((row, "descriptor of A"));
    }
    let mut out = [0; 3];
    for (slot, (row, what)) in out.iter_mut().zip(rows) {
        let values = w.row(row);
        *slot = values[0];
        if let Some(lane) = values.iter().position(|v| *v != values[0]) {
            let message = format!("threads of a warpgroup disagree on the {what}");
            return Err(Fault::new(FaultKind::MissingLanes, lane as u32, message));
        }
    }
    Ok(out)
}

impl Block<'_> {
    /// A warp reaches an instruction of its warpgroup; `false` when it has to wait for the other warps.
    pub fn meet(&mut self, w: &mut Warp, op: &Op, mask: u32, pc: u32) -> Result<bool, Box<Fault>> {
        if w.met {
            w.met = false;
            return Ok(true);
        }
        let refuse = |message: String| Err(Fault::new(FaultKind::MissingLanes, mask.trailing_zeros(), message));
        if w.alive() != u32::MAX {
            return refuse(format!("wgmma needs all lanes of a warp; {:#010x} are alive", w.alive()));
        }
        if mask != u32::MAX {
            // The other lanes of the warp may be on their way.
            w.waiting |= mask;
            return Ok(false);
        }
        let (first, own) = (w.id as usize / 4 * 4, w.id as usize % 4);
        if first + 4 > self.warps.len() {
            return refuse(format!(
                "wgmma needs four warps, from one divisible by four; the block has {}",
                self.warps.len()
            ));
        }
        for other in (first..first + 4).filter(|o| *o != first + own) {
            if self.warps[other].exited != 0 {
                return refuse(format!("wgmma without warp {other} of the warpgroup, which has exited"));
            }
        }
        let mut key = [0; 3];
        if let Op::GroupMma(mma) = op {
            key = agreed(w, mma)?;
        }
        let meeting = &mut self.meetings[first / 4];
        for (i, seen) in meeting.here.iter().enumerate() {
            if let Some((at, theirs)) = seen
                && (*at != pc || *theirs != key)
            {
                let what = if *at == pc { "descriptors or scale-d" } else { "the wgmma instruction" };
                let line = self.kernel.code[*at as usize].line;
                return refuse(format!("warps disagree on {what}: warp {} is at PTX line {line}", first + i));
            }
        }
        meeting.here[own] = Some((pc, key));
        if meeting.here.iter().any(Option::is_none) {
            w.blocked = u32::MAX;
            return Ok(false);
        }
        *meeting = Meeting::default();
        for other in (first..first + 4).filter(|o| *o != first + own) {
            self.warps[other].blocked = 0;
            self.warps[other].met = true;
        }
        Ok(true)
    }

    /// Warps that wait for others of their warpgroup, once nothing can run any more.
    pub fn stuck_group(&self) -> Option<(usize, u32, Box<Fault>)> {
        for (group, meeting) in self.meetings.iter().enumerate() {
            let here = meeting.here.iter().enumerate().fold(0u32, |m, (i, s)| m | u32::from(s.is_some()) << i);
            if let Some(i) = lanes(here).next() {
                let pc = meeting.here[i].map_or(0, |(pc, _)| pc);
                let message = format!("wgmma waits for warps of its warpgroup that never come: {here:#06b} are here");
                return Some((group * 4 + i, pc, Fault::new(FaultKind::MissingLanes, 0, message)));
            }
        }
        None
    }
}
