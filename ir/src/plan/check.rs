//! The checker: proves that a plan is safe to execute with raw pointers.
//!
//! It shares nothing with the planner and believes no number in the plan. What it promises of a plan that passes:
//!
//! - every buffer is aligned and inside its region; every element of every operand is inside its place; every
//!   element count, stride and size is small enough that sums and products of them do not overflow;
//! - every call's operator takes its inputs, with the access it asks for, and yields the outputs' types; outputs are
//!   dense, fill a buffer of their own and never lie over an input, save where the operator allows that one;
//! - every read finds the value that was written to that buffer, whole ([`flow`]);
//! - the kernels that it carries, if any, belong to its calls: every index is in range.
//!
//! Whether the calls compute what the graph meant is not its question.

mod flow;
mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use super::{ALIGNMENT, Call, Operand, Place, Plan, Port, Region};
use crate::error::{IrError, Problem};
use crate::graph::Binding;
use crate::op::{Access, Op};
use crate::types::{DType, MAX_ELEMENTS, TensorType};

/// Most bytes of a region, and of all weights.
const MAX_BYTES: u64 = 1 << 46;

/// Most dimensions of an operand, far above what any operator takes.
const MAX_RANK: usize = 16;

/// Longest message; what a plan from a file says of itself may be of any length.
const MAX_MESSAGE: usize = 1000;

impl Plan {
    /// Proves that the plan is safe to execute.
    ///
    /// It assumes that a caller writes the inputs bound to an entry (whole, in their type) before the entry's first
    /// run for a clip; runs the entries in the order load, prologue, step as often as it likes, epilogue, and for a
    /// further clip again from the prologue; and reads an output before the next entry starts.
    ///
    /// # Errors
    /// When the plan must not be run: the first thing found, with the call or buffer it is about.
    pub fn check(&self) -> Result<(), IrError> {
        let checked = self.check_memory().and_then(|()| self.check_ports()).and_then(|()| self.check_calls());
        let checked = checked.and_then(|()| self.kernels.as_ref().map_or(Ok(()), |k| k.check(self)));
        checked.and_then(|()| flow::check(self)).map_err(|p| IrError::Plan(Problem(one_line(&p.0))))
    }

    /// Sizes of regions, buffers and weights.
    fn check_memory(&self) -> Result<(), Problem> {
        for (name, bytes) in
            [("persistent", self.persistent_bytes), ("scratch", self.scratch_bytes), ("state", self.state_bytes)]
        {
            crate::ensure!(bytes <= MAX_BYTES, "{bytes} bytes of {name} memory are more than any machine has");
        }
        for (i, b) in self.buffers.iter().enumerate() {
            let size = match b.region {
                Region::Persistent => self.persistent_bytes,
                Region::Scratch => self.scratch_bytes,
                Region::State => self.state_bytes,
            };
            crate::ensure!(b.bytes > 0, "buffer {i} is empty");
            crate::ensure!(b.offset % ALIGNMENT == 0, "buffer {i} starts at byte {}, not aligned", b.offset);
            crate::ensure!(
                b.offset.checked_add(b.bytes).is_some_and(|end| end <= size),
                "buffer {i} has {} bytes from byte {} on, its region has {size}",
                b.bytes,
                b.offset
            );
        }
        let (mut names, mut total) = (BTreeSet::new(), 0u64);
        for w in &self.weights {
            crate::ensure!(names.insert(&w.name), "weight `{}` is listed twice", w.name);
            check_type(&w.ty).map_err(|p| Problem(format!("weight `{}`: {p}", w.name)))?;
            // At most 2^46 elements of 4 bytes each: the sum stays far from overflow.
            total += w.ty.bytes();
            crate::ensure!(total <= MAX_BYTES, "the weights take more than {MAX_BYTES} bytes");
        }
        self.check_states()
    }

    /// States have buffers of their own, apart from each other.
    fn check_states(&self) -> Result<(), Problem> {
        let (mut names, mut taken) = (BTreeSet::new(), BTreeMap::new());
        for s in &self.states {
            let fail = |p: Problem| Problem(format!("state `{}`: {p}", s.name));
            crate::ensure!(names.insert(&s.name), "state `{}` is listed twice", s.name);
            check_type(&s.ty).map_err(fail)?;
            let Bytes { region, range } = self.whole(Place::Buffer(s.buffer)).map_err(fail)?;
            let fits = region == Some(Region::State) && range.end - range.start == s.ty.bytes();
            crate::ensure!(fits, "state `{}`: buffer {} is no state of type {}", s.name, s.buffer, s.ty);
            taken.insert(range.start, (range.end, &s.name));
        }
        crate::ensure!(taken.len() == self.states.len(), "two states lie at the same place");
        let mut before = 0;
        for (start, (end, name)) in taken {
            crate::ensure!(start >= before, "state `{name}`: overlaps another");
            before = end;
        }
        Ok(())
    }

