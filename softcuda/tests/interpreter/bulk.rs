//! Barriers in shared memory and bulk copies.

use std::ffi::c_void;

use crate::common::{close, download, upload};
use half::bf16;
// The maps come from the driver's half.
use softcuda::{Error, FaultKind, Grid, Memory, Module};

unsafe extern "C" {
    fn cuTensorMapEncodeTiled(
        target: *mut [u64; 16],
        data_type: u32,
        rank: u32,
        address: *mut c_void,
        dims: *const u64,
        strides: *const u64,
        tile: *const u32,
        steps: *const u32,
        interleave: u32,
        swizzle: u32,
        promotion: u32,
        fill: u32,
    ) -> u32;
}

const F32: u32 = 7;
const BF16: u32 = 9;

fn map(kind: u32, at: u64, dims: &[u64], strides: &[u64], tile: &[u32], steps: &[u32], swizzle: u32) -> Vec<u8> {
    let mut words = [0u64; 16];
    // SAFETY: the lists have as many elements as the rank says.
    let code = unsafe {
        let (dims_at, rank) = (dims.as_ptr(), dims.len() as u32);
        let (tile, steps, at) = (tile.as_ptr(), steps.as_ptr(), at as *mut c_void);
        cuTensorMapEncodeTiled(&mut words, kind, rank, at, dims_at, strides.as_ptr(), tile, steps, 0, swizzle, 0, 0)
    };
    assert_eq!(code, 0);
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn run(m: &Module, memory: &Memory, kernel: &str, units: u32, params: &[Vec<u8>]) -> Result<(), Error> {
    let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
    let grid = Grid { cubes: [1, 1, 1], units: [units, 1, 1], dynamic_shared: 0 };
    m.launch(kernel, grid, &params, memory).map(|_| ())
}

fn pointer(at: u64) -> Vec<u8> {
    at.to_le_bytes().to_vec()
}

fn int(i: i32) -> Vec<u8> {
    i.to_le_bytes().to_vec()
}

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| (((i + seed).wrapping_mul(2654435761) >> 20) % 17) as f32 / 4.0 - 2.0).collect()
}

#[test]
fn product_fed_by_tiles() {
    let (m, memory) = (crate::common::module("bulk"), Memory::new());
    // The last tile reaches beyond the depth, the rows beyond the tensor.
    let (rows, columns, depth, steps) = (60usize, 32usize, 296usize, 5);
    let (a, b) = (numbers(rows * depth, 1), numbers(columns * depth, 2));
    let bits = |x: &[f32]| x.iter().map(|x| bf16::from_f32(*x).to_bits()).collect::<Vec<_>>();
    let (pa, pb, po) = (upload(&memory, &bits(&a)), upload(&memory, &bits(&b)), upload(&memory, &[7f32; 64 * 32]));
    let line = depth as u64 * 2;
    let params = [
        map(BF16, pa, &[depth as u64, rows as u64], &[line], &[64, 64], &[1, 1], 3),
        map(BF16, pb, &[depth as u64, columns as u64], &[line], &[64, 32], &[1, 1], 3),
        map(F32, po, &[32, rows as u64], &[128], &[32, 64], &[1, 1], 0),
        int(steps),
    ];
    run(&m, &memory, "product", 160, &params).unwrap();
    for (i, got) in download::<f32>(po, 64 * 32).into_iter().enumerate() {
        let (row, column) = (i / 32, i % 32);
        let want = match row < rows {
            true => (0..depth).map(|k| a[row * depth + k] * b[column * depth + k]).sum(),
            false => 7.0,
        };
        assert!(close(got, want, 1e-4), "{got} instead of {want} at {row}, {column}");
    }
}

#[test]
fn tiles_of_four_axes() {
    let (m, memory) = (crate::common::module("bulk"), Memory::new());
    let dims = [12u64, 5, 3, 2];
    let values: Vec<f32> = (0..360).map(|i| i as f32 + 1.0).collect();
    let at = upload(&memory, &values);
    let strides = [48, 240, 720];
    for (tile, steps, origin, swizzle) in [
        ([8u32, 3, 2, 2], [1u32, 1, 1, 1], [0i32, 0, 0, 0], 0),
        ([8, 3, 2, 2], [1, 1, 1, 1], [-3, 3, 2, 1], 0),
        ([8, 4, 3, 1], [1, 1, 1, 1], [6, -1, 0, 1], 1),
        ([16, 5, 2, 2], [1, 2, 1, 1], [0, 0, 1, 0], 2),
        ([32, 5, 2, 1], [1, 1, 1, 1], [-2, 0, 1, 0], 3),
        ([8, 3, 2, 2], [2, 1, 1, 1], [1, 1, 1, 0], 0),
    ] {
        let counts: Vec<u32> = tile.iter().zip(steps).map(|(t, s)| t.div_ceil(s)).collect();
        let count = counts.iter().product::<u32>();
        let out = upload(&memory, &[0f32; 1024]);
        let params: Vec<Vec<u8>> =
            [map(F32, at, &dims, &strides, &tile, &steps, swizzle), pointer(out), int(count as i32)]
                .into_iter()
                .chain(origin.map(int))
                .collect();
        run(&m, &memory, "tile", 64, &params).unwrap();
        let got = download::<f32>(out, count as usize);
        for i in 0..count {
            let (mut rest, mut from, mut inside) = (i, 0u64, true);
            for axis in 0..4 {
                let x = i64::from(origin[axis]) + i64::from(rest % counts[axis] * steps[axis]);
                rest /= counts[axis];
                inside &= x >= 0 && x < dims[axis] as i64;
                from += (x.max(0) as u64) * [1u64, 12, 60, 180][axis];
            }
            let byte = i * 4;
            let width = [1u32, 2, 4, 8][swizzle as usize];
            let place = (byte ^ (byte >> 3 & (width - 1) << 4)) / 4;
            let want = if inside { values[from as usize] } else { 0.0 };
            assert_eq!(got[place as usize], want, "element {i} of {tile:?} at {origin:?}");
        }
    }
}

#[test]
fn rules() {
    let (m, memory) = (crate::common::module("bulk"), Memory::new());
    let input = numbers(256, 3);
    let (pi, po) = (upload(&memory, &input), upload(&memory, &[0f32; 256]));
    let rule = |kernel: &str| run(&m, &memory, kernel, 64, &[pointer(pi), pointer(po)]);
    rule("good").unwrap();
    let want: Vec<f32> = input.iter().map(|x| x + 1.0).collect();
    assert_eq!(download::<f32>(po, 256), want);
    for (kernel, kind, part) in [
        ("early", FaultKind::PendingCopy, "before the asynchronous copy"),
        ("short_of_bytes", FaultKind::Deadlock, "16 bytes"),
        ("uninitialised", FaultKind::Trap, "no initialised mbarrier"),
        ("unordered", FaultKind::Race, "mbarrier was initialised"),
        ("hidden", FaultKind::ProxyFence, "not shown"),
        ("overwritten", FaultKind::PendingProduct, "under way reads"),
        ("left", FaultKind::PendingCopy, "exit"),
        ("bytes", FaultKind::Trap, "bytes of an mbarrier"),
        ("crowded", FaultKind::Trap, "arrivals"),
    ] {
        let error = rule(kernel).err().unwrap_or_else(|| panic!("{kernel} passes"));
        let text = error.to_string();
        assert_eq!(error.fault(), Some(kind), "{kernel}: {text}");
        assert!(text.contains(part), "{kernel}: {text}");
    }
}
