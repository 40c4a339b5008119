//! Weight stores: completeness, conversion, initialisers and fingerprints.

use std::path::Path;

use crate::support::{Stored, check_message, f32s, file, file_at, put, stored};
use ccl_ir::{DType, TensorType};
use ccl_runtime::RuntimeError;
use ccl_runtime::checkpoint::Directory;
use ccl_runtime::random::Stream;
use ccl_runtime::weights::{ExpectedTensor, Init, WeightSource, WeightStore};
use half::{bf16, f16};
use tempfile::{TempDir, tempdir};

fn expect(name: &str, shape: &[usize], init: Init) -> ExpectedTensor {
    ExpectedTensor { name: name.into(), shape: shape.into(), init }
}

/// A directory with one file of these tensors.
fn directory(tensors: &[Stored]) -> (TempDir, Directory) {
    let dir = tempdir().unwrap();
    put(dir.path(), "model.safetensors", file(tensors));
    let found = Directory::open(dir.path()).unwrap();
    (dir, found)
}

/// Names as they are in the file, nothing fresh.
fn strict(directory: &Directory, expected: &[ExpectedTensor]) -> Result<WeightStore, RuntimeError> {
    WeightStore::from_directory(directory, expected, &|raw| Some(raw.into()), &|_| false, 0)
}

/// A store of the single weight `w`.
fn one(dtype: &'static str, bytes: Vec<u8>) -> (TempDir, WeightStore, Vec<usize>) {
    let size = if dtype.ends_with("64") {
        8
    } else if dtype.ends_with("32") {
        4
    } else {
        2
    };
    let shape = vec![bytes.len() / size];
    let (dir, found) = directory(&[stored("w", dtype, &shape, bytes)]);
    let store = strict(&found, &[expect("w", &shape, Init::Zeros)]).unwrap();
    (dir, store, shape)
}

/// What the plan gets for values of a stored type.
fn converted(dtype: &'static str, bytes: Vec<u8>, to: DType) -> Result<Vec<u8>, RuntimeError> {
    let (_dir, store, shape) = one(dtype, bytes);
    store.fetch("w", &TensorType::new(to, shape)).map(|w| w.to_vec())
}

fn bytes_of<T, const N: usize>(values: impl IntoIterator<Item = T>, to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(to).collect()
}

#[test]
fn widening_is_exact_for_every_half() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|x| x.is_finite()).collect();
    let wide = bytes_of(&halves, |x| x.to_f32().to_le_bytes());
    assert_eq!(converted("F16", bytes_of(&halves, |x| x.to_le_bytes()), DType::F32).unwrap(), wide);
    assert_eq!(converted("F32", wide, DType::F16).unwrap(), bytes_of(&halves, |x| x.to_le_bytes()), "and back");

    let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).filter(|x| x.is_finite()).collect();
    let wide = bytes_of(&brains, |x| x.to_f32().to_le_bytes());
    assert_eq!(converted("BF16", bytes_of(&brains, |x| x.to_le_bytes()), DType::F32).unwrap(), wide);
    assert_eq!(converted("F32", wide, DType::Bf16).unwrap(), bytes_of(&brains, |x| x.to_le_bytes()), "and back");
}

/// Checks the rounding of values between two neighbours `low` and `high` of a half type, `low` being even.
fn check_rounding(to: DType, low: f64, high: f64, bits: impl Fn(f64) -> [u8; 2]) {
    let tie = f64::midpoint(low, high);
    let cases = [(tie, low), (tie.next_up(), high), (tie.next_down(), low), (low, low), (high.next_down(), high)];
    let doubles = bytes_of(cases, |(x, _)| x.to_le_bytes());
    let want = bytes_of(cases, |(_, want)| bits(want));
    assert_eq!(converted("F64", doubles, to).unwrap(), want, "f64 to {to} in {low}..{high}");
    let near = [(tie, low), (f64::from((tie as f32).next_up()), high), (f64::from((tie as f32).next_down()), low)];
    let singles = bytes_of(near, |(x, _)| (x as f32).to_le_bytes());
    let want = bytes_of(near, |(_, want)| bits(want));
    assert_eq!(converted("F32", singles, to).unwrap(), want, "f32 to {to} in {low}..{high}");
}

