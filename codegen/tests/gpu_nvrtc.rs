//! Every operator's samples as CUDA: each text compiles with NVRTC, for the oldest and the newest architecture that is looked at.

mod gpu_common;
#[path = "gpu_common/nvrtc.rs"]
mod nvrtc;

use std::collections::BTreeMap;
use std::path::Path;

use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, lower};
use ccl_ir::{DType, Op};
use gpu_common::call;
use nvrtc::{ARCHITECTURES, Nvrtc};
use rayon::prelude::*;

#[test]
fn cuda_of_every_sample_compiles() {
    let nvrtc = Nvrtc::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|e| panic!("{e}"));
    let target = Target::cuda("cuda:sm_90a", 90);
    let mut texts = BTreeMap::new();
    // A plan has no routes.
    for mut sample in Op::samples().into_iter().filter(|s| !matches!(s.op, Op::Route(_))) {
        // As it is, and with half precision in place of single where the operator takes it.
        for half in [None, Some(DType::Bf16), Some(DType::F16)] {
            if let Some(half) = half {
                sample.inputs.iter_mut().filter(|t| t.dtype.is_float()).for_each(|t| t.dtype = half);
            }
            let types: Vec<_> = sample.inputs.iter().collect();
            if sample.op.infer(&types).is_err() {
                continue;
            }
            let call = call(&sample);
            match lower(&call, &target) {
                Ok(Lowered::Device(launches)) => {
                    for launch in launches {
                        texts.entry(emit(&launch, &target).unwrap().text).or_insert(call.op.name());
                    }
                }
                Ok(Lowered::Host) => {}
                Err(e) => panic!("{e}: {:?}", sample.inputs),
            }
        }
    }
    assert!(texts.len() > 60, "only {} kernels", texts.len());
    let wrong: Vec<String> = texts
        .par_iter()
        .flat_map_iter(|(text, op)| {
            ARCHITECTURES
                .map(|a| nvrtc.compile(text, a).err().map(|log| format!("{op} for {a}: {log}")))
                .into_iter()
                .flatten()
        })
        .collect();
    println!("{} kernels", texts.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
