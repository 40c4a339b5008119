//! When each buffer of a plan is in use.

use std::collections::BTreeMap;

use ccl_ir::plan::{Call, Place, Region};
use ccl_ir::{Binding, Plan};

/// A buffer of working memory and the calls during which it holds a value that is still read.
#[derive(Clone, Debug, PartialEq)]
pub struct Life<'a> {
    /// First byte in working memory.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// The call that writes it.
    pub first: usize,
    /// The last call that reads it.
    pub last: usize,
    /// The call that writes it.
    pub by: &'a Call,
    /// Which of that call's results.
    pub port: usize,
}

impl Life<'_> {
    /// What the buffer is: operator, place, type, size and calls.
    pub fn describe(&self) -> String {
        let ty = self.by.outputs.get(self.port).map(|o| o.ty.to_string()).unwrap_or_default();
        let size = ccl_runtime::device::human_bytes(self.bytes);
        format!("{} · {} · {ty} · {size} · calls {}–{}", self.by.op.name(), self.by.at, self.first, self.last)
    }
}

/// The buffers of working memory that an entry uses, in the order of their first call.
pub fn lifetimes(plan: &Plan, entry: Binding) -> Vec<Life<'_>> {
    let calls = plan.calls(entry);
    let mut place: BTreeMap<u32, usize> = BTreeMap::new();
    let mut list: Vec<Life> = Vec::new();
    for (i, call) in calls.iter().enumerate() {
        for operand in &call.inputs {
            if let Place::Buffer(b) = operand.place
                && let Some(&l) = place.get(&b)
            {
                list[l].last = i;
            }
        }
        for (port, operand) in call.outputs.iter().enumerate() {
            let Place::Buffer(b) = operand.place else { continue };
            let buffer = &plan.buffers[b as usize];
            if buffer.region == Region::Scratch {
                place.insert(b, list.len());
                let (offset, bytes) = (buffer.offset, buffer.bytes);
                list.push(Life { offset, bytes, first: i, last: i, by: call, port });
            }
        }
    }
    // Results are read when the entry is over.
    for port in plan.outputs.iter().filter(|p| p.binding == entry) {
        if let Place::Buffer(b) = port.operand.place
            && let Some(&l) = place.get(&b)
        {
            list[l].last = calls.len().saturating_sub(1);
        }
    }
    list
}

/// Bytes of working memory that hold something at each call.
pub fn live_bytes(lives: &[Life<'_>], calls: usize) -> Vec<u64> {
    let mut change = vec![0i64; calls + 1];
    for l in lives {
        change[l.first] += l.bytes as i64;
        change[l.last + 1] -= l.bytes as i64;
    }
    let mut now = 0;
    change[..calls].iter().map(|c| (now += c, now.max(0) as u64).1).collect()
}
