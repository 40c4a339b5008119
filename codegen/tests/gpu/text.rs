//! Every kernel's text, without a device: WGSL must validate in naga.

use crate::common::call;
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, lower};
use ccl_ir::Op;

#[test]
fn wgsl_of_every_sample_validates() {
    let target = Target::wgpu();
    let mut kernels = 0;
    for sample in Op::samples() {
        let call = call(&sample);
        let Ok(Lowered::Device(launches)) = lower(&call, &target) else { continue };
        for launch in launches {
            let text = emit(&launch, &target).unwrap();
            crate::common::validate(&text.text);
            kernels += 1;
        }
    }
    assert!(kernels > 20, "only {kernels} kernels");
}
