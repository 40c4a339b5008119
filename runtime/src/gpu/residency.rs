//! Which weights stay on a device, and when the others come.
//!
//! Where the weights do not fit, those that a step reads first stay on the device. The rest stays in memory of the host, in *groups* in
//! the order of their use, and each group is copied into one of few *slots* before the calls that read it, while calls before it run.
//! Groups have fixed slots, and so every weight has a fixed place on the device. This module decides and copies nothing.

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::plan::{ALIGNMENT, Place};
use ccl_ir::{Binding, Plan};

/// Slots, where there is room for so many: one is read, one is whole, one is being filled.
const SLOTS: usize = 3;
/// Groups of this part of all weights are small enough to copy one while another is read.
const SHARE: u64 = 32;

/// Weights and what reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Bytes of each weight.
    pub bytes: Vec<u64>,
    /// The weights that each call of each entry reads.
    pub entries: BTreeMap<Binding, Vec<Vec<usize>>>,
}

impl Uses {
    /// Those of a plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        let bytes = plan.weights.iter().map(|w| w.ty.bytes().next_multiple_of(ALIGNMENT)).collect();
        let weight = |place| match place {
            Place::Weight(w) => Some(w as usize),
            Place::Buffer(_) => None,
        };
        let reads = |calls: &Vec<ccl_ir::plan::Call>| {
            calls.iter().map(|c| c.inputs.iter().filter_map(|o| weight(o.place)).collect()).collect()
        };
        Self { bytes, entries: plan.entries.iter().map(|(&entry, calls)| (entry, reads(calls))).collect() }
    }

    /// Weights that some call is the first to read, together: those of a step first, and what nobody reads last.
    fn units(&self) -> Vec<Vec<usize>> {
        let mut seen = BTreeSet::new();
        let order = [Binding::Step, Binding::Load, Binding::Prologue, Binding::Epilogue];
        let calls = order.iter().filter_map(|entry| self.entries.get(entry)).flatten();
        let mut units: Vec<Vec<usize>> =
            calls.map(|reads| reads.iter().copied().filter(|&w| seen.insert(w)).collect()).collect();
        units.push((0..self.bytes.len()).filter(|w| !seen.contains(w)).collect());
        units.retain(|unit| !unit.is_empty());
        units
    }

    fn sum(&self, weights: &[usize]) -> u64 {
        weights.iter().map(|&w| self.bytes[w]).sum()
    }
}

/// Where a weight is between its uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// On the device.
    Device,
    /// In memory of the host, in a group, from this byte of the group on.
    Host { group: usize, start: u64 },
}

/// Weights that are copied together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The slot that it is copied to.
    pub slot: usize,
    /// Bytes of all its weights.
    pub bytes: u64,
}

/// One copy of a group to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// The group.
    pub group: usize,
    /// The last call that reads what was in the slot before; `None` where the copy can start with the entry.
    pub after: Option<usize>,
    /// The first call that reads the group.
    pub before: usize,
}

/// What stays where, and the copies of each entry in the order of their need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residency {
    /// Place of each weight.
    pub kept: Vec<Kept>,
    /// Groups in the order of their use.
    pub groups: Vec<Group>,
    /// Bytes of each slot.
    pub slots: Vec<u64>,
    /// Copies of each entry that has any.
    pub entries: BTreeMap<Binding, Vec<Load>>,
}

impl Residency {
    /// Everything stays on the device.
    pub(crate) fn whole(uses: &Uses) -> Self {
        Self { kept: vec![Kept::Device; uses.bytes.len()], ..Self::default() }
    }

    /// The best use of so many bytes of a device.
    ///
    /// # Errors
    /// The least number of bytes that would do.
    pub(crate) fn within(uses: &Uses, room: u64) -> Result<Self, u64> {
        let total: u64 = uses.bytes.iter().sum();
        if total <= room {
            return Ok(Self::whole(uses));
        }
        let largest = uses.units().iter().map(|unit| uses.sum(unit)).max().unwrap_or(0);
        let usual = largest.max(total / SHARE);
        let tries = [(SLOTS, usual), (SLOTS, largest), (2, largest), (1, largest)];
        if let Some(found) = tries.into_iter().find_map(|(slots, group)| Self::fill(uses, room, slots, group).ok()) {
            return Ok(found);
        }
        // What must stay depends on what else does; the least that does is known to do.
        let mut least = largest;
        loop {
            match Self::fill(uses, least, 1, largest) {
                Ok(found) if least <= room => return Ok(found),
                Ok(_) => return Err(least),
                Err(needed) => least = needed,
            }
        }
    }

