//! Kernels in plans: they survive a file, and what does not belong to the calls is refused.

use ccl_ir::Binding;
use ccl_ir::plan::{BufferRef, Code, Compiled, Emitted, EmittedCall, EmittedKernel, EmittedLaunch, Plan};

use crate::build::small;

/// The small plan with one kernel, which every call but those of the prologue launches twice.
fn with_kernels() -> Plan {
    let mut p = small();
    let launch = EmittedLaunch {
        kernel: 0,
        cubes: [3, 1, 1],
        buffers: vec![BufferRef::In(0), BufferRef::Out(0)],
        sizes: vec![16, u32::MAX],
    };
    let call = |entry| match entry {
        Binding::Prologue => EmittedCall::Host,
        _ => EmittedCall::Launches(vec![launch.clone(), launch.clone()]),
    };
    p.kernels = Some(Emitted {
        target: "cuda:sm_90a".into(),
        language: "cuda".into(),
        compiled: None,
        choices: serde_json::Value::Null,
        kernels: vec![EmittedKernel {
            name: "copy".into(),
            text: "extern \"C\" __global__ void copy() {}\n".into(),
            units: [64, 1, 1],
            shared_bytes: 0,
            blueprint: serde_json::json!({"kernel": "copy", "half": "f32"}),
            code: None,
        }],
        entries: p.entries.iter().map(|(&entry, calls)| (entry, calls.iter().map(|_| call(entry)).collect())).collect(),
    });
    p
}

#[test]
fn kernels_survive_a_file() {
    let p = with_kernels();
    assert_eq!(p.kernels.as_ref().unwrap().launches().count(), 2 * (1 + 7 + 1));
    let read = Plan::from_bytes(&p.to_bytes().unwrap()).unwrap();
    assert_eq!(read, p);
}

#[test]
fn a_plan_without_kernels_is_written_as_before() {
    let text = String::from_utf8_lossy(&small().to_bytes().unwrap()).into_owned();
    assert!(!text.contains("\"kernels\""));
}

#[test]
fn kernels_of_other_calls_are_refused() {
    type Case = (&'static str, fn(&mut Emitted));
    fn launch(k: &mut Emitted) -> &mut EmittedLaunch {
        match &mut k.entries.get_mut(&Binding::Step).unwrap()[1] {
            EmittedCall::Launches(all) => &mut all[1],
            EmittedCall::Host => unreachable!(),
        }
    }
    let cases: &[Case] = &[
        ("kernel 0: a cube of [64, 0, 1] units", |k| k.kernels[0].units[1] = 0),
        ("kernel 0: a cube of [64, 67108864, 1] units", |k| k.kernels[0].units[1] = 1 << 26),
        ("kernels for 0 calls of entry `step`, which has 7", |k| {
            k.entries.remove(&Binding::Step);
        }),
        ("kernels for 6 calls of entry `step`, which has 7", |k| {
            k.entries.get_mut(&Binding::Step).unwrap().pop();
        }),
        ("step call 1: launches kernel 1, there are 1", |k| launch(k).kernel = 1),
        ("step call 1: launches a grid of [3, 1, 0] cubes", |k| launch(k).cubes[2] = 0),
        ("step call 1: a launch binds input 2, the call has 2", |k| launch(k).buffers[0] = BufferRef::In(2)),
        ("step call 1: a launch binds output 65535, the call has 1", |k| {
            launch(k).buffers[1] = BufferRef::Out(u16::MAX)
        }),
    ];
    for (want, tamper) in cases {
        let mut p = with_kernels();
        tamper(p.kernels.as_mut().unwrap());
        let error = p.check().expect_err(want).to_string();
        assert!(error.contains(want), "wanted `{want}`, got `{error}`");
    }
    let mut p = with_kernels();
    p.entries.remove(&Binding::Epilogue);
    p.outputs.pop();
    assert!(p.check().unwrap_err().to_string().contains("kernels for entry `epilogue`, which has no calls"));
}

/// The same with compiled kernels.
fn compiled() -> Plan {
    let mut p = with_kernels();
    let kernels = p.kernels.as_mut().unwrap();
    kernels.compiled = Some(Compiled { architecture: "sm_90a".into(), compiler: "NVRTC 13.0".into() });
    let mut cubin = vec![0, 255, 10, 13, 34, 92, 7];
    cubin.splice(0..0, *b"\x7fELF\x02\x01\x01\x41\x08\0\0\0\0\0\0\0\x02\0\xbe\0");
    let ptx = ".version 9.0\n.target sm_90a\n.address_size 64\n\t\"é\"".into();
    kernels.kernels[0].code = Some(Code { ptx, cubin });
    p
}

#[test]
fn compiled_kernels_survive_a_file() {
    let p = compiled();
    assert_eq!(Plan::from_bytes(&p.to_bytes().unwrap()).unwrap(), p);
}

#[test]
fn code_that_cannot_be_loaded_is_refused() {
    type Case = (&'static str, fn(&mut Emitted));
    fn code(k: &mut Emitted) -> &mut Code {
        k.kernels[0].code.as_mut().unwrap()
    }
    let cases: &[Case] = &[
        ("kernel 0: is not compiled, others are", |k| k.kernels[0].code = None),
        ("kernel 0: is compiled, by nobody", |k| k.compiled = None),
        ("kernel 0: its machine code is no CUDA ELF file", |k| code(k).cubin[1] = 0),
        ("kernel 0: its machine code is no CUDA ELF file", |k| code(k).cubin[18] = 62),
        ("kernel 0: its machine code is no CUDA ELF file", |k| code(k).cubin.truncate(19)),
        ("kernel 0: its PTX is not for sm_90a", |k| code(k).ptx = ".target sm_80".into()),
        ("kernel 0: its PTX is not for sm_90", |k| k.compiled.as_mut().unwrap().architecture = "sm_90".into()),
        ("kernel 0: its PTX holds a zero", |k| code(k).ptx.push('\0')),
    ];
    for (want, tamper) in cases {
        let mut p = compiled();
        tamper(p.kernels.as_mut().unwrap());
        let error = p.check().expect_err(want).to_string();
        assert!(error.contains(want), "wanted `{want}`, got `{error}`");
    }
}
