//! The checker against a byte-level simulation of random programs: both accept, or both refuse.

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::ops::Copy;
use ccl_ir::plan::{Buffer, Call, Operand, Place, Plan, Region};
use ccl_ir::{Binding, Op};

use crate::build::*;

/// A small generator of pseudo-random numbers (splitmix64), so that every run tests the same programs.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const LINE: u64 = 256;

/// Elements of a buffer.
fn elements(buffer: &Buffer) -> usize {
    (buffer.bytes / 4) as usize
}

/// A program on buffers of one or two lines that often overlap.
fn random_plan(r: &mut Random) -> Plan {
    let count = 3 + r.below(5);
    let buffers: Vec<Buffer> = (0..count)
        .map(|i| {
            let (offset, bytes) = (LINE * r.below(5), LINE * (1 + r.below(4) / 3));
            if i == 0 || r.below(3) == 0 { kept(offset, bytes) } else { scratch(offset, bytes) }
        })
        .collect();
    let mut p = plan(buffers);
    let all = |p: &Plan, i: u64| buffer(i as u32, &[elements(&p.buffers[i as usize])]);
    let entries = [Binding::Prologue, Binding::Step, Binding::Step, Binding::Epilogue];
    for i in 0..count {
        if p.buffers[i as usize].region == Region::Persistent && (i == 0 || r.below(2) == 0) {
            let operand = all(&p, i);
            p.inputs.push(port(&format!("x{i}"), entries[r.below(4) as usize], operand));
        }
    }
    let mut last = (Binding::Step, 0);
    for entry in [Binding::Load, Binding::Prologue, Binding::Step, Binding::Epilogue] {
        let mut calls = Vec::new();
        for _ in 0..r.below(if entry == Binding::Step { 5 } else { 2 }) {
            let output = r.below(count);
            let n = elements(&p.buffers[output as usize]);
            let mut input = || {
                // Reading what was written last makes more programs that pass.
                let i = [last.1, last.1, last.1, 0, r.below(count)][r.below(5) as usize];
                let mut operand = all(&p, i);
                if operand.ty.shape[0] > n {
                    operand.ty.shape[0] = n;
                    operand.offset = n as u64 * r.below(2);
                }
                operand
            };
            let (a, b) = (input(), input());
            if a.ty.shape[0] != n || b.ty.shape[0] != n {
                continue;
            }
            let outputs = [all(&p, output)];
            calls.push(match r.below(3) {
                0 => call(unary(), &[a], &outputs),
                1 => call(Copy {}, &[a], &outputs),
                _ => call(add(), &[a, b], &outputs),
            });
            last = (entry, output);
        }
        p.entries.insert(entry, calls);
    }
    p.outputs.push(port("y", last.0, all(&p, last.1)));
    p
}

/// Memory in which every line knows which writing it belongs to.
#[derive(Default)]
struct Lines {
    writer: BTreeMap<(Region, u64), u64>,
    /// The last writing of each buffer.
    written: BTreeMap<u32, u64>,
    clock: u64,
}

fn index(operand: &Operand) -> u32 {
    match operand.place {
        Place::Buffer(i) => i,
        Place::Weight(_) => unreachable!("these programs have no weights"),
    }
}

fn lines(p: &Plan, operand: &Operand) -> BTreeSet<(Region, u64)> {
    let buffer = &p.buffers[index(operand) as usize];
    let first = buffer.offset + operand.offset * 4;
    (first / LINE..(first + operand.ty.bytes()).div_ceil(LINE)).map(|l| (buffer.region, l)).collect()
}

impl Lines {
    fn write(&mut self, p: &Plan, operand: &Operand) {
        self.clock += 1;
        for line in lines(p, operand) {
            self.writer.insert(line, self.clock);
        }
        self.written.insert(index(operand), self.clock);
    }

    /// Whether the whole buffer still holds what was last written to it.
    fn readable(&self, p: &Plan, operand: &Operand) -> bool {
        let i = index(operand);
        let whole = buffer(i, &[elements(&p.buffers[i as usize])]);
        let time = self.written.get(&i);
        time.is_some() && lines(p, &whole).iter().all(|line| self.writer.get(line) == time)
    }
}

fn call_is_safe(p: &Plan, call: &Call) -> bool {
    let output = lines(p, &call.outputs[0]);
    let elementwise = matches!(call.op, Op::Unary(_) | Op::Binary(_));
    call.inputs.iter().all(|input| {
        let input = lines(p, input);
        output.is_disjoint(&input) || (elementwise && output == input)
    })
}

fn is_safe(p: &Plan) -> bool {
    let mut memory = Lines::default();
    let clip = [Binding::Prologue, Binding::Step, Binding::Step, Binding::Epilogue];
    let order: Vec<Binding> = std::iter::once(Binding::Load).chain(clip).chain(clip).collect();
    for (n, &entry) in order.iter().enumerate() {
        memory.writer.retain(|(region, _), _| *region == Region::Persistent);
        let again = n > 0 && order[n - 1] == entry;
        let inputs: Vec<&Operand> =
            p.inputs.iter().filter(|x| x.binding == entry && !again).map(|x| &x.operand).collect();
        for operand in &inputs {
            memory.write(p, operand);
        }
        if !inputs.iter().all(|operand| memory.readable(p, operand)) {
            return false;
        }
        for call in p.calls(entry) {
            if !call_is_safe(p, call) || !call.inputs.iter().all(|operand| memory.readable(p, operand)) {
                return false;
            }
            memory.write(p, &call.outputs[0]);
        }
        if !p.outputs.iter().all(|y| y.binding != entry || memory.readable(p, &y.operand)) {
            return false;
        }
    }
    true
}

#[test]
fn random_programs() {
    let mut random = Random(7);
    let (mut passed, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let p = random_plan(&mut random);
        let verdict = p.check();
        assert_eq!(verdict.is_ok(), is_safe(&p), "{verdict:?} of {p:#?}");
        if verdict.is_ok() {
            let bound = p.live_scratch_lower_bound();
            assert!(bound <= p.scratch_bytes, "a bound of {bound} bytes for {p:#?}");
            passed += usize::from(p.entries.values().map(Vec::len).sum::<usize>() > 2);
        }
        refused += usize::from(verdict.is_err());
    }
    assert!(passed > 1000 && refused > 1000, "{passed} programs of some length passed, {refused} were refused");
}
