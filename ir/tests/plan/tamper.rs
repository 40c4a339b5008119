//! Every way to break a plan is found, and the message names the place.

use ccl_ir::ops::{Copy, Linear, Reshape, Route, WindowMask};
use ccl_ir::plan::{Buffer, Place, Plan, PlanWeight, Region};
use ccl_ir::{Binding, DType, Partition, TensorType};

use crate::build::*;

#[test]
fn the_small_plan_passes() {
    assert_eq!(small().check(), Ok(()));
    assert_eq!(plan(Vec::new()).check(), Ok(()), "a plan of nothing");
}

/// The message of a plan that is refused: one line, of bounded length.
fn refusal(p: &Plan, what: &str) -> String {
    let error = p.check().expect_err(what).to_string();
    assert!(!error.contains(char::is_control) && error.len() < 1100, "{what}: {error}");
    error
}

/// What is wrong, as in the message, and how the small plan is made so.
type Case = (&'static str, fn(&mut Plan));

fn refused(cases: &[Case]) {
    for (want, tamper) in cases {
        let mut p = small();
        tamper(&mut p);
        let error = refusal(&p, want);
        assert!(error.starts_with("plan: ") && error.contains(want), "wanted `{want}`, got `{error}`");
    }
}

#[test]
fn regions_buffers_and_weights() {
    refused(&[
        ("bytes of scratch memory are more", |p| p.scratch_bytes = u64::MAX),
        ("bytes of persistent memory are more", |p| p.persistent_bytes = (1 << 46) + 1),
        ("its region has 768", |p| p.scratch_bytes = 768),
        ("its region has 1856", |p| p.buffers[5].offset = u64::MAX - 255),
        ("its region has 1856", |p| p.buffers[5].bytes = u64::MAX),
        ("buffer 6 starts at byte 4, not aligned", |p| p.buffers[6].offset = 4),
        ("buffer 8 is empty", |p| p.buffers[8].bytes = 0),
        ("`video.proj.weight` is listed twice", |p| p.weights[1].name = p.weights[0].name.clone()),
        ("`video.proj.bias`: f32[0] has no elements", |p| p.weights[1].ty.shape = vec![0]),
        ("has too many elements", |p| p.weights[1].ty.shape = vec![1 << 40, 1 << 40]),
        ("the weights take more than", |p| {
            let ty = TensorType::f32([1 << 44]);
            p.weights.extend(["a", "b"].map(|name| PlanWeight { name: name.into(), ty: ty.clone() }));
        }),
        ("a tensor of 17 dimensions", |p| p.weights[1].ty.shape = vec![1; 17]),
    ]);
}

#[test]
fn ports() {
    refused(&[
        ("input `text` is listed twice", |p| p.inputs[0].name = "text".into()),
        ("output `last` is listed twice", |p| p.outputs[0].name = "last".into()),
        ("input `text`: shares another's buffer", |p| p.inputs[1].operand.place = Place::Buffer(b::VIDEO)),
        ("input `video`: must be f32 or i32", |p| {
            p.inputs[0].operand = typed(buffer(b::VIDEO, &[4, 8]), DType::F16);
        }),
        ("input `video`: is not in persistent memory", |p| {
            p.inputs[0].operand.place = Place::Buffer(b::VELOCITY);
        }),
        ("input `video`: weights are never written", |p| p.inputs[0].operand = dense(Place::Weight(1), &[8])),
        ("input `video`: what is written must be dense", |p| p.inputs[0].operand.strides = vec![1, 2]),
        ("input `schedule`: 64 bytes from element 0 on do not fill a buffer of 448", |p| {
            p.buffers[b::SCHEDULE as usize].bytes = 448;
            p.inputs[3].operand = buffer(b::SCHEDULE, &[2, 8]);
        }),
        ("input `text`: reads buffer 1, which buffer 0 has since", |p| {
            p.inputs[0].binding = Binding::Prologue;
            p.buffers[0].offset = 256;
            p.inputs.swap(0, 1);
        }),
        ("output `last`: is a weight", |p| p.outputs[1].operand = dense(Place::Weight(1), &[8])),
        ("output `last`: is not dense", |p| p.outputs[1].operand.strides = vec![0, 1]),
        ("output `last`: there is no buffer 99", |p| p.outputs[1].operand.place = Place::Buffer(99)),
        ("output `last`, after step: reads buffer 14, which nothing has written", |p| {
            p.outputs[1].binding = Binding::Step;
        }),
        ("output `velocity.video`, after epilogue: reads buffer 13, which is scratch", |p| {
            p.outputs[0].binding = Binding::Epilogue;
        }),
        ("output `velocity.video`, after step: reads buffer 9, which buffer 11 has since", |p| {
            p.outputs[0].operand.place = Place::Buffer(b::BIASED);
        }),
        ("input 0 reads buffer 1, which nothing has written", |p| p.inputs[1].binding = Binding::Step),
        ("input 1 reads buffer 0, which nothing has written", |p| {
            p.inputs.remove(0);
        }),
    ]);
}

#[test]
fn operands() {
    refused(&[
        ("load call 0 `unary` at `cond/video.blocks.0`: input 0: there is no weight 2", |p| {
            p.entries.get_mut(&Binding::Load).unwrap()[0].inputs[0].place = Place::Weight(2);
        }),
        ("step call 1 `binary` at `cond/video.blocks.0`: input 0: there is no buffer", |p| {
            step(p)[1].inputs[0].place = Place::Buffer(u32::MAX);
        }),
        ("input 0: 1 strides for f32[2,8]", |p| step(p)[1].inputs[0].strides = vec![1]),
        ("input 0: f32[2,8] from element 0 with strides [9, 1] leaves its 64", |p| {
            step(p)[1].inputs[0].strides = vec![9, 1];
        }),
        ("from element 1 with strides", |p| step(p)[2].inputs[0].offset = 1),
        ("leaves its 64 bytes", |p| step(p)[2].inputs[0].offset = u64::MAX),
        ("leaves its 64 bytes", |p| step(p)[2].inputs[0].offset = 1 << 62),
        ("is too large", |p| step(p)[1].inputs[0].strides = vec![u64::MAX, 1]),
        ("leaves its 64 bytes", |p| step(p)[1].inputs[0].strides = vec![1 << 46, 1 << 46]),
        ("leaves its 32 bytes", |p| step(p)[3].inputs[1].strides = vec![1, 1]),
        ("f32[2,0] has no elements", |p| step(p)[1].inputs[0].ty.shape = vec![2, 0]),
        ("has too many elements", |p| step(p)[1].inputs[0].ty.shape = vec![usize::MAX, usize::MAX]),
        ("has too many elements", |p| {
            step(p)[1].inputs[0] = strided(buffer(b::ROW, &[1]), &[0]);
            step(p)[1].inputs[0].ty.shape = vec![1 << 47];
        }),
        ("reads a weight of bf16 as f16[8,8]", |p| step(p)[4].inputs[1].ty.dtype = DType::F16),
        ("reads f32 of buffer 7 as i32", |p| {
            step(p)[2] = call(Copy {}, &[typed(buffer(b::SUM, &[2, 8]), DType::I32)], &[buffer(b::NORM, &[2, 8])]);
            step(p)[2].outputs[0].ty.dtype = DType::I32;
        }),
        ("step call 2 `layer_norm` at `cond/video.blocks.0`: input 0 must have packed rows", |p| {
            step(p)[2].inputs[0].strides = vec![1, 2];
        }),
        ("step call 0 `index` at `cond/video.blocks.0`: input 0 must be dense", |p| {
            step(p)[0].inputs[0].strides = vec![8, 8, 1];
        }),
    ]);
}

#[test]
fn calls() {
    refused(&[
        ("takes 2 inputs, got 1", |p| step(p)[1].inputs.truncate(1)),
        ("has 2 outputs, not 1", |p| step(p)[5].outputs.truncate(1)),
        ("output 0 is f32[16], the operator gives f32[2,8]", |p| {
            step(p)[1].outputs[0] = buffer(b::SUM, &[16]);
        }),
        ("output 0 is i32[2,8], the operator gives f32", |p| step(p)[1].outputs[0].ty.dtype = DType::I32),
        ("x f32[4,4] has 4 columns", |p| step(p)[4].inputs[0] = buffer(b::BIASED, &[4, 4])),
        ("takes 3 inputs, got 2", |p| step(p)[4].op = Linear::biased().into()),
        ("is no operation that a plan can call", |p| {
            let row = buffer(b::ROW, &[2, 8]);
            let route = Route { flag: "video".into(), answer: Some(true) };
            step(p)[1] = call(route, &[row.clone(), row], &[buffer(b::SUM, &[2, 8])]);
        }),
        ("is no operation that a plan can call", |p| {
            let op = ccl_ir::ops::Weight { name: "w".into(), ty: TensorType::f32([2, 8]) };
            step(p)[0] = call(op, &[], &[buffer(b::ROW, &[2, 8])]);
        }),
        ("output 0: weights are never written", |p| step(p)[1].outputs[0] = dense(Place::Weight(1), &[8])),
        ("output 0: what is written must be dense", |p| step(p)[1].outputs[0].strides = vec![1, 2]),
        ("do not fill a buffer of 448 bytes", |p| p.buffers[7].bytes = 448),
        ("context tokens are too many", |p| {
            let partition = Partition::NearestFrame { frames: 1, tokens_per_frame: 2, length: 2 };
            let op = WindowMask { partition, context: usize::MAX };
            step(p)[0] = call(op, &[], &[buffer(b::ROW, &[2, 8])]);
        }),
        ("cannot reshape", |p| {
            step(p)[0] = call(Reshape { shape: vec![0, 8] }, &[buffer(b::VIDEO, &[2, 8])], &[buffer(b::ROW, &[2, 8])]);
        }),
    ]);
}

#[test]
fn overlap_within_a_call() {
    refused(&[
        ("step call 5 `attention` at `cond/video.blocks.0`: outputs 0 and 1 overlap", |p| {
            p.buffers[b::LSE as usize].offset = 0;
        }),
        ("step call 4 `linear` at `cond/video.blocks.0`: output 0 would overwrite input 0", |p| {
            p.buffers[b::PROJECTED as usize].offset = 0;
        }),
        ("output 0 would overwrite input 0", |p| step(p)[1].inputs[0].strides = vec![1, 2]),
        ("output 0 would overwrite input 1", |p| step(p)[1].inputs[1] = buffer(b::ROW, &[1, 8])),
        ("step call 0 `index` at `cond/video.blocks.0`: output 0 would overwrite input 0", |p| {
            p.buffers[b::ROW as usize] = kept(768, 64);
        }),
    ]);
    // An operator may not write over an input that is the wrong half of a larger buffer.
    let mut p = plan(vec![kept(0, 512), kept(256, 64), kept(512, 128)]);
    p.inputs = vec![port("x", Binding::Step, buffer(0, &[128]))];
    let mut half = buffer(0, &[16]);
    half.offset = 56;
    p.entries.insert(Binding::Step, vec![call(unary(), &[half], &[buffer(1, &[16])])]);
    assert!(refusal(&p, "a shifted half").contains("output 0 would overwrite input 0"));
}

#[test]
fn lifetimes() {
    refused(&[
        ("step call 0 `index` at `cond/video.blocks.0`: input 0 reads buffer 3, which nothing", |p| {
            p.inputs.remove(3);
        }),
        ("reads buffer 8, which nothing has written", |p| {
            step(p).swap(2, 3);
        }),
        ("step call 2 `layer_norm` at `cond/video.blocks.0`: input 0 reads buffer 6, which buffer 7 has", |p| {
            step(p)[2].inputs[0].place = Place::Buffer(b::ROW);
        }),
        // A live buffer is placed over another.
        ("input 0 reads buffer 8, which buffer 12 has since overwritten", |p| {
            step(p)[6].inputs[0].place = Place::Buffer(b::NORM);
        }),
        ("input 2 reads buffer 5, which nothing has written", |p| {
            p.entries.remove(&Binding::Prologue);
        }),
        // Scratch memory does not outlive its entry.
        ("input 2 reads buffer 5, which is scratch memory of an entry that has ended", |p| {
            p.buffers[b::KEYS as usize] = scratch(768, 64);
        }),
        // Only the second step misses what the first has destroyed.
        ("step call 5 `attention` at `cond/video.blocks.0`: input 2 reads buffer 5, which buffer 13", |p| {
            p.buffers[b::VELOCITY as usize] = kept(1792, 64);
        }),
        ("step call 0 `index` at `cond/video.blocks.0`: input 0 reads buffer 3, which buffer 6", |p| {
            p.buffers[b::ROW as usize] = kept(768, 64);
            p.buffers[b::SUM as usize] = scratch(512, 64);
            let copy = call(Copy {}, &[buffer(b::VIDEO, &[2, 8])], &[buffer(b::ROW, &[2, 8])]);
            step(p).insert(1, copy);
            step(p).remove(0);
            let mut index = small().calls(Binding::Step)[0].clone();
            index.outputs[0] = buffer(b::SUM, &[2, 8]);
            step(p).insert(0, index);
        }),
        // Only the second clip misses what the first clip's step has destroyed.
        ("prologue call 0 `linear` at `cond/video.blocks.0`: input 2 reads buffer 4, which buffer 13", |p| {
            step(p)[3].inputs[1] = buffer(b::NORM, &[2, 8]);
            p.persistent_bytes = 2112;
            p.buffers[b::KEYS as usize].offset = 2048;
            p.buffers[b::VELOCITY as usize] = kept(1536, 64);
        }),
    ]);
}

#[test]
fn padding_is_not_read() {
    let mut p = plan(vec![kept(0, 64), scratch(0, 64)]);
    p.inputs = vec![port("x", Binding::Step, buffer(0, &[9]))];
    p.outputs = vec![port("y", Binding::Step, buffer(1, &[9]))];
    p.entries.insert(Binding::Step, vec![call(unary(), &[buffer(0, &[9])], &[buffer(1, &[9])])]);
    assert_eq!(p.check(), Ok(()));
    p.outputs[0].operand = buffer(1, &[10]);
    assert!(refusal(&p, "padding").contains("reads 40 bytes of buffer 1, which holds 36"));
}

#[test]
fn in_place_is_for_elementwise_operators() {
    let mut p = plan(vec![kept(0, 64), scratch(0, 64)]);
    p.inputs = vec![port("x", Binding::Step, buffer(0, &[16]))];
    p.outputs = vec![port("y", Binding::Step, buffer(1, &[16]))];
    let y = buffer(1, &[16]);
    let make = call(unary(), &[buffer(0, &[16])], std::slice::from_ref(&y));
    p.entries.insert(Binding::Step, vec![make.clone(), call(add(), &[y.clone(), y.clone()], std::slice::from_ref(&y))]);
    assert_eq!(p.check(), Ok(()), "x + x over x");
    p.entries.insert(Binding::Step, vec![make, call(Copy {}, std::slice::from_ref(&y), std::slice::from_ref(&y))]);
    assert!(refusal(&p, "copy").contains("output 0 would overwrite input 0"));
}

#[test]
fn names_from_a_file_stay_on_one_line() {
    let mut p = small();
    p.buffers[0] = Buffer { region: Region::Persistent, offset: 0, bytes: 64 };
    step(&mut p)[1].inputs.truncate(1);
    step(&mut p)[1].at = "a\nb\u{1b}[31m".repeat(1000);
    assert!(refusal(&p, "control characters").contains("`a\\nb\\u{1b}[31ma"));
}
