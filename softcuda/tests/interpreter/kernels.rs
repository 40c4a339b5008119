//! Kernels from CUDA sources (see `ptx/regenerate.py`) against plain Rust.

use crate::common::{Arg::*, close, download, launch, module, upload};
use half::{bf16, f16};
use softcuda::Memory;

fn floats(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2654435761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            (x >> 8) as f32 / (1 << 24) as f32 * 4.0 - 2.0
        })
        .collect()
}

fn ints(n: usize, seed: u32) -> Vec<i32> {
    floats(n, seed)
        .iter()
        .enumerate()
        .map(|(i, x)| if i % 3 == 0 { (x * 50.0) as i32 } else { (x * 1e9) as i32 })
        .collect()
}

#[test]
fn vector_add() {
    let (m, memory) = (module("basic"), Memory::new());
    let (a, b) = (floats(1000, 1), floats(1000, 2));
    let (pa, pb, pc) = (upload(&memory, &a), upload(&memory, &b), upload(&memory, &[0f32; 1000]));
    let args = [Pointer(pa), Pointer(pb), Pointer(pc), Int(1000)];
    let stats = launch(&m, &memory, "vadd", [8, 1, 1], [128, 1, 1], 0, &args).unwrap();
    let want: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
    assert_eq!(download::<f32>(pc, 1000), want);
    assert_eq!(stats.global_load_bytes, 8000);
    assert_eq!(stats.global_store_bytes, 4000);
    assert_eq!(stats.sectors, stats.sectors_needed);
    let pc = upload(&memory, &[0f32; 1024]);
    let (pa, pb) = (upload(&memory, &floats(1024, 1)), upload(&memory, &floats(1024, 2)));
    launch(&m, &memory, "vadd4", [2, 1, 1], [128, 1, 1], 0, &[Pointer(pa), Pointer(pb), Pointer(pc)]).unwrap();
    assert_eq!(download::<f32>(pc, 1000), want);
}

#[test]
fn divergence_and_loops() {
    let (m, memory) = (module("basic"), Memory::new());
    let input: Vec<u32> = (1..=256).collect();
    let (pi, po) = (upload(&memory, &input), upload(&memory, &[0u32; 256]));
    launch(&m, &memory, "collatz", [4, 1, 1], [64, 1, 1], 0, &[Pointer(pi), Pointer(po)]).unwrap();
    let want: Vec<u32> = input
        .iter()
        .enumerate()
        .map(|(i, &x)| {
            let (mut x, mut n) = (x, 0u32);
            while x != 1 {
                x = if x & 1 == 1 { 3 * x + 1 } else { x / 2 };
                n += 1;
            }
            match i & 7 {
                0 => n + 100,
                1 => n ^ 3,
                2 => n * 7,
                3 => n.wrapping_sub(9),
                4 => n * n,
                5 => n | 64,
                6 => !n,
                _ => n << 2,
            }
        })
        .collect();
    assert_eq!(download::<u32>(po, 256), want);
}

#[test]
fn mathematics() {
    let (m, memory) = (module("basic"), Memory::new());
    let mut input = floats(60, 3);
    input.extend([100.0, -30.0, 12345.0, 3e5]);
    let n = input.len();
    let (pi, po) = (upload(&memory, &input), upload(&memory, &vec![0f32; n * 16]));
    launch(&m, &memory, "math", [1, 1, 1], [n as u32, 1, 1], 0, &[Pointer(pi), Pointer(po), Int(n as i32)]).unwrap();
    let out = download::<f32>(po, n * 16);
    for (i, &x) in input.iter().enumerate() {
        let want = [
            x.exp(),
            (x.abs() + 0.1).ln(),
            x.sin(),
            x.cos(),
            x.tanh(),
            x.abs().sqrt(),
            1.0 / (x.abs() + 0.1).sqrt(),
            1.0 / x,
            x.abs().powf(1.7),
            x.exp(),
            f32::NAN,
            x.floor() + x.ceil() + x.round_ties_even() + x.trunc(),
            x % 0.7,
            x / 3.0,
            f64::from(x).exp() as f32,
            x.atan2(0.5),
        ];
        for (k, want) in want.into_iter().enumerate() {
            if k != 10 {
                let got = out[k * n + i];
                assert!(close(got, want, 2e-5), "function {k} of {x}: {got} instead of {want}");
            }
        }
    }
}

