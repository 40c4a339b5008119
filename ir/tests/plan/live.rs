//! The lower bound on scratch memory.

use ccl_ir::Binding;

use crate::build::*;

#[test]
fn by_hand() {
    // The attention call: projected, attended and the row sums that nobody reads (16 bytes); then the copy.
    assert_eq!(small().live_scratch_lower_bound(), 64 + 64 + 16);
    assert_eq!(plan(Vec::new()).live_scratch_lower_bound(), 0);
}

/// `a = f(x); b = f(a); c = f(b)` with `a`, `b` and `c` at the given offsets, and `c` or `a + c` as the output.
fn chain(offsets: [u64; 3], residual: bool) -> ccl_ir::Plan {
    let mut p = plan(vec![kept(0, 64), scratch(offsets[0], 64), scratch(offsets[1], 64), scratch(offsets[2], 64)]);
    let x = |i| buffer(i, &[16]);
    p.inputs = vec![port("x", Binding::Step, x(0))];
    p.outputs = vec![port("y", Binding::Step, x(3))];
    let mut calls: Vec<_> = (0..3).map(|i| call(unary(), &[x(i)], &[x(i + 1)])).collect();
    if residual {
        calls.push(call(add(), &[x(1), x(3)], &[x(3)]));
    }
    p.entries.insert(Binding::Step, calls);
    assert_eq!(p.check(), Ok(()));
    p
}

#[test]
fn chains() {
    assert_eq!(chain([0, 0, 0], false).live_scratch_lower_bound(), 64, "in place all the way");
    assert_eq!(chain([0, 256, 0], false).live_scratch_lower_bound(), 128, "input and output");
    assert_eq!(chain([0, 256, 512], false).live_scratch_lower_bound(), 128, "whatever the placement wastes");
    assert_eq!(chain([0, 256, 512], true).live_scratch_lower_bound(), 192, "the first value lives on");
    assert_eq!(chain([0, 256, 256], true).live_scratch_lower_bound(), 128);
}

#[test]
fn outputs_live_to_the_end() {
    let mut p = chain([0, 256, 512], false);
    p.outputs.push(port("early", Binding::Step, buffer(1, &[16])));
    assert_eq!(p.check(), Ok(()));
    assert_eq!(p.live_scratch_lower_bound(), 192);
}

#[test]
fn a_plan_that_does_not_pass_has_a_bound_too() {
    let mut p = chain([0, 256, 512], true);
    p.buffers[2].bytes = u64::MAX;
    p.buffers.pop();
    p.live_scratch_lower_bound();
    p.buffers.clear();
    assert_eq!(p.live_scratch_lower_bound(), 0);
}
