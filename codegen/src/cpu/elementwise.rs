//! Chains of elementwise steps: unary, binary and fused operators.
//!
//! A [`Program`] works on blocks of consecutive output elements, one vectorised loop per step and block, so that
//! intermediate results stay in the first-level cache. Operands may have any strides.

use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::ops::{Binary, BinaryKind, Fused, Unary, UnaryKind};

use super::layout::{Cursor, Layout};
use super::math::{self, Operand};
use super::parallel::{Shared, chunks};
use super::view::View;

/// Elements that a program handles at a time: a few buffers of this size fit in the first-level cache.
pub(super) const BLOCK: usize = 512;

/// Where a step's operand is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Input(usize),
    Slot(usize),
    Const(f32),
}

/// What a step does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Unary(UnaryKind, Source),
    Binary(BinaryKind, Source, Source),
}

/// A chain whose results have been given slots: a step's slot is free again after its last reader.
#[derive(Debug)]
pub(super) struct Program {
    /// What each step does and the slot it writes, which is none of the slots that it reads.
    pub steps: Vec<(Step, usize)>,
    /// Number of slots.
    pub slots: usize,
}

impl Program {
    /// Prepares a chain that `check` has accepted.
    pub fn new(steps: &[Instr]) -> Self {
        let last_use = |n: usize| steps.iter().rposition(|s| s.args().any(|a| a == Arg::Step(n as u16)));
        let (mut free, mut slots) = (Vec::new(), 0);
        let mut slot_of: Vec<usize> = Vec::with_capacity(steps.len());
        let mut out = Vec::with_capacity(steps.len());
        for (i, step) in steps.iter().enumerate() {
            let to = free.pop().unwrap_or_else(|| {
                slots += 1;
                slots - 1
            });
            let source = |arg: Arg| match arg {
                Arg::In(n) => Source::Input(n.into()),
                Arg::Step(n) => Source::Slot(slot_of[usize::from(n)]),
                Arg::Const(c) => Source::Const(c as f32),
            };
            let kind = match *step {
                Instr::Unary(kind, a) => Step::Unary(kind, source(a)),
                Instr::Binary(kind, a, b) => Step::Binary(kind, source(a), source(b)),
            };
            out.push((kind, to));
            slot_of.push(to);
            // A step that nobody reads (but the last) frees its own slot at once.
            free.extend((0..=i).filter(|&n| last_use(n).unwrap_or(n) == i).map(|n| slot_of[n]));
        }
        Self { steps: out, slots }
    }

    /// Number of operands that are constants.
    pub fn constants(&self) -> usize {
        let constant = |source: &Source| usize::from(matches!(source, Source::Const(_)));
        let count = |(step, _): &(Step, usize)| match step {
            Step::Unary(_, a) => constant(a),
            Step::Binary(_, a, b) => constant(a) + constant(b),
        };
        self.steps.iter().map(count).sum()
    }
}

/// An input of a program as it lies in memory, broadcast to the result.
pub(super) struct Lane {
    data: Shared<f32>,
    layout: Layout,
}

impl Lane {
    /// `view`, of type `f32`, as broadcasting repeats it to `shape`.
    pub fn new(view: &View<'_>, shape: &[usize]) -> Self {
        Self { data: Shared(view.ptr.cast()), layout: Layout::broadcast(view, shape) }
    }
}

/// One thread's state while it runs a program over part of the output.
pub(super) struct Machine<'a> {
    program: &'a Program,
    inputs: Vec<Input<'a>>,
    slots: Vec<Vec<f32>>,
}

struct Input<'a> {
    data: Shared<f32>,
    cursor: Cursor<'a>,
    /// Elements brought together where the next block is no single run in memory.
    gathered: Vec<f32>,
    block: Fetched,
}

/// Where an input's part of the current block is.
enum Fetched {
    Scalar(f32),
    Memory(*const f32),
    Gathered,
}