    /// Tries a number of slots and a size of groups.
    ///
    /// # Errors
    /// A larger number of bytes that might do.
    fn fill(uses: &Uses, room: u64, slots: usize, group: u64) -> Result<Self, u64> {
        // Weights that must stay, because a call reads them together with others for which there is but one slot.
        let mut pinned: BTreeSet<usize> = BTreeSet::new();
        loop {
            let fixed: u64 = pinned.iter().map(|&w| uses.bytes[w]).sum();
            let needed = fixed + slots as u64 * group;
            let left = room.checked_sub(needed).ok_or(needed)?;
            let mut residency = Self::grouped(uses, left, slots, group, &pinned);
            match residency.schedule(uses) {
                Ok(()) => return Ok(residency),
                Err(weights) => pinned.extend(weights),
            }
        }
    }

    /// Keeps the first units and groups the others.
    fn grouped(uses: &Uses, room: u64, slots: usize, most: u64, pinned: &BTreeSet<usize>) -> Self {
        let mut residency = Self::whole(uses);
        let (mut kept, mut full) = (0, false);
        for unit in uses.units() {
            let unit: Vec<usize> = unit.into_iter().filter(|w| !pinned.contains(w)).collect();
            if unit.is_empty() {
                continue;
            }
            let bytes = uses.sum(&unit);
            full |= kept + bytes > room;
            if !full {
                kept += bytes;
                continue;
            }
            let fits = |g: &Group| g.bytes + bytes <= most;
            if !residency.groups.last().is_some_and(fits) {
                let slot = residency.groups.len() % slots;
                residency.groups.push(Group { slot, bytes: 0 });
            }
            let index = residency.groups.len() - 1;
            for w in unit {
                let group = &mut residency.groups[index];
                residency.kept[w] = Kept::Host { group: index, start: group.bytes };
                group.bytes += uses.bytes[w];
            }
        }
        residency.slots = vec![0; slots.min(residency.groups.len())];
        for group in &residency.groups {
            let slot = &mut residency.slots[group.slot];
            *slot = group.bytes.max(*slot);
        }
        residency
    }

    /// Walks through the calls of each entry and plans the copies.
    ///
    /// # Errors
    /// Weights that a call reads together with others of the same slot.
    fn schedule(&mut self, uses: &Uses) -> Result<(), Vec<usize>> {
        for (&entry, calls) in &uses.entries {
            let mut slots: Vec<Option<(usize, usize)>> = vec![None; self.slots.len()];
            let mut loads = Vec::new();
            for (index, reads) in calls.iter().enumerate() {
                let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
                for &w in reads {
                    if let Kept::Host { group, .. } = self.kept[w] {
                        groups.entry(group).or_default().push(w);
                    }
                }
                let mut taken: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
                for (group, weights) in groups {
                    let slot = self.groups[group].slot;
                    if let Some(others) = taken.remove(&slot) {
                        let fewer = uses.sum(&others) <= uses.sum(&weights);
                        return Err(if fewer { others } else { weights });
                    }
                    taken.insert(slot, weights);
                    match &mut slots[slot] {
                        Some((there, last)) if *there == group => *last = index,
                        other => {
                            loads.push(Load { group, after: other.map(|(_, last)| last), before: index });
                            *other = Some((group, index));
                        }
                    }
                }
            }
            if !loads.is_empty() {
                self.entries.insert(entry, loads);
            }
        }
        Ok(())
    }

