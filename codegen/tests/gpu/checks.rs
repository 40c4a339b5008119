//! Calls on a wgpu device against the f64 evaluation of the numbers in their buffers.

use ccl_codegen::gpu::Target;
use ccl_ir::interp::sample_inputs;
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Sample, TensorType};

use crate::common::{Buffer, call, client, reference, run, target};

/// Relative L2 for f32 results of sums, and for numbers stored in half precision.
pub const FULL: f64 = 2e-5;
pub const HALF: f64 = 2e-3;

pub fn f32(shape: &[usize]) -> TensorType {
    TensorType::f32(shape)
}

pub fn f16(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F16, shape)
}

/// Runs a sample's call, its operands as `view` lays them, and compares every output.
pub fn check_on(target: &Target, sample: &Sample<Op>, view: impl Fn(&mut Call), bound: f64) {
    let mut call = call(sample);
    view(&mut call);
    let drawn = sample_inputs(sample, 7);
    let inputs: Vec<Buffer> = call.inputs.iter().zip(&drawn).map(|(o, t)| Buffer::new(o, &t.data)).collect();
    let outputs = run(&client(), target, &call, &inputs).unwrap().unwrap();
    for (port, (got, want)) in outputs.iter().zip(reference(&call, &inputs)).enumerate() {
        let error = relative_l2(got, &want.data);
        assert!(error <= bound, "{:?} on {:?}, output {port}: {error:e} > {bound:e}", sample.op, sample.inputs);
    }
}

/// The same of an operator, with small tiles.
pub fn check_views(op: impl Into<Op>, inputs: &[TensorType], view: impl Fn(&mut Call), bound: f64) {
    check_on(&target(), &Sample::new(op.into(), inputs.iter().cloned()), view, bound);
}

/// The same on dense operands.
pub fn check(op: impl Into<Op>, inputs: &[TensorType], bound: f64) {
    check_views(op, inputs, |_| {}, bound);
}