#[test]
fn narrowing_rounds_once_to_nearest_even() {
    for even in [0x3c00u16, 0x0002, 0x7bfc, 0x1234] {
        let (low, high) = (f16::from_bits(even), f16::from_bits(even + 1));
        check_rounding(DType::F16, low.to_f64(), high.to_f64(), |x| f16::from_f64(x).to_le_bytes());
    }
    for even in [0x3f80u16, 0x0080, 0x7f7c, 0x4048] {
        let (low, high) = (bf16::from_bits(even), bf16::from_bits(even + 1));
        check_rounding(DType::Bf16, low.to_f64(), high.to_f64(), |x| bf16::from_f64(x).to_le_bytes());
    }
    let double = 0.1f64.to_le_bytes().to_vec();
    assert_eq!(converted("F64", double, DType::F32).unwrap(), 0.1f32.to_le_bytes());
    let tiny = 1e-30f32.to_le_bytes().to_vec();
    assert_eq!(converted("F32", tiny, DType::F16).unwrap(), [0, 0], "too small is zero, not an error");
}

#[test]
fn values_that_the_wanted_type_cannot_hold() {
    let singles = |values: &[f32]| bytes_of(values, |x| x.to_le_bytes());
    let error = |dtype, bytes, to| converted(dtype, bytes, to).unwrap_err();
    check_message(
        error("F32", singles(&[1.0, -65520.0]), DType::F16),
        &["`w`", "-65520 at element 1", "too large for f16"],
    );
    assert_eq!(converted("F32", singles(&[65519.0]), DType::F16).unwrap(), f16::MAX.to_le_bytes());
    check_message(error("F32", singles(&[f32::MAX]), DType::Bf16), &["`w`", "too large for bf16"]);
    check_message(error("F64", 1e300f64.to_le_bytes().to_vec(), DType::F32), &["`w`", "too large for f32"]);
    check_message(error("F32", singles(&[f32::NAN]), DType::Bf16), &["model.safetensors", "`w`", "NaN", "finite"]);
    check_message(error("F32", singles(&[f32::NEG_INFINITY]), DType::F16), &["`w`", "-inf", "finite"]);
    let mut many = vec![0.0; 200_000];
    (many[70_001], many[150_000]) = (1e9, f32::NAN);
    check_message(error("F32", singles(&many), DType::F16), &["at element 70001,"]);
}

#[test]
fn equal_types_are_mapped_where_alignment_allows() {
    for (offset, mapped) in [(0, true), (4, true), (2, false), (1, false)] {
        let dir = tempdir().unwrap();
        put(dir.path(), "model.safetensors", file_at(offset, &[f32s("w", &[3], &[1.0, 2.0, 3.0])]));
        let found = Directory::open(dir.path()).unwrap();
        let store = strict(&found, &[expect("w", &[3], Init::Zeros)]).unwrap();
        let weight = store.load("w", &TensorType::f32([3])).unwrap();
        assert_eq!(weight.is_mapped(), mapped, "data at {offset} modulo 8");
        assert_eq!(weight.bytes().as_ptr().addr() % 4, 0);
        drop((store, found));
        assert_eq!(weight[..], bytes_of([1.0f32, 2.0, 3.0], f32::to_le_bytes), "outlives the store");
    }
    let (_dir, store, shape) = one("BF16", bf16::ONE.to_le_bytes().to_vec());
    assert!(store.fetch("w", &TensorType::new(DType::Bf16, shape.clone())).unwrap().is_mapped());
    assert!(!store.fetch("w", &TensorType::f32(shape)).unwrap().is_mapped());
}

