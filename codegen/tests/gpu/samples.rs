//! Every operator's samples as CUDA: each text compiles with NVRTC, for the oldest architecture, for Hopper's and for the newest.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::call;
use crate::nvrtc::{ARCHITECTURES, Nvrtc};
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Lowered, Target, lower};
use ccl_ir::ops::{AttentionGrad, PartitionedContextAttentionGrad};
use ccl_ir::{DType, Op, Partition, Sample, TensorType};

/// The operators' samples, and attention's gradients at the heads of released models.
fn samples() -> Vec<Sample<Op>> {
    let f32 = |shape: &[usize]| TensorType::f32(shape);
    let partition = Partition::NearestFrame { frames: 3, tokens_per_frame: 8, length: 9 };
    let (q, k, c) = (f32(&[1, 9, 2, 128]), f32(&[1, 24, 2, 128]), f32(&[4, 2, 128]));
    let forward = [q.clone(), k.clone(), k.clone(), c.clone(), c];
    let backward = [q.clone(), q.clone(), f32(&[1, 2, 9])];
    let full = [&forward[..3], &backward].concat();
    // A plan has no routes.
    let mut samples: Vec<Sample<Op>> = Op::samples().into_iter().filter(|s| !matches!(s.op, Op::Route(_))).collect();
    samples.push(Sample::new(AttentionGrad { masked: false, counted: false }.into(), full));
    let partitioned = PartitionedContextAttentionGrad { partition };
    samples.push(Sample::new(partitioned.into(), [&forward[..], &backward].concat()));
    samples
}

#[test]
fn cuda_of_every_sample_compiles() {
    let nvrtc = Nvrtc::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|e| panic!("{e}"));
    let mut texts = BTreeMap::new();
    for (architecture, capability) in ARCHITECTURES {
        let target = Target::cuda(&format!("cuda:{architecture}"), capability);
        for mut sample in samples() {
            // As it is, and with half precision in place of single where the operator takes it.
            for half in [None, Some(DType::Bf16), Some(DType::F16)] {
                if let Some(half) = half {
                    sample.inputs.iter_mut().filter(|t| t.dtype.is_float()).for_each(|t| t.dtype = half);
                }
                let types: Vec<_> = sample.inputs.iter().collect();
                // The newest architecture differs in little from the oldest: the samples as they are will do, and those of `products`.
                let again = half.is_some() && capability > 90;
                if again || sample.op.infer(&types).is_err() {
                    continue;
                }
                let call = call(&sample);
                match lower(&call, &target) {
                    Ok(Lowered::Device(launches)) => {
                        for launch in launches {
                            let text = emit(&launch, &target).unwrap().text;
                            texts.entry((architecture, text)).or_insert(call.op.name());
                        }
                    }
                    Ok(Lowered::Host) => {}
                    Err(e) => panic!("{e}: {:?}", sample.inputs),
                }
            }
        }
    }
    assert!(texts.len() > 160, "only {} kernels", texts.len());
    let mut wrong = Vec::new();
    for (architecture, _) in ARCHITECTURES {
        let list: Vec<_> = texts.iter().filter(|((of, _), _)| *of == architecture).collect();
        let logs =
            nvrtc.compile_all(&list.iter().map(|((_, text), _)| text.as_str()).collect::<Vec<_>>(), architecture);
        wrong.extend(logs.into_iter().map(|(i, log)| format!("{} for {architecture}: {log}", list[i].1)));
    }
    println!("{} kernels", texts.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
