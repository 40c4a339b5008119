//! Asynchronous products of four warps: the layouts of their factors, and the rules.

use crate::common::{Arg::*, close, download, launch, module, upload};
use half::{bf16, f16};
use softcuda::{FaultKind, Memory};

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| (((i + seed).wrapping_mul(2654435761) >> 20) % 17) as f32 / 4.0 - 2.0).collect()
}

fn bits(x: &[f32], f16_bits: bool) -> Vec<u16> {
    x.iter().map(|x| if f16_bits { f16::from_f32(*x).to_bits() } else { bf16::from_f32(*x).to_bits() }).collect()
}

/// `a[64][64] b[n][64]^T`.
fn expected(a: &[f32], b: &[f32], i: usize, j: usize) -> f32 {
    (0..64).map(|k| a[i * 64 + k] * b[j * 64 + k]).sum()
}

#[test]
fn layouts() {
    let (m, memory) = (module("product"), Memory::new());
    let (a, b) = (numbers(64 * 64, 1), numbers(32 * 64, 2));
    for kernel in ["along", "along_f16", "along_64", "along_32", "along_0", "across_64", "across_32", "across_0"] {
        let f16_bits = kernel.ends_with("f16");
        let args = [upload(&memory, &bits(&a, f16_bits)), upload(&memory, &bits(&b, f16_bits))];
        let out = upload(&memory, &[0f32; 64 * 32]);
        let args = [Pointer(args[0]), Pointer(args[1]), Pointer(out)];
        let stats = launch(&m, &memory, kernel, [1, 1, 1], [128, 1, 1], 0, &args).unwrap();
        assert_eq!(stats.matrix_ops, 64 * 64 * 32);
        for (i, got) in download::<f32>(out, 64 * 32).into_iter().enumerate() {
            let want = expected(&a, &b, i / 32, i % 32);
            assert!(close(got, want, 1e-5), "{kernel}: {got} instead of {want} at {}, {}", i / 32, i % 32);
        }
    }
}

#[test]
fn left_factor_in_registers() {
    let (m, memory) = (module("product"), Memory::new());
    let (a, b) = (numbers(64 * 64, 3), numbers(128 * 64, 4));
    let (pa, pb) = (upload(&memory, &bits(&a, false)), upload(&memory, &bits(&b, false)));
    let out = upload(&memory, &[0f32; 64 * 128]);
    launch(&m, &memory, "across", [1, 1, 1], [128, 1, 1], 0, &[Pointer(pa), Pointer(pb), Pointer(out)]).unwrap();
    for (i, got) in download::<f32>(out, 64 * 128).into_iter().enumerate() {
        let (row, column) = (i % 2048 / 32, i / 2048 * 32 + i % 32);
        let want = -expected(&a, &b, row, column);
        assert!(close(got, want, 1e-5), "{got} instead of {want} at {row}, {column}");
    }
}

fn rule(kernel: &str, units: u32) -> Result<(), (FaultKind, String)> {
    let (m, memory) = (module("product"), Memory::new());
    let args = [Pointer(upload(&memory, &[0x3f80u16; 4096])), Pointer(upload(&memory, &[0f32; 4096]))];
    match launch(&m, &memory, kernel, [1, 1, 1], [units, 1, 1], 0, &args) {
        Ok(_) => Ok(()),
        Err(error) => Err((error.fault().unwrap(), error.to_string())),
    }
}

#[test]
fn rules() {
    rule("good", 128).unwrap();
    for (kernel, kind, part) in [
        ("hidden", FaultKind::ProxyFence, "not shown"),
        ("late", FaultKind::ProxyFence, "not shown"),
        ("copied", FaultKind::ProxyFence, "not shown"),
        ("early", FaultKind::PendingProduct, "read of an accumulator"),
        ("overwritten", FaultKind::PendingProduct, "an accumulator"),
        ("changed", FaultKind::PendingProduct, "changed since the last wgmma.fence"),
        ("unfenced", FaultKind::PendingProduct, "needs a wgmma.fence"),
        ("left_changed", FaultKind::PendingProduct, "factor A"),
        ("exited", FaultKind::PendingProduct, "exit"),
        ("rewritten", FaultKind::PendingProduct, "under way reads"),
        ("racing", FaultKind::PendingProduct, "under way reads"),
        ("unwritten", FaultKind::Uninitialised, "wgmma"),
        ("alone", FaultKind::MissingLanes, "warpgroup"),
        ("disagreeing", FaultKind::MissingLanes, "disagree"),
    ] {
        let (found, text) = rule(kernel, 128).err().unwrap_or_else(|| panic!("{kernel} passes"));
        assert_eq!(found, kind, "{kernel}: {text}");
        assert!(text.contains(part), "{kernel}: {text}");
    }
    assert_eq!(rule("good", 96).unwrap_err().0, FaultKind::MissingLanes);
    assert_eq!(rule("good", 160).unwrap_err().0, FaultKind::MissingLanes);
}