#[test]
fn plans_that_want_something_else() {
    let (_dir, store, _) = one("F32", vec![0; 8]);
    let error = |name, ty| store.fetch(name, &ty).unwrap_err();
    check_message(error("v", TensorType::f32([2])), &["weight `v` is not in the model"]);
    check_message(error("w", TensorType::f32([1, 2])), &["weight `w` has shape [2], the plan wants [1, 2]"]);
    check_message(error("w", TensorType::new(DType::I32, [2])), &["weight `w`", "floats", "i32"]);
}

#[test]
fn files_that_do_not_fit_the_model() {
    let (_dir, found) = directory(&[f32s("a", &[2], &[1.0; 2]), f32s("b", &[1], &[1.0])]);
    let (a, b) = (expect("a", &[2], Init::Zeros), expect("b", &[1], Init::Zeros));
    assert_eq!(strict(&found, &[a.clone(), b.clone()]).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);

    let surplus = strict(&found, std::slice::from_ref(&b)).unwrap_err();
    check_message(surplus, &["model.safetensors: tensor `a` is none that the model"]);
    check_message(strict(&found, &[]).unwrap_err(), &["tensor `a`", "(and 1 more)"]);
    let missing = [a.clone(), b.clone(), expect("c", &[3, 4], Init::Zeros), expect("d", &[1], Init::Zeros)];
    check_message(strict(&found, &missing).unwrap_err(), &["tensor `c` of shape [3, 4] is missing (and 1 more)"]);
    let shaped = [expect("a", &[1, 2], Init::Zeros), b.clone()];
    check_message(strict(&found, &shaped).unwrap_err(), &["tensor `a` has shape [2], the model wants [1, 2]"]);

    let both = |_: &str| Some("a".to_string());
    let twice = WeightStore::from_directory(&found, std::slice::from_ref(&a), &both, &|_| false, 0).unwrap_err();
    check_message(twice, &["tensor `b`", "weight `a`", "so is `a`"]);
    let unknown = WeightStore::from_directory(&found, &[a, b], &|_| None, &|_| true, 0).unwrap_err();
    check_message(unknown, &["tensor `a` is none", "(and 1 more)"]);

    let (_dir, found) = directory(&[stored("a", "I32", &[1], [0; 4])]);
    let ints = strict(&found, &[expect("a", &[1], Init::Zeros)]).unwrap_err();
    check_message(ints, &["tensor `a` has type I32; weights are floats"]);
}

#[test]
fn one_stream_from_a_file_and_the_rest_fresh() {
    let (_dir, found) = directory(&[f32s("blocks.0.w", &[2], &[3.0, 4.0])]);
    let expected = [
        expect("video.blocks.0.w", &[2], Init::Zeros),
        expect("audio.blocks.0.w", &[64], Init::Normal { std: 1.0 }),
        expect("video.blocks.0.cca.norm", &[2], Init::Ones),
    ];
    let rename = |raw: &str| Some(format!("video.{raw}"));
    let fresh = |name: &str| name.starts_with("audio.") || name.contains(".cca.");
    let store = |seed| WeightStore::from_directory(&found, &expected, &rename, &fresh, seed).unwrap();
    assert_eq!(store(1).fresh_names().collect::<Vec<_>>(), ["audio.blocks.0.w", "video.blocks.0.cca.norm"]);
    let get = |seed, name: &str, n: usize| store(seed).fetch(name, &TensorType::f32([n])).unwrap().to_vec();
    assert_eq!(get(1, "video.blocks.0.w", 2), bytes_of([3.0f32, 4.0], f32::to_le_bytes));
    assert_eq!(get(1, "video.blocks.0.cca.norm", 2), bytes_of([1.0f32; 2], f32::to_le_bytes));
    assert_eq!(get(1, "audio.blocks.0.w", 64), get(1, "audio.blocks.0.w", 64));
    assert_ne!(get(1, "audio.blocks.0.w", 64), get(2, "audio.blocks.0.w", 64));
}