    /// Bytes that are copied each time an entry runs.
    #[cfg(test)]
    fn copied(&self, entry: Binding) -> u64 {
        self.entries.get(&entry).into_iter().flatten().map(|load| self.groups[load.group].bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of `layers` blocks of three weights (40, 20 and 1 units of alignment), read in order once in each of `passes`; weight 0
    /// is read by every block, and the last weight by the prologue alone.
    fn blocks(layers: usize, passes: usize) -> Uses {
        let mut uses = Uses { bytes: vec![ALIGNMENT], entries: BTreeMap::new() };
        let mut calls = Vec::new();
        for layer in 0..layers {
            let first = 1 + 3 * layer;
            uses.bytes.extend([40, 20, 1].map(|n| n * ALIGNMENT));
            calls.extend([vec![first, first + 2], vec![], vec![0, first + 1]]);
        }
        uses.bytes.push(30 * ALIGNMENT);
        uses.entries.insert(Binding::Prologue, vec![vec![uses.bytes.len() - 1]]);
        let calls = std::iter::repeat_n(calls, passes).flatten().collect();
        uses.entries.insert(Binding::Step, calls);
        uses
    }

    /// Plays the copies as early as they may start, which is the worst for what they overwrite, and then as late.
    fn holds(uses: &Uses, r: &Residency, room: u64) {
        let device = (0..uses.bytes.len()).filter(|&w| r.kept[w] == Kept::Device);
        let used: u64 = device.map(|w| uses.bytes[w]).sum::<u64>() + r.slots.iter().sum::<u64>();
        assert!(used <= room, "{used} of {room}");
        for (w, kept) in r.kept.iter().enumerate() {
            let Kept::Host { group, start } = *kept else { continue };
            assert!(
                start + uses.bytes[w] <= r.groups[group].bytes
                    && r.groups[group].bytes <= r.slots[r.groups[group].slot]
            );
        }
        for (entry, calls) in &uses.entries {
            let loads = r.entries.get(entry).cloned().unwrap_or_default();
            assert!(loads.is_sorted_by_key(|l| l.before) && loads.iter().all(|l| l.after.is_none_or(|a| a < l.before)));
            for early in [true, false] {
                let mut slots: Vec<Option<usize>> = vec![None; r.slots.len()];
                for (index, reads) in calls.iter().enumerate() {
                    let due = |l: &&Load| if early { l.after.map_or(0, |a| a + 1) == index } else { l.before == index };
                    for l in loads.iter().filter(due) {
                        slots[r.groups[l.group].slot] = Some(l.group);
                    }
                    for &w in reads {
                        let Kept::Host { group, .. } = r.kept[w] else { continue };
                        assert_eq!(slots[r.groups[group].slot], Some(group), "{entry} call {index} weight {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_fits_stays() {
        let uses = blocks(4, 1);
        let total: u64 = uses.bytes.iter().sum();
        let r = Residency::within(&uses, total).unwrap();
        assert_eq!(r, Residency::whole(&uses));
        assert_eq!(r.copied(Binding::Step), 0);
    }

    #[test]
    fn every_call_finds_its_weights_in_any_room() {
        for passes in [1, 2] {
            for layers in [1, 2, 7, 20] {
                let uses = blocks(layers, passes);
                let total: u64 = uses.bytes.iter().sum();
                let least = Residency::within(&uses, 0).unwrap_err();
                assert!(least <= 43 * ALIGNMENT, "{least}");
                let rooms = (least..total + 2 * ALIGNMENT).step_by(ALIGNMENT as usize);
                for room in rooms {
                    holds(&uses, &Residency::within(&uses, room).unwrap(), room);
                }
                assert!(Residency::within(&uses, least - 1).is_err());
            }
        }
    }

    #[test]
    fn the_first_blocks_stay_and_the_last_come() {
        let uses = blocks(20, 1);
        let r = Residency::within(&uses, 700 * ALIGNMENT).unwrap();
        let device: Vec<bool> = r.kept[1..61].iter().map(|k| *k == Kept::Device).collect();
        assert!(device[0] && !device[59] && device.chunks(3).map(|c| c.iter().all(|d| *d)).is_sorted_by(|a, b| a >= b));
        assert_eq!(r.slots.len(), SLOTS);
        // The first copies start with the step, whose first blocks are there.
        let loads = &r.entries[&Binding::Step];
        assert!(loads[..SLOTS].iter().all(|l| l.after.is_none()) && loads[SLOTS..].iter().all(|l| l.after.is_some()));
        assert!(loads[0].before > 10);
        let host: u64 = (0..61).filter(|&w| r.kept[w] != Kept::Device).map(|w| uses.bytes[w]).sum();
        assert_eq!(r.copied(Binding::Step), host);
        assert_eq!(r.copied(Binding::Prologue), 30 * ALIGNMENT);
    }

    #[test]
    fn a_weight_that_is_read_with_others_of_its_slot_stays() {
        // Weights 0 and 3 have the same slot of three; the last call reads both.
        let step = vec![vec![0], vec![1], vec![2], vec![3], vec![0, 3]];
        let uses = Uses { bytes: vec![ALIGNMENT; 4], entries: BTreeMap::from([(Binding::Step, step)]) };
        for room in 0..5 {
            if let Ok(r) = Residency::within(&uses, room * ALIGNMENT) {
                holds(&uses, &r, room * ALIGNMENT);
            }
        }
        assert!(Residency::within(&uses, 3 * ALIGNMENT).is_ok());
    }
}