impl<'a> Machine<'a> {
    /// A machine for a program and its inputs.
    pub fn new(program: &'a Program, lanes: &'a [Lane]) -> Self {
        let input = |lane: &'a Lane| Input {
            data: lane.data,
            cursor: lane.layout.cursor(0),
            gathered: Vec::new(),
            block: Fetched::Scalar(0.0),
        };
        Self {
            program,
            inputs: lanes.iter().map(input).collect(),
            slots: (0..program.slots).map(|_| vec![0.0; BLOCK]).collect(),
        }
    }

    /// Computes the output elements `start .. start + len` of the program into `out`, where `out` is the first of them.
    ///
    /// # Safety
    /// The elements lie in the result's shape; all lanes and `out` are valid for them; nobody else writes the lanes'
    /// elements or touches the output's. A lane may be the output itself.
    pub unsafe fn run(&mut self, start: usize, len: usize, out: *mut f32) {
        self.inputs.iter_mut().for_each(|input| input.cursor.seek(start));
        let mut done = 0;
        while done < len {
            let n = BLOCK.min(len - done);
            for input in &mut self.inputs {
                // SAFETY: the caller's promise.
                unsafe { input.fetch(n) };
            }
            // SAFETY: what has been fetched stays as it is until the result is copied out below.
            let result = unsafe { self.steps(n) };
            // SAFETY: the caller's promise; slots are memory of our own.
            unsafe { std::ptr::copy_nonoverlapping(self.slots[result].as_ptr(), out.add(done), n) };
            done += n;
        }
    }

    /// Runs all steps on the fetched block of `n` elements; returns the slot with the result.
    ///
    /// # Safety
    /// Nobody writes the memory that the inputs' last `fetch` found.
    unsafe fn steps(&mut self, n: usize) -> usize {
        let mut last = 0;
        for &(step, to) in &self.program.steps {
            let mut out = std::mem::take(&mut self.slots[to]);
            let get = |source| match source {
                Source::Const(c) => Operand::Scalar(c),
                Source::Slot(s) => Operand::Slice(&self.slots[s][..n]),
                Source::Input(i) => match self.inputs[i].block {
                    Fetched::Scalar(x) => Operand::Scalar(x),
                    Fetched::Gathered => Operand::Slice(&self.inputs[i].gathered[..n]),
                    // SAFETY: `fetch` found n elements there.
                    Fetched::Memory(p) => Operand::Slice(unsafe { std::slice::from_raw_parts(p, n) }),
                },
            };
            match step {
                Step::Unary(kind, a) => math::unary(kind, get(a), &mut out[..n]),
                Step::Binary(kind, a, b) => math::binary(kind, get(a), get(b), &mut out[..n]),
            }
            self.slots[to] = out;
            last = to;
        }
        last
    }
}

impl Input<'_> {
    /// Finds the next `n` elements, in place where they are one run of stride 0 or 1.
    ///
    /// # Safety
    /// They are valid to read, and nobody writes them meanwhile.
    unsafe fn fetch(&mut self, n: usize) {
        let mut done = 0;
        while done < n {
            let run = self.cursor.next(n - done);
            // SAFETY: the caller's promise; the cursor stays inside the view.
            let first = unsafe { self.data.at(run.offset) };
            if run.len == n && run.stride <= 1 {
                // SAFETY: as above.
                self.block = if run.stride == 0 { Fetched::Scalar(unsafe { *first }) } else { Fetched::Memory(first) };
                return;
            }
            self.gathered.resize(BLOCK, 0.0);
            let to = &mut self.gathered[done..done + run.len];
            // SAFETY: as above.
            unsafe {
                match run.stride {
                    0 => to.fill(*first),
                    1 => to.copy_from_slice(std::slice::from_raw_parts(first, run.len)),
                    stride => to.iter_mut().enumerate().for_each(|(i, x)| *x = *first.add(i * stride)),
                }
            }
            done += run.len;
        }
        self.block = Fetched::Gathered;
    }
}

/// Runs a chain over all output elements.
unsafe fn run(steps: &[Instr], inputs: &[View<'_>], out: &View<'_>) {
    let program = Program::new(steps);
    let lanes: Vec<Lane> = inputs.iter().map(|v| Lane::new(v, out.shape())).collect();
    let to = Shared(out.ptr.cast::<f32>());
    chunks(out.elements(), |start, len| {
        // SAFETY: the dispatcher's promise; chunks do not overlap.
        unsafe { Machine::new(&program, &lanes).run(start, len, to.at(start)) };
    });
}

/// See [`Unary`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn unary(op: &Unary, inputs: &[View<'_>], outputs: &[View<'_>]) {
    // SAFETY: the caller's promise.
    unsafe { run(&Chain::unary(op.kind).steps, inputs, &outputs[0]) }
}

/// See [`Binary`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn binary(op: &Binary, inputs: &[View<'_>], outputs: &[View<'_>]) {
    // SAFETY: the caller's promise.
    unsafe { run(&Chain::binary(op.kind).steps, inputs, &outputs[0]) }
}

/// See [`Fused`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn fused(op: &Fused, inputs: &[View<'_>], outputs: &[View<'_>]) {
    // SAFETY: the caller's promise.
    unsafe { run(&op.chain.steps, inputs, &outputs[0]) }
}
