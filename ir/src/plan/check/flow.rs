//! Data flow: every read finds its value.
//!
//! The entries are run on an abstract memory that knows which buffers hold a whole value. A write makes its buffer
//! hold a value and takes away those of all buffers that share bytes with it; an entry starts with nothing in
//! scratch memory. The step runs twice in a row and the whole clip twice, so that what one run destroys is missed
//! by the next.

use std::collections::BTreeMap;

use super::Site;
use crate::error::Problem;
use crate::graph::Binding;
use crate::plan::{Operand, Place, Plan, Region};
use crate::types::DType;

/// Entries in the order in which they are simulated, and whether the caller writes the entry's inputs before.
const RUNS: [(Binding, bool); 9] = [
    (Binding::Load, true),
    (Binding::Prologue, true),
    (Binding::Step, true),
    (Binding::Step, false),
    (Binding::Epilogue, true),
    (Binding::Prologue, true),
    (Binding::Step, true),
    (Binding::Step, false),
    (Binding::Epilogue, true),
];

/// Proves that every read finds the value that was written to its buffer. The plan's operands are known to be inside
/// their places.
pub(super) fn check(plan: &Plan) -> Result<(), Problem> {
    let mut memory = Memory::new(plan);
    for (entry, caller_writes) in RUNS {
        memory.clear_scratch();
        // A step starts from the state as it is, whatever updated it. The epilogue goes on with what the step made of it.
        if entry != Binding::Epilogue {
            memory.hold_states();
        }
        if caller_writes {
            let inputs = || plan.inputs.iter().filter(|p| p.binding == entry);
            for port in inputs() {
                memory.write(&port.operand);
            }
            for port in inputs() {
                memory.read(&port.operand).map_err(|p| Problem(format!("input `{}`: {p}", port.name)))?;
            }
        }
        for (index, call) in plan.calls(entry).iter().enumerate() {
            for (i, operand) in call.inputs.iter().enumerate() {
                let site = Site { entry, index, call };
                memory.read(operand).map_err(|p| Problem(format!("{site}: input {i} {p}")))?;
            }
            for operand in &call.outputs {
                memory.write(operand);
            }
        }
        for port in plan.outputs.iter().filter(|p| p.binding == entry) {
            memory.read(&port.operand).map_err(|p| Problem(format!("output `{}`, after {entry}: {p}", port.name)))?;
        }
    }
    Ok(())
}

/// What a buffer holds.
#[derive(Clone, Copy)]
enum Held {
    /// A value: element type and size in bytes.
    Value(DType, u64),
    /// Never written.
    Nothing,
    /// Lost to a write to this buffer.
    Overwritten(u32),
    /// Lost when its entry ended.
    Ended,
}

/// The abstract memory.
struct Memory<'a> {
    plan: &'a Plan,
    held: Vec<Held>,
    /// Buffers that hold a value, by first byte; they are disjoint.
    persistent: BTreeMap<u64, u32>,
    scratch: BTreeMap<u64, u32>,
    state: BTreeMap<u64, u32>,
}

impl<'a> Memory<'a> {
    fn new(plan: &'a Plan) -> Self {
        let held = vec![Held::Nothing; plan.buffers.len()];
        Self { plan, held, persistent: BTreeMap::new(), scratch: BTreeMap::new(), state: BTreeMap::new() }
    }

    /// Every state holds its value.
    fn hold_states(&mut self) {
        for s in &self.plan.states {
            self.write_buffer(s.buffer, s.ty.dtype, s.ty.bytes());
        }
    }

    fn clear_scratch(&mut self) {
        for (_, index) in std::mem::take(&mut self.scratch) {
            self.held[index as usize] = Held::Ended;
        }
    }

    /// Proves that an operand reads a value.
    fn read(&self, operand: &Operand) -> Result<(), Problem> {
        let Place::Buffer(index) = operand.place else { return Ok(()) };
        match self.held[index as usize] {
            Held::Value(dtype, bytes) => {
                crate::ensure!(dtype == operand.ty.dtype, "reads {dtype} of buffer {index} as {}", operand.ty);
                // A buffer may have some bytes of padding, where no value is.
                let range = self.plan.bytes_of(operand)?.range;
                let end = range.end - self.plan.buffers[index as usize].offset;
                crate::ensure!(end <= bytes, "reads {end} bytes of buffer {index}, which holds {bytes}");
                Ok(())
            }
            Held::Nothing => Err(Problem(format!("reads buffer {index}, which nothing has written"))),
            Held::Overwritten(by) => {
                Err(Problem(format!("reads buffer {index}, which buffer {by} has since overwritten")))
            }
            Held::Ended => {
                Err(Problem(format!("reads buffer {index}, which is scratch memory of an entry that has ended")))
            }
        }
    }

    /// Writes all of a buffer.
    fn write(&mut self, operand: &Operand) {
        if let Place::Buffer(index) = operand.place {
            self.write_buffer(index, operand.ty.dtype, operand.ty.bytes());
        }
    }

    fn write_buffer(&mut self, index: u32, dtype: DType, bytes: u64) {
        let buffer = &self.plan.buffers[index as usize];
        let map = match buffer.region {
            Region::Persistent => &mut self.persistent,
            Region::Scratch => &mut self.scratch,
            Region::State => &mut self.state,
        };
        // Those in the map are disjoint, so the ones that overlap are the last that start before this one's end.
        while let Some((&start, &other)) = map.range(..buffer.offset + buffer.bytes).next_back() {
            if start + self.plan.buffers[other as usize].bytes <= buffer.offset {
                break;
            }
            map.remove(&start);
            self.held[other as usize] = Held::Overwritten(index);
        }
        map.insert(buffer.offset, index);
        self.held[index as usize] = Held::Value(dtype, bytes);
    }
}
