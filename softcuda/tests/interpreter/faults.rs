//! Every rule is enforced, and the message names the place.

use crate::common::{Arg, Arg::*, launch, module, upload};
use softcuda::{FaultKind, Memory, Module};

fn fault(kernel: &str, units: u32, args: impl Fn(&Memory) -> Vec<Arg>) -> (FaultKind, String) {
    let (m, memory) = (module("faults"), Memory::new());
    let args = args(&memory);
    let error = launch(&m, &memory, kernel, [1, 1, 1], [units, 1, 1], 0, &args).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("kernel `{kernel}`, block [0, 0, 0], thread [")), "{text}");
    (error.fault().unwrap(), text)
}

fn out(memory: &Memory) -> Vec<Arg> {
    vec![Pointer(upload(memory, &[0f32; 256]))]
}

#[test]
fn global_memory() {
    let (kind, text) = fault("out_of_bounds", 32, |m| vec![Pointer(upload(m, &[0f32; 64])), Int(48)]);
    assert_eq!(kind, FaultKind::IllegalAddress);
    assert!(text.contains("thread [16, 0, 0]") && text.contains("st.global"), "{text}");
    let (kind, _) = fault("read_out_of_bounds", 32, |m| {
        vec![Pointer(upload(m, &[0f32; 64])), Pointer(upload(m, &[0f32; 64])), Int(100)]
    });
    assert_eq!(kind, FaultKind::IllegalAddress);
    assert_eq!(fault("misaligned", 1, out).0, FaultKind::Misaligned);
}

#[test]
fn freed_memory() {
    let (m, memory) = (module("faults"), Memory::new());
    let at = upload(&memory, &[0f32; 64]);
    launch(&m, &memory, "out_of_bounds", [1, 1, 1], [32, 1, 1], 0, &[Pointer(at), Int(0)]).unwrap();
    assert!(memory.free(at));
    let error = launch(&m, &memory, "out_of_bounds", [1, 1, 1], [32, 1, 1], 0, &[Pointer(at), Int(0)]).unwrap_err();
    assert_eq!(error.fault(), Some(FaultKind::IllegalAddress));
}

#[test]
fn shared_memory() {
    let with = |n| move |m: &Memory| vec![Pointer(upload(m, &[0f32; 64])), Int(n)];
    assert_eq!(fault("shared_range", 32, with(1)).0, FaultKind::SharedRange);
    assert_eq!(fault("shared_unwritten", 32, out).0, FaultKind::Uninitialised);
}

#[test]
fn races() {
    let (kind, text) = fault("race_read", 64, out);
    assert_eq!(kind, FaultKind::Uninitialised, "{text}");
    let (kind, text) = fault("race_overwrite", 64, out);
    assert_eq!(kind, FaultKind::Race);
    assert!(text.contains("without a barrier between"), "{text}");
    // Within one warp it is no race.
    let (m, memory) = (module("faults"), Memory::new());
    let at = upload(&memory, &[0f32; 64]);
    launch(&m, &memory, "race_overwrite", [1, 1, 1], [32, 1, 1], 0, &[Pointer(at)]).unwrap_err();
}

#[test]
fn copies() {
    let both = |m: &Memory| vec![Pointer(upload(m, &[0f32; 128])), Pointer(upload(m, &[0f32; 128]))];
    assert_eq!(fault("missing_wait", 32, both).0, FaultKind::PendingCopy);
    assert_eq!(fault("overwrite_pending", 32, both).0, FaultKind::PendingCopy);
}

#[test]
fn barriers() {
    let (kind, text) = fault("divergent_barrier", 64, out);
    assert_eq!(kind, FaultKind::Deadlock, "{text}");
    assert_eq!(fault("exited_barrier", 64, out).0, FaultKind::Deadlock);
    assert_eq!(fault("missing_lanes", 32, out).0, FaultKind::MissingLanes);
}

#[test]
fn division_by_zero() {
    let (m, memory) = (module("faults"), Memory::new());
    let at = upload(&memory, &[0i32; 32]);
    launch(&m, &memory, "divide_by_zero", [1, 1, 1], [32, 1, 1], 0, &[Pointer(at), Int(0)]).unwrap();
    assert_eq!(crate::common::download::<u32>(at, 32), [u32::MAX; 32]);
}

#[test]
fn unknown_instructions() {
    let text =
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n\tfrobnicate.b32 %r1, 2;\n\tret;\n}\n";
    let error = Module::parse(text).err().unwrap().to_string();
    assert!(error.contains("line 6") && error.contains("frobnicate.b32 %r1, 2;"), "{error}");
    let text = text.replace("frobnicate.b32 %r1, 2;", "bar.sync.strange 0;");
    let error = Module::parse(&text).err().unwrap().to_string();
    assert!(error.contains("strange"), "{error}");
}
