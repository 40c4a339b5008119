//! Weights that come to the device while a plan runs.
//!
//! They wait in pinned memory of the host, group by group. A stream of its own copies each group into its slot as soon as the calls that read
//! what was there before have run, and the calls that read the group wait for the copy: events order the two streams, so that the
//! host waits for neither, and the same work can be recorded. What is copied when is decided by [`crate::gpu::residency`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ccl_ir::{Binding, Plan};

use super::driver::{Context, Pinned};
use super::engine::{Span, fill};
use super::stream::{Event, Stream};
use crate::error::RuntimeError;
use crate::gpu::fault::Fault;
use crate::gpu::residency::{Kept, Load, Residency};
use crate::profile::Copies;
use crate::weights::WeightSource;

/// A plan's weights on the host, and what orders their copies.
pub(crate) struct Flow {
    groups: Vec<Source>,
    entries: BTreeMap<Binding, Vec<Copy>>,
    /// The begin of an entry.
    begin: Event,
    /// Whether the entry that runs is timed.
    timed: AtomicBool,
}

/// A group on the host, and where its slot is.
struct Source {
    bytes: Pinned,
    size: u64,
    slot: Span,
}

/// One copy of an entry.
struct Copy {
    load: Load,
    /// The slot is free.
    free: Event,
    /// The copy begins, and is done.
    from: Event,
    done: Event,
    /// The first call that needs it would run, and may run.
    asked: Event,
    given: Event,
}

impl Flow {
    /// Loads the weights that do not stay on the device.
    ///
    /// # Errors
    /// When a weight is missing or does not fit, or the host has no room.
    pub(super) fn new(
        context: &Arc<Context>,
        plan: &Plan,
        residency: &Residency,
        slots: &[Span],
        source: &dyn WeightSource,
    ) -> Result<Self, RuntimeError> {
        let total: u64 = residency.groups.iter().map(|g| g.bytes).sum();
        let short = |f: Fault| RuntimeError::Memory {
            what: "weights that do not stay on the device".into(),
            bytes: total,
            problem: format!("{}; give --memory-budget more, or the host", f.problem),
        };
        let mut groups = Vec::with_capacity(residency.groups.len());
        for group in &residency.groups {
            let bytes = Pinned::new(context, group.bytes as usize).map_err(short)?;
            groups.push(Source { bytes, size: group.bytes, slot: slots[group.slot].clone() });
        }
        for (weight, kept) in plan.weights.iter().zip(&residency.kept) {
            let Kept::Host { group, start } = *kept else { continue };
            let bytes = source.load(&weight.name, &weight.ty)?;
            fill(&mut groups[group].bytes.bytes()[start as usize..][..bytes.len()], &bytes);
        }
        let copy = |&load: &Load| {
            let event = || Event::timed(context);
            Ok(Copy { load, free: event()?, from: event()?, done: event()?, asked: event()?, given: event()? })
        };
        let mut entries = BTreeMap::new();
        for (&entry, loads) in &residency.entries {
            entries.insert(entry, loads.iter().map(copy).collect::<Result<_, Fault>>().map_err(short)?);
        }
        Ok(Self { groups, entries, begin: Event::plain(context).map_err(short)?, timed: AtomicBool::new(false) })
    }

    fn copies(&self, entry: Binding) -> &[Copy] {
        self.entries.get(&entry).map_or(&[], Vec::as_slice)
    }

    fn timed(&self) -> bool {
        self.timed.load(Ordering::Relaxed)
    }

    /// Starts the copies that overwrite nothing.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn begin(&self, entry: Binding, timed: bool, on: &[Stream; 2]) -> Result<(), Fault> {
        self.timed.store(timed, Ordering::Relaxed);
        let [compute, copies] = on;
        if self.copies(entry).is_empty() {
            return Ok(());
        }
        self.begin.mark(compute)?;
        copies.wait_for(&self.begin)?;
        self.copies(entry).iter().filter(|c| c.load.after.is_none()).try_for_each(|c| self.copy(c, copies))
    }

    /// Lets a call wait for what it reads.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn before(&self, entry: Binding, index: usize, on: &[Stream; 2]) -> Result<(), Fault> {
        let compute = &on[0];
        for copy in self.copies(entry).iter().filter(|c| c.load.before == index) {
            if self.timed() {
                copy.asked.mark(compute)?;
            }
            compute.wait_for(&copy.done)?;
            if self.timed() {
                copy.given.mark(compute)?;
            }
        }
        Ok(())
    }

    /// Starts the copies over what a call was the last to read.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn after(&self, entry: Binding, index: usize, on: &[Stream; 2]) -> Result<(), Fault> {
        let [compute, copies] = on;
        for copy in self.copies(entry).iter().filter(|c| c.load.after == Some(index)) {
            copy.free.mark(compute)?;
            copies.wait_for(&copy.free)?;
            self.copy(copy, copies)?;
        }
        Ok(())
    }

    fn copy(&self, copy: &Copy, on: &Stream) -> Result<(), Fault> {
        let source = &self.groups[copy.load.group];
        if self.timed() {
            copy.from.mark(on)?;
        }
        // SAFETY: the host's side is never written again, both sides live as long as the plan, whose owner waits for every entry, and
        // the slot is as large as its largest group. Calls that read the slot were waited for, or will wait.
        unsafe { source.bytes.copy(source.slot.address(), source.size as usize, on) }?;
        copy.done.mark(on)
    }

    /// What the copies of a timed entry took, once all is done.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn took(&self, entry: Binding) -> Result<Copies, Fault> {
        let mut all = Copies::default();
        for copy in self.copies(entry) {
            all.bytes += self.groups[copy.load.group].size;
            all.seconds += copy.from.seconds_to(&copy.done)?;
            all.waited_s += copy.asked.seconds_to(&copy.given)?;
        }
        Ok(all)
    }
}