    /// Names, places and types of inputs and outputs.
    fn check_ports(&self) -> Result<(), Problem> {
        let mut buffers = BTreeSet::new();
        for port in unique(&self.inputs, "input")? {
            let fail = |p: Problem| Problem(format!("input `{}`: {p}", port.name));
            self.check_written(&port.operand).map_err(fail)?;
            let known = matches!(port.operand.ty.dtype, DType::F32 | DType::I32);
            crate::ensure!(known, "input `{}`: must be f32 or i32, is {}", port.name, port.operand.ty);
            let persistent = self.bytes_of(&port.operand).map_err(fail)?.region == Some(Region::Persistent);
            crate::ensure!(persistent, "input `{}`: is not in persistent memory", port.name);
            crate::ensure!(buffers.insert(port.operand.place), "input `{}`: shares another's buffer", port.name);
        }
        for port in unique(&self.outputs, "output")? {
            let fail = |p: Problem| Problem(format!("output `{}`: {p}", port.name));
            let bytes = self.bytes_of(&port.operand).map_err(fail)?;
            crate::ensure!(bytes.region.is_some(), "output `{}`: is a weight", port.name);
            crate::ensure!(port.operand.is_dense(), "output `{}`: is not dense", port.name);
        }
        Ok(())
    }

    fn check_calls(&self) -> Result<(), Problem> {
        for (&entry, calls) in &self.entries {
            for (index, call) in calls.iter().enumerate() {
                self.check_call(call).map_err(|p| Problem(format!("{}: {p}", Site { entry, index, call })))?;
            }
        }
        Ok(())
    }

    /// Operands and types of one call.
    fn check_call(&self, call: &Call) -> Result<(), Problem> {
        let structural = matches!(call.op, Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Route(_));
        crate::ensure!(!structural, "is no operation that a plan can call");
        let mut inputs = Vec::with_capacity(call.inputs.len());
        for (i, operand) in call.inputs.iter().enumerate() {
            inputs.push(self.bytes_of(operand).map_err(|p| Problem(format!("input {i}: {p}")))?);
        }
        for (i, operand) in call.outputs.iter().enumerate() {
            self.check_written(operand).map_err(|p| Problem(format!("output {i}: {p}")))?;
        }
        let types: Vec<&TensorType> = call.inputs.iter().map(|o| &o.ty).collect();
        let want = call.op.infer(&types)?;
        crate::ensure!(want.len() == call.outputs.len(), "has {} outputs, not {}", want.len(), call.outputs.len());
        for (i, (want, have)) in want.iter().zip(&call.outputs).enumerate() {
            crate::ensure!(*want == have.ty, "output {i} is {}, the operator gives {want}", have.ty);
        }
        for (i, operand) in call.inputs.iter().enumerate() {
            match call.op.access(i) {
                Access::Dense => crate::ensure!(operand.is_dense(), "input {i} must be dense"),
                Access::Rows => crate::ensure!(operand.has_packed_rows(), "input {i} must have packed rows"),
                Access::Any => {}
            }
        }
        self.check_overlap(call, &inputs)
    }

    /// Outputs lie over nothing that the call reads or writes, save over inputs that may be overwritten.
    fn check_overlap(&self, call: &Call, inputs: &[Bytes]) -> Result<(), Problem> {
        let mut outputs: Vec<Bytes> = Vec::with_capacity(call.outputs.len());
        for (o, operand) in call.outputs.iter().enumerate() {
            // The buffer with its padding, which a kernel may touch.
            let whole = self.whole(operand.place)?;
            if let Some(other) = outputs.iter().position(|b| b.overlaps(&whole)) {
                return Err(Problem(format!("outputs {other} and {o} overlap")));
            }
            for (i, (bytes, input)) in inputs.iter().zip(&call.inputs).enumerate() {
                let in_place = || {
                    let same = self.bytes_of(operand).is_ok_and(|b| b == *bytes) && input.ty == operand.ty;
                    let allowed = (o == 0 && call.op.may_overwrite(i)) || call.op.updates(o) == Some(i);
                    same && input.is_dense() && allowed
                };
                crate::ensure!(!bytes.overlaps(&whole) || in_place(), "output {o} would overwrite input {i}");
            }
            outputs.push(whole);
        }
        Ok(())
    }

