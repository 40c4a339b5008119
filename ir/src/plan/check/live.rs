//! The least scratch memory that a schedule needs.

use crate::graph::Binding;
use crate::plan::{Operand, Place, Plan, Region};

/// One writing of a scratch buffer: the buffer's size, and the last call that needs it.
struct Span {
    bytes: u64,
    last: usize,
}

impl Plan {
    /// The most bytes of scratch buffers that are live at one call: no placement of the same schedule needs less.
    ///
    /// A buffer is live from the call that writes it to the last call of the entry that reads what was written, to
    /// the entry's end where it is one of its outputs, and at least during the call. Bytes of an input that an
    /// output overwrites count once.
    pub fn live_scratch_lower_bound(&self) -> u64 {
        Binding::ALL.into_iter().map(|entry| self.live_scratch(entry)).max().unwrap_or(0)
    }

    fn scratch_index(&self, operand: &Operand) -> Option<usize> {
        let Place::Buffer(i) = operand.place else { return None };
        self.buffers.get(i as usize).filter(|b| b.region == Region::Scratch).map(|_| i as usize)
    }

    /// The most bytes that are live at one call of an entry.
    fn live_scratch(&self, entry: Binding) -> u64 {
        let calls = self.calls(entry);
        let scratch = |operands: &[Operand]| -> Vec<usize> {
            let mut list: Vec<usize> = operands.iter().filter_map(|o| self.scratch_index(o)).collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        // Which span each buffer holds at the moment.
        let mut holds: Vec<Option<usize>> = vec![None; self.buffers.len()];
        let mut spans: Vec<Span> = Vec::new();
        // Per call: the spans it starts, and bytes of inputs that its outputs take over.
        let mut starts: Vec<(Vec<usize>, u64)> = Vec::with_capacity(calls.len());
        for (at, call) in calls.iter().enumerate() {
            let inputs = scratch(&call.inputs);
            for &b in &inputs {
                if let Some(span) = holds[b] {
                    spans[span].last = at;
                }
            }
            let outputs = scratch(&call.outputs);
            let pairs = inputs.iter().flat_map(|&i| outputs.iter().map(move |&o| (i, o)));
            let taken = pairs.filter(|&(i, _)| holds[i].is_some()).map(|(i, o)| self.shared(i, o));
            let taken = taken.fold(0, u64::saturating_add);
            let mut started = Vec::new();
            for b in outputs {
                holds[b] = Some(spans.len());
                started.push(spans.len());
                spans.push(Span { bytes: self.buffers[b].bytes, last: at });
            }
            starts.push((started, taken));
        }
        for port in self.outputs.iter().filter(|p| p.binding == entry) {
            if let Some(span) = self.scratch_index(&port.operand).and_then(|b| holds[b]) {
                spans[span].last = calls.len();
            }
        }
        let mut ends: Vec<u64> = vec![0; calls.len() + 1];
        for span in &spans {
            ends[span.last] = ends[span.last].saturating_add(span.bytes);
        }
        let (mut live, mut most) = (0u64, 0);
        for ((started, taken), ended) in starts.iter().zip(ends) {
            live = started.iter().fold(live, |sum, &s| sum.saturating_add(spans[s].bytes));
            most = most.max(live.saturating_sub(*taken));
            live = live.saturating_sub(ended);
        }
        most
    }

    /// Bytes that two buffers of one region share.
    fn shared(&self, a: usize, b: usize) -> u64 {
        let (a, b) = (&self.buffers[a], &self.buffers[b]);
        let end = a.offset.saturating_add(a.bytes).min(b.offset.saturating_add(b.bytes));
        end.saturating_sub(a.offset.max(b.offset))
    }
}