/// A fresh weight's numbers.
fn drawn(init: Init, name: &str, seed: u64, n: usize) -> Vec<f32> {
    let (_dir, found) = directory(&[f32s("there", &[1], &[0.0])]);
    let expected = [expect("there", &[1], Init::Zeros), expect(name, &[n], init)];
    let store = WeightStore::from_directory(&found, &expected, &|raw| Some(raw.into()), &|_| true, seed).unwrap();
    let bytes = store.fetch(name, &TensorType::f32([n])).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn initialisers_have_their_distribution() {
    const N: usize = 200_000;
    let moments = |values: &[f32]| {
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64;
        let fourth = values.iter().map(|&x| f64::from(x).powi(4)).sum::<f64>() / values.len() as f64;
        (mean, square, fourth / square.powi(2))
    };
    let normal = drawn(Init::Normal { std: 0.5 }, "w", 3, N);
    let (mean, square, kurtosis) = moments(&normal);
    assert!(
        mean.abs() < 0.005 && (square - 0.25).abs() < 0.003 && (kurtosis - 3.0).abs() < 0.06,
        "{mean} {square} {kurtosis}"
    );
    // Neighbours come from one pair of uniform numbers and must still be independent.
    let pairs = normal.chunks_exact(2).map(|p| f64::from(p[0]) * f64::from(p[1])).sum::<f64>() / (N / 2) as f64;
    assert!(pairs.abs() < 0.005, "{pairs}");

    let uniform = drawn(Init::XavierUniform { fan_in: 10, fan_out: 14 }, "w", 3, N);
    let (mean, square, _) = moments(&uniform);
    assert!(mean.abs() < 0.005 && (square - 0.25 / 3.0).abs() < 0.001, "{mean} {square}");
    assert!(uniform.iter().all(|x| x.abs() <= 0.5) && uniform.iter().any(|x| x.abs() > 0.4999));
    assert!(drawn(Init::Zeros, "w", 3, 5).iter().all(|&x| x == 0.0));
    assert!(drawn(Init::Ones, "w", 3, 5).iter().all(|&x| x == 1.0));
}

#[test]
fn random_numbers_depend_on_seed_name_and_index_alone() {
    let draw = |threads: usize, seed, name: &str, n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![0.0; n];
        pool.install(|| Stream::new(seed, name).normal(&mut out));
        out
    };
    let all = draw(1, 7, "noise.video", 100_001);
    assert_eq!(all, draw(3, 7, "noise.video", 100_001), "any number of threads");
    assert_eq!(all[..999], draw(1, 7, "noise.video", 999), "a shorter tensor is a prefix");
    assert_ne!(all[..999], draw(1, 7, "noise.audio", 999));
    assert_ne!(all[..999], draw(1, 8, "noise.video", 999));
    // The numbers of a seed are part of what users rely on: they change in no release.
    let start: Vec<i32> = all[..4].iter().map(|x| (x * 1e4).round() as i32).collect();
    assert_eq!(start, FIRST_OF_SEED_7);
}

/// The first values of `Stream::new(7, "noise.video")`, times 10⁴.
const FIRST_OF_SEED_7: [i32; 4] = [-9698, 12808, -7910, -3625];