#[test]
fn integers() {
    let (m, memory) = (module("basic"), Memory::new());
    let n = 64;
    let input = ints(n, 4);
    let (pi, po) = (upload(&memory, &input), upload(&memory, &vec![0i32; n * 16]));
    launch(&m, &memory, "ints", [1, 1, 1], [n as u32, 1, 1], 0, &[Pointer(pi), Pointer(po), Int(n as i32)]).unwrap();
    let out = download::<i32>(po, n * 16);
    for i in 0..n {
        let (x, y) = (input[i], input[(i + 7) % n]);
        let bytes = |v: i32| v.to_le_bytes();
        let dot: i32 = bytes(x).iter().zip(bytes(y)).map(|(a, b)| i32::from(*a as i8) * i32::from(b as i8)).sum();
        let shift = i as u32 & 31;
        let pool = [bytes(x), bytes(y)].concat();
        let want = [
            if y == 0 { 0 } else { x.wrapping_div(y) },
            if y == 0 { 0 } else { x.wrapping_rem(y) },
            ((i64::from(x) * i64::from(y)) >> 32) as i32,
            x.leading_zeros() as i32,
            x.count_ones() as i32,
            x.reverse_bits(),
            i32::from_le_bytes([pool[2], pool[4], pool[1], pool[5]]),
            ((((y as u32 as u64) << 32 | x as u32 as u64) << shift) >> 32) as i32,
            dot + i as i32,
            x.min(y) ^ x.max(y),
            if x == 0 { 0 } else { x.trailing_zeros() as i32 + 1 },
            (i64::from(x).wrapping_mul(i64::from(y)) >> 17) as i32,
            (x & y) | (!x & i as i32),
            i32::from(x as i8),
            (x as u32 / 7) as i32,
            (x as i64 as u64 / u64::from((y | 1) as u32)) as i32,
        ];
        for (k, want) in want.into_iter().enumerate() {
            assert_eq!(out[k * n + i], want, "operation {k} of {x} and {y} in lane {i}");
        }
    }
}

#[test]
fn conversions() {
    let (m, memory) = (module("basic"), Memory::new());
    let mut input = floats(56, 5);
    input.extend([0.0, -0.0, 2.5, 3.5, 70000.0, -1e9, 5e9, 1e-6]);
    let n = input.len();
    let (pi, ph, pb) = (upload(&memory, &input), upload(&memory, &vec![0u16; n]), upload(&memory, &vec![0u16; n]));
    let (pf, pk) = (upload(&memory, &vec![0f32; n * 8]), upload(&memory, &vec![0i32; n * 4]));
    let args = [Pointer(pi), Pointer(ph), Pointer(pb), Pointer(pf), Pointer(pk), Int(n as i32)];
    launch(&m, &memory, "converts", [1, 1, 1], [n as u32, 1, 1], 0, &args).unwrap();
    let (h, b) = (download::<u16>(ph, n), download::<u16>(pb, n));
    let (f, k) = (download::<f32>(pf, n * 8), download::<i32>(pk, n * 4));
    for (i, &x) in input.iter().enumerate() {
        let (wh, wb) = (f16::from_f32(x), bf16::from_f32(x));
        assert_eq!((h[i], b[i]), (wh.to_bits(), wb.to_bits()), "{x}");
        let square_h = |x: f32| f16::from_f64(f16::from_f32(x).to_f64().powi(2) + 1.0).to_f32();
        let square_b = |x: f32| bf16::from_f64(bf16::from_f32(x).to_f64().powi(2) + 1.0).to_f32();
        let want = [
            square_h(x) + square_h(x * 0.5),
            square_b(x) + square_b(x * 0.25),
            wh.to_f32(),
            wb.to_f32(),
            f16::from_f32(f16::from_f32(wh.to_f32() + 0.5).to_f32().exp()).to_f32(),
            bf16::from_f32(wb.to_f32() * bf16::from_f32(wb.to_f32() + 2.0).to_f32()).to_f32(),
            if wh.to_f32() > 0.0 { wh.to_f32() } else { -1.0 },
        ];
        for (j, want) in want.into_iter().enumerate() {
            // The exponential of halves is an approximation.
            let tolerance = if j == 4 { 1e-3 } else { 0.0 };
            assert!(close(f[j * n + i], want, tolerance), "value {j} of {x}: {} instead of {want}", f[j * n + i]);
        }
        let want = [x as i32, x as u32 as i32, x.round_ties_even() as i32, wh.to_f32() as i32];
        for (j, want) in want.into_iter().enumerate() {
            assert_eq!(k[j * n + i], want, "integer {j} of {x}");
        }
    }
}