    /// What is written, by a call or by the caller: all of a buffer, dense.
    fn check_written(&self, operand: &Operand) -> Result<(), Problem> {
        self.bytes_of(operand)?;
        let whole = self.whole(operand.place)?;
        crate::ensure!(whole.region.is_some(), "weights are never written");
        crate::ensure!(operand.is_dense(), "what is written must be dense");
        let (bytes, size) = (operand.ty.bytes(), whole.range.end - whole.range.start);
        crate::ensure!(
            operand.offset == 0 && size - bytes < ALIGNMENT,
            "{bytes} bytes from element {} on do not fill a buffer of {size} bytes",
            operand.offset
        );
        Ok(())
    }

    /// All bytes of a place.
    fn whole(&self, place: Place) -> Result<Bytes, Problem> {
        match place {
            Place::Weight(i) => match self.weights.get(i as usize) {
                Some(w) => Ok(Bytes { region: None, range: 0..w.ty.bytes() }),
                None => Err(Problem(format!("there is no weight {i}, there are {}", self.weights.len()))),
            },
            Place::Buffer(i) => match self.buffers.get(i as usize) {
                Some(b) => Ok(Bytes { region: Some(b.region), range: b.offset..b.offset + b.bytes }),
                None => Err(Problem(format!("there is no buffer {i}, there are {}", self.buffers.len()))),
            },
        }
    }

    /// The bytes from the first to the last element of an operand, which has been proved to be inside its place.
    fn bytes_of(&self, operand: &Operand) -> Result<Bytes, Problem> {
        let Bytes { region, range } = self.whole(operand.place)?;
        let ty = &operand.ty;
        check_type(ty)?;
        if let Place::Weight(i) = operand.place {
            let want = self.weights[i as usize].ty.dtype;
            crate::ensure!(ty.dtype == want, "reads a weight of {want} as {ty}");
        }
        let rank = operand.strides.len();
        crate::ensure!(rank == ty.rank(), "{rank} strides for {ty}");
        let mut last = operand.offset;
        for (&n, &stride) in ty.shape.iter().zip(&operand.strides) {
            crate::ensure!(stride <= MAX_ELEMENTS, "a stride of {stride} elements is too large");
            let reach = (n as u64 - 1).checked_mul(stride).and_then(|r| last.checked_add(r));
            last = reach.filter(|&l| l <= MAX_BYTES).ok_or_else(|| outside(operand, &range))?;
        }
        let inside = last.checked_add(1).and_then(|n| n.checked_mul(ty.dtype.bytes()));
        let end = inside.filter(|&end| end <= range.end - range.start).ok_or_else(|| outside(operand, &range))?;
        let start = operand.offset * ty.dtype.bytes();
        Ok(Bytes { region, range: range.start + start..range.start + end })
    }
}

/// Sizes of a tensor.
fn check_type(ty: &TensorType) -> Result<(), Problem> {
    crate::ensure!(ty.rank() <= MAX_RANK, "a tensor of {} dimensions, at most {MAX_RANK} are allowed", ty.rank());
    crate::ensure!(!ty.shape.contains(&0), "{ty} has no elements");
    crate::ensure!(ty.checked_elements().is_some(), "{ty} has too many elements");
    Ok(())
}

fn outside(operand: &Operand, place: &Range<u64>) -> Problem {
    Problem(format!(
        "{} from element {} with strides {:?} leaves its {} bytes",
        operand.ty,
        operand.offset,
        operand.strides,
        place.end - place.start
    ))
}

/// The ports, whose names have been found to differ.
fn unique<'a>(ports: &'a [Port], kind: &str) -> Result<&'a [Port], Problem> {
    let mut names = BTreeSet::new();
    for port in ports {
        crate::ensure!(names.insert(&port.name), "{kind} `{}` is listed twice", port.name);
    }
    Ok(ports)
}

/// A run of bytes of a region; of some weight where there is no region.
#[derive(PartialEq)]
struct Bytes {
    region: Option<Region>,
    range: Range<u64>,
}

impl Bytes {
    /// Whether two runs share a byte of a region. Weights are only read, so what they share does not matter.
    fn overlaps(&self, other: &Bytes) -> bool {
        let same = self.region.is_some() && self.region == other.region;
        same && self.range.start < other.range.end && other.range.start < self.range.end
    }
}

/// A call in messages.
struct Site<'a> {
    entry: Binding,
    index: usize,
    call: &'a Call,
}

impl fmt::Display for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} call {} `{}` at `{}`", self.entry, self.index, self.call.op.name(), self.call.at)
    }
}

/// A message as one printable line of bounded length, whatever names a plan from a file put into it.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if line.len() >= MAX_MESSAGE {
            line.push_str("...");
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