#[test]
fn random_models_are_alive_and_round_to_what_is_wanted() {
    let expected = [
        expect("norm", &[4], Init::Ones),
        expect("o", &[64, 64], Init::Zeros),
        expect("q", &[64, 64], Init::XavierUniform { fan_in: 64, fan_out: 64 }),
    ];
    let store = WeightStore::random(&expected, 5);
    let reversed = WeightStore::random(&[expected[2].clone(), expected[1].clone(), expected[0].clone()], 5);
    let full = |store: &WeightStore, name: &str, n: usize| -> Vec<f32> {
        let shape = if n == 4 { vec![4] } else { vec![64, 64] };
        let bytes = store.fetch(name, &TensorType::f32(shape)).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    assert_eq!(full(&store, "norm", 4), [1.0; 4]);
    for name in ["o", "q"] {
        let values = full(&store, name, 4096);
        assert_eq!(values, full(&reversed, name, 4096), "order does not matter");
        let square = values.iter().map(|x| x * x).sum::<f32>() / 4096.0;
        assert!((square.sqrt() - 0.02).abs() < 0.002, "{name}: {square}");
        let half = store.fetch(name, &TensorType::new(DType::Bf16, [64, 64])).unwrap();
        assert_eq!(half.to_vec(), bytes_of(&values, |x| bf16::from_f32(*x).to_le_bytes()), "the same numbers, rounded");
    }
    assert_ne!(full(&store, "o", 4096), full(&store, "q", 4096));
}

/// Five weights, one of them larger than what a fingerprint samples.
fn sample(values: f32) -> Vec<Stored> {
    let many: Vec<f32> = (0..5000).map(|i| i as f32 * values).collect();
    let mut all: Vec<Stored> = ["e", "c", "a", "d"].iter().map(|n| f32s(n, &[2, 1], &[values, -values])).collect();
    all.push(f32s("b", &[50, 100], &many));
    all
}

/// The same in three files.
fn split(dir: &Path, with_index: bool) -> Directory {
    let mut map = Vec::new();
    for (i, part) in sample(0.5).chunks(2).enumerate() {
        let shard = format!("model-{i}.safetensors");
        put(dir, &shard, file(part));
        map.extend(part.iter().map(|t| format!(r#""{}":"{shard}""#, t.name)));
    }
    if with_index {
        put(dir, "model.safetensors.index.json", format!(r#"{{"weight_map":{{{}}}}}"#, map.join(",")));
    }
    Directory::open(dir).unwrap()
}

#[test]
fn shards_are_the_same_as_one_file() {
    let (_dir, whole) = directory(&sample(0.5));
    let expected: Vec<_> = whole.tensors().iter().map(|(n, (_, e))| expect(n, &e.shape, Init::Zeros)).collect();
    for with_index in [true, false] {
        let dir = tempdir().unwrap();
        let parts = split(dir.path(), with_index);
        assert_eq!(parts.files().len(), 3);
        assert_eq!(parts.fingerprint(), whole.fingerprint());
        let (one, three) = (strict(&whole, &expected).unwrap(), strict(&parts, &expected).unwrap());
        for e in &expected {
            for dtype in [DType::F32, DType::F16] {
                let ty = TensorType::new(dtype, e.shape.clone());
                assert_eq!(one.fetch(&e.name, &ty).unwrap().bytes(), three.fetch(&e.name, &ty).unwrap().bytes());
            }
        }
    }
}

#[test]
fn fingerprints_tell_checkpoints_apart() {
    let print = |tensors: &[Stored]| directory(tensors).1.fingerprint();
    let base = print(&sample(0.5));
    assert_eq!(base, print(&sample(0.5)));
    assert_eq!(base.len(), 64);
    let changed = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = sample(0.5);
        change(&mut tensors);
        print(&tensors)
    };
    assert_eq!(base, changed(&|t| t.reverse()), "order in the file does not matter");
    assert_ne!(base, print(&sample(0.25)));
    assert_ne!(base, changed(&|t| t[0].name = "f".into()));
    assert_ne!(base, changed(&|t| t[0].shape = vec![1, 2]));
    assert_ne!(base, changed(&|t| t[0].dtype = "I32"));
    assert_ne!(base, changed(&|t| t[4].bytes[4095] ^= 1));
    assert_ne!(base, changed(&|t| *t[4].bytes.last_mut().unwrap() ^= 1));
    assert_ne!(base, changed(&|t| drop(t.pop())));
}