#[test]
fn atomics() {
    let (m, memory) = (module("basic"), Memory::new());
    let input = ints(256, 6).iter().map(|x| x % 1000).collect::<Vec<_>>();
    let (pi, ps, pf) = (upload(&memory, &input), upload(&memory, &[0i32; 8]), upload(&memory, &[0f32]));
    let args = [Pointer(pi), Pointer(ps), Pointer(pf), Int(256)];
    launch(&m, &memory, "atomics", [2, 1, 1], [128, 1, 1], 0, &args).unwrap();
    let s = download::<i32>(ps, 8);
    for (k, sum) in s.iter().take(4).enumerate() {
        assert_eq!(*sum, input.iter().filter(|x| (*x & 3) as usize == k).sum::<i32>());
    }
    assert_eq!(s[4], *input.iter().max().unwrap());
    assert_eq!(s[5], *input.iter().min().unwrap());
    assert_eq!(s[6], 5);
    assert_eq!(s[7], input.iter().fold(0, |a, x| a | x));
    assert_eq!(download::<f32>(pf, 1)[0], input.iter().map(|x| *x as f32).sum::<f32>());
}

#[test]
fn tables_and_calls() {
    let (m, memory) = (module("basic"), Memory::new());
    let index: Vec<i32> = (0..32).map(|i| i * 5 % 23).collect();
    let (po, pi) = (upload(&memory, &[0f32; 32]), upload(&memory, &index));
    launch(&m, &memory, "tables", [1, 1, 1], [32, 1, 1], 0, &[Pointer(po), Pointer(pi)]).unwrap();
    let table = [3.0f32, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
    for (i, got) in download::<f32>(po, 32).into_iter().enumerate() {
        let mut tmp: Vec<f32> = (0..16).map(|x| (x * x) as f32).collect();
        tmp[index[i] as usize & 15] += [1.5, 2.5, 3.5, 4.5][i & 3];
        let want: f32 = (0..16).map(|k| tmp[(index[i] as usize + k) & 15] * table[k & 7]).sum();
        assert!(close(got, want, 1e-6), "{got} {want}");
    }
    launch(&m, &memory, "calls", [1, 1, 1], [32, 1, 1], 0, &[Pointer(po)]).unwrap();
    for (i, got) in download::<f32>(po, 32).into_iter().enumerate() {
        let x = i as f32;
        let r = x * x + 2.0 * x;
        let want = if i & 1 == 1 { r + r * r + 2.0 * r + r * r } else { r + x * x };
        assert_eq!(got, want);
    }
}

#[test]
fn tiled_matmul() {
    let (m, memory) = (module("tile"), Memory::new());
    let (rows, columns, depth) = (32, 48, 64);
    let (a, b) = (floats(rows * depth, 7), floats(depth * columns, 8));
    let (pa, pb, pc) = (upload(&memory, &a), upload(&memory, &b), upload(&memory, &vec![0f32; rows * columns]));
    let args = [Pointer(pa), Pointer(pb), Pointer(pc), Int(rows as i32), Int(columns as i32), Int(depth as i32)];
    launch(&m, &memory, "matmul_tiled", [3, 2, 1], [16, 16, 1], 0, &args).unwrap();
    let c = download::<f32>(pc, rows * columns);
    for i in 0..rows {
        for j in 0..columns {
            let want: f32 = (0..depth).map(|k| a[i * depth + k] * b[k * columns + j]).sum();
            assert!(close(c[i * columns + j], want, 1e-4));
        }
    }
}

#[test]
fn softmax_and_warp_instructions() {
    let (m, memory) = (module("tile"), Memory::new());
    let (rows, n) = (3, 300);
    let input = floats(rows * n, 9);
    let (pi, po) = (upload(&memory, &input), upload(&memory, &vec![0f32; rows * n]));
    let args = [Pointer(pi), Pointer(po), Int(n as i32)];
    launch(&m, &memory, "softmax", [rows as u32, 1, 1], [128, 1, 1], 16, &args).unwrap();
    for (row, out) in input.chunks(n).zip(download::<f32>(po, rows * n).chunks(n)) {
        let best = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = row.iter().map(|x| (x - best).exp()).sum();
        for (x, y) in row.iter().zip(out) {
            assert!(close(*y, (x - best).exp() / sum, 1e-5));
        }
    }
    let input: Vec<i32> = (0..32).map(|i| (i * 37 + 11) % 64).collect();
    let (pi, po) = (upload(&memory, &input), upload(&memory, &[0i32; 320]));
    launch(&m, &memory, "warp_ops", [1, 1, 1], [32, 1, 1], 0, &[Pointer(pi), Pointer(po)]).unwrap();
    let out = download::<i32>(po, 320);
    let ballot =
        |f: &dyn Fn(i32) -> bool| input.iter().enumerate().fold(0u32, |m, (i, x)| m | u32::from(f(*x)) << i) as i32;
    for i in 0..32 {
        let want = [
            input[i * 5 & 31],
            if i % 16 >= 3 { input[i - 3] } else { input[i] },
            if i % 8 < 5 { input[i + 3] } else { input[i] },
            ballot(&|x| x & 1 == 1),
            i32::from(input.contains(&3)) + 2,
            input.iter().sum(),
            *input.iter().min().unwrap(),
            ballot(&|x| x & 3 == input[i] & 3),
            -1,
            if i < 16 { input[i ^ 1] } else { -1 },
        ];
        for (k, want) in want.into_iter().enumerate() {
            assert_eq!(out[k * 32 + i], want, "operation {k} in lane {i}");
        }
    }
}

#[test]
fn asynchronous_copies() {
    let (m, memory) = (module("tensor"), Memory::new());
    let tiles = 5;
    let input = floats(tiles * 128, 10);
    let (pi, po) = (upload(&memory, &input), upload(&memory, &[0f32; 32]));
    launch(&m, &memory, "cp_async_sum", [1, 1, 1], [32, 1, 1], 0, &[Pointer(pi), Pointer(po), Int(tiles as i32)])
        .unwrap();
    for (i, got) in download::<f32>(po, 32).into_iter().enumerate() {
        let mut want = 0.0;
        for t in 0..tiles {
            for k in 0..4 {
                want += input[t * 128 + k * 32 + i] * (t + 1) as f32;
            }
        }
        assert!(close(got, want, 1e-5));
    }
}

#[test]
fn tensor_cores() {
    let (m, memory) = (module("tensor"), Memory::new());
    let k = 48;
    let a: Vec<bf16> = floats(16 * k, 11).into_iter().map(bf16::from_f32).collect();
    let b: Vec<bf16> = floats(8 * k, 12).into_iter().map(bf16::from_f32).collect();
    let (pa, pb, pc) = (upload(&memory, &a), upload(&memory, &b), upload(&memory, &[0f32; 128]));
    let args = [Pointer(pa), Pointer(pb), Pointer(pc), Int(k as i32)];
    let stats = launch(&m, &memory, "mma_bf16", [1, 1, 1], [32, 1, 1], 0, &args).unwrap();
    assert_eq!(stats.matrix_ops, 16 * 8 * 48);
    let c = download::<f32>(pc, 128);
    for i in 0..16 {
        for j in 0..8 {
            let want: f32 = (0..k).map(|t| a[i * k + t].to_f32() * b[j * k + t].to_f32()).sum();
            assert!(close(c[i * 8 + j], want, 1e-5));
        }
    }
    let a: Vec<f16> = floats(256, 13).into_iter().map(f16::from_f32).collect();
    let b: Vec<f16> = floats(128, 14).into_iter().map(f16::from_f32).collect();
    let (pa, pb, pc) = (upload(&memory, &a), upload(&memory, &b), upload(&memory, &[f16::ZERO; 128]));
    launch(&m, &memory, "mma_f16_trans", [1, 1, 1], [32, 1, 1], 0, &[Pointer(pa), Pointer(pb), Pointer(pc)]).unwrap();
    let c = download::<f16>(pc, 128);
    for i in 0..16 {
        for j in 0..8 {
            let want: f32 = (0..16).map(|t| a[i * 16 + t].to_f32() * b[t * 8 + j].to_f32()).sum();
            assert!(close(c[i * 8 + j].to_f32(), want, 1e-3));
        }
    }
}

#[test]
fn wmma() {
    let (m, memory) = (module("tensor"), Memory::new());
    let (n, k) = (32, 80);
    let (fa, fb) = (floats(32 * k, 15), floats(n * k, 16));
    for half in [true, false] {
        let round = |x: f32| if half { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() };
        let bits = |x: &f32| if half { f16::from_f32(*x).to_bits() } else { bf16::from_f32(*x).to_bits() };
        let a: Vec<u16> = fa.iter().map(bits).collect();
        let b: Vec<u16> = fb.iter().map(bits).collect();
        let (pa, pb, pc) = (upload(&memory, &a), upload(&memory, &b), upload(&memory, &vec![0f32; 32 * n]));
        let args = [Pointer(pa), Pointer(pb), Pointer(pc), Int(n as i32), Int(k as i32)];
        let name = if half { "wmma_f16" } else { "wmma_bf16" };
        launch(&m, &memory, name, [2, 2, 1], [32, 1, 1], 0, &args).unwrap();
        let c = download::<f32>(pc, 32 * n);
        for i in 0..32 {
            for j in 0..n {
                let want: f32 = (0..k).map(|t| round(fa[i * k + t]) * round(fb[j * k + t])).sum::<f32>() * 2.0;
                assert!(close(c[i * n + j], want, 1e-4), "{i} {j}: {} {want}", c[i * n + j]);
            }
        }
    }
    let a: Vec<f16> = floats(256, 17).into_iter().map(f16::from_f32).collect();
    let b: Vec<f16> = floats(256, 18).into_iter().map(f16::from_f32).collect();
    let (pa, pb, pc) = (upload(&memory, &a), upload(&memory, &b), upload(&memory, &[0f32; 256]));
    launch(&m, &memory, "wmma_shared", [1, 1, 1], [32, 1, 1], 0, &[Pointer(pa), Pointer(pb), Pointer(pc)]).unwrap();
    let c = download::<f32>(pc, 256);
    for i in 0..16 {
        for j in 0..16 {
            let want: f32 = (0..16).map(|t| a[t * 16 + i].to_f32() * b[t * 16 + j].to_f32()).sum();
            assert!(close(c[j * 16 + i], want, 1e-5));
        }
    }
}
