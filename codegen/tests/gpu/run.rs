//! Every operator's samples on a wgpu device, against the f64 evaluation. Needs a Vulkan driver; lavapipe will do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::common::{Buffer, call, client, reference, run, target};
use ccl_ir::interp::sample_inputs;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Tolerance};

#[test]
fn kernels_agree_with_the_reference() {
    let (client, target) = (client(), target());
    let mut ran = BTreeMap::<&str, (usize, f64)>::new();
    let mut without = BTreeSet::new();
    for (number, sample) in Op::samples().iter().enumerate() {
        let call = call(sample);
        let drawn = sample_inputs(sample, number as u64);
        let inputs: Vec<Buffer> = call.inputs.iter().zip(&drawn).map(|(o, t)| Buffer::new(o, &t.data)).collect();
        let start = Instant::now();
        // WGSL has no bf16: a call with it is refused, and tested on CUDA.
        let outputs = match run(&client, &target, &call, &inputs) {
            Ok(Some(outputs)) => outputs,
            Ok(None) => continue,
            Err(e) => {
                without.insert(e.to_string());
                continue;
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        for (port, (got, want)) in outputs.iter().zip(reference(&call, &inputs)).enumerate() {
            let error = relative_l2(got, &want.data);
            let bound = match call.op.tolerance() {
                Tolerance::Exact => 0.0,
                t => 4.0 * t.f32(),
            };
            let bound = if call.outputs[port].ty.dtype == DType::F16 { 1e-3 } else { bound };
            assert!(error <= bound, "{} sample {number} output {port}: {error:e} > {bound:e}", call.op.name());
        }
        let (count, time) = ran.entry(call.op.name()).or_default();
        *count += 1;
        *time += seconds;
    }
    for (name, (count, seconds)) in &ran {
        println!("{name}: {count} samples, {seconds:.2} s");
    }
    println!("no kernel: {without:#?}");
    without.retain(|e| !e.contains("has no bf16") && !e.starts_with("route "));
    assert!(without.is_empty() && ran.len() >= 30, "{without:#?}");
}
