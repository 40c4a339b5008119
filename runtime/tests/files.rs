//! Broken, lying and hostile files: each gives one line that names the file and the tensor, and none makes the program
//! allocate what a header claims.

#[path = "runtime/support.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ccl_ir::{DType, TensorType};
use ccl_runtime::checkpoint::Directory;
use ccl_runtime::inputs::Inputs;
use ccl_runtime::tensorfile::TensorFile;
use ccl_runtime::write::{check_writable, write_atomic, write_tensors};
use ccl_runtime::{HostData, HostTensor};
use support::{check_message, f32s, file, put, raw, stored};
use tempfile::tempdir;

/// The system's allocator, with a record of the largest request.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Opens `bytes` as a file and as the weights of a directory: the same complaint, and no large allocation.
fn refuse(bytes: &[u8], parts: &[&str]) {
    let dir = tempdir().unwrap();
    let path = put(dir.path(), "weights.safetensors", bytes);
    let all = [&["weights.safetensors"], parts].concat();
    check_message(TensorFile::open(&path).unwrap_err(), &all);
    check_message(Directory::open(dir.path()).unwrap_err(), &all);
    check_message(Inputs::open(&path).unwrap_err(), &all);
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < 16 << 20, "allocated {largest} bytes at once");
}

/// A header with one tensor `a` of these fields, over 8 bytes of data.
fn refuse_entry(fields: &str, parts: &[&str]) {
    refuse(&raw(&format!(r#"{{"a":{{{fields}}}}}"#), &[0; 8]), &[&["tensor `a`"], parts].concat());
}

#[test]
fn files_that_are_cut_short_or_lie_about_their_length() {
    refuse(b"", &["0 bytes are too few"]);
    refuse(&[1, 0, 0, 0, 0, 0, 0], &["7 bytes are too few"]);
    refuse(&u64::MAX.to_le_bytes(), &["would have 18446744073709551615 bytes"]);
    refuse(&i64::MAX.to_le_bytes(), &["would have"]);
    refuse(&[&99_999_999u64.to_le_bytes()[..], b"{}"].concat(), &["cut short", "99999999"]);
    refuse(&[&3u64.to_le_bytes()[..], b"{}"].concat(), &["cut short"]);
    let whole = file(&[f32s("a", &[2, 2], &[1.0; 4]), f32s("b", &[2], &[1.0; 2])]);
    refuse(&whole[..whole.len() - 1], &["tensor `b`", "cut short"]);
    refuse(&whole[..whole.len() - 12], &["tensor `a`", "cut short"]);
    refuse(&[&whole[..], b"x"].concat(), &["the last 1 bytes belong to no tensor"]);
}

#[test]
fn headers_that_are_not_what_they_should_be() {
    refuse(&raw("", &[]), &["bad header"]);
    refuse(&raw("not json", &[]), &["bad header"]);
    refuse(&raw("[1, 2]", &[]), &["bad header", "expected an object"]);
    refuse(&raw("{} {}", &[]), &["bad header", "trailing"]);
    refuse(&raw(&"[".repeat(100_000), &[]), &["bad header"]);
    refuse(&raw(&format!(r#"{{"a":{}"#, "[".repeat(100_000)), &[]), &["tensor `a`", "bad header entry"]);
    refuse(&[&4u64.to_le_bytes()[..], b"{\"\xff\xfe"].concat(), &["bad header"]);
    refuse(b"PK\x03\x04 this is a zip archive, as torch writes", &["is no safetensors file"]);
    let same = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    refuse(&raw(&format!("{{{same},{same}}}"), &[0; 4]), &["tensor `a`", "in the header twice"]);
    let long = format!(r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#, "n".repeat(5000));
    refuse(&raw(&long, &[0; 4]), &["name of 5000 bytes"]);
    let control = r#"{"a\nb\u001b":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#;
    refuse(&raw(control, &[0; 4]), &[r"tensor `a\nb\u{1b}`", "F99"]);
}

#[test]
fn tensors_whose_type_shape_and_place_do_not_fit() {
    refuse_entry(r#""dtype":"F99","shape":[2],"data_offsets":[0,8]"#, &["unknown type `F99`", "BF16"]);
    refuse_entry(r#""dtype":"F\n","shape":[2],"data_offsets":[0,8]"#, &[r"unknown type `F\n`"]);
    refuse_entry(r#""shape":[2],"data_offsets":[0,8]"#, &["missing field `dtype`"]);
    refuse_entry(r#""dtype":"F32","data_offsets":[0,8]"#, &["missing field `shape`"]);
    refuse_entry(r#""dtype":"F32","shape":[2]"#, &["missing field `data_offsets`"]);
    refuse_entry(r#""dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]"#, &["duplicate field `dtype`"]);
    refuse_entry(r#""dtype":"F32","shape":[-2],"data_offsets":[0,8]"#, &["bad header entry", "`-2`"]);
    refuse_entry(r#""dtype":"F32","shape":[2.5],"data_offsets":[0,8]"#, &["bad header entry"]);
    refuse_entry(r#""dtype":"F32","shape":[1e300],"data_offsets":[0,8]"#, &["bad header entry"]);
    refuse_entry(r#""dtype":"F32","shape":"2","data_offsets":[0,8]"#, &["bad header entry"]);
    refuse_entry(r#""dtype":"F32","shape":[2],"data_offsets":[-8,0]"#, &["bad header entry", "`-8`"]);
    refuse_entry(r#""dtype":"F32","shape":[2],"data_offsets":[0]"#, &["bad header entry"]);
    refuse_entry(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#, &["ends at byte 0, before its start 8"]);
    refuse_entry(r#""dtype":"F32","shape":[4],"data_offsets":[0,16]"#, &["ends at byte 16", "has only 8"]);
    refuse_entry(
        r#""dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]"#,
        &["impossible shape"],
    );
    refuse_entry(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]"#, &["impossible shape"]);
    refuse_entry(r#""dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]"#, &["ends at byte"]);
    refuse_entry(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#, &["has 8 bytes, but F32 [3] needs 12"]);
    refuse_entry(r#""dtype":"F16","shape":[],"data_offsets":[0,8]"#, &["has 8 bytes, but F16 [] needs 2"]);
    let shape = vec!["1"; 3000].join(",");
    refuse_entry(&format!(r#""dtype":"F32","shape":[{shape}],"data_offsets":[0,4]"#), &["3000 dimensions"]);
    refuse_entry(r#""dtype":"F32","shape":[1],"data_offsets":[4,8]"#, &["after 4 bytes that belong to no tensor"]);
    let b = r#""b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
    refuse(
        &raw(&format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},{b}}}"#), &[0; 8]),
        &["tensor `b`", "shares bytes with `a`"],
    );
}

#[test]
fn things_that_are_no_files() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    check_message(TensorFile::open(&at("none.safetensors")).unwrap_err(), &["none.safetensors", "cannot read"]);
    check_message(TensorFile::open(dir.path()).unwrap_err(), &["is a directory"]);
    check_message(Directory::open(&at("nowhere")).unwrap_err(), &["nowhere", "cannot read"]);
    let path = put(dir.path(), "config.json", "{}");
    check_message(Directory::open(&path).unwrap_err(), &["config.json", "cannot read"]);
    check_message(Directory::open(dir.path()).unwrap_err(), &["has no weights"]);
    fs::create_dir(at("model.safetensors")).unwrap();
    check_message(Directory::open(dir.path()).unwrap_err(), &["model.safetensors", "is a directory"]);
}

#[cfg(unix)]
#[test]
fn sockets_and_links_that_lead_nowhere() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    check_message(TensorFile::open(&path).unwrap_err(), &["a.safetensors", "no regular file"]);
    drop(listener);
    let path = dir.path().join("b.safetensors");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    check_message(TensorFile::open(&path).unwrap_err(), &["b.safetensors", "cannot read"]);
}

/// A directory of two right shards `one` (tensor `a`) and `two` (`b`), and an index that says something else.
fn refuse_index(index: &str, parts: &[&str]) {
    let dir = tempdir().unwrap();
    put(dir.path(), "one.safetensors", file(&[f32s("a", &[2], &[1.0, 2.0])]));
    put(dir.path(), "two.safetensors", file(&[f32s("b", &[1], &[3.0])]));
    put(dir.path(), "m.safetensors.index.json", index);
    check_message(Directory::open(dir.path()).unwrap_err(), &[&["m.safetensors.index.json"], parts].concat());
}

#[test]
fn indexes_that_do_not_fit_their_shards() {
    let map = |pairs: &str| format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{{pairs}}}}}"#);
    refuse_index("", &["bad index"]);
    refuse_index("{", &["bad index"]);
    refuse_index("{}", &["bad index", "weight_map"]);
    refuse_index(&map(""), &["names no tensor"]);
    refuse_index(&map(r#""a":7"#), &["bad index"]);
    refuse_index(&map(r#""a":"one.safetensors","b":"three.safetensors""#), &["`three.safetensors`", "not exist"]);
    let both = r#""a":"one.safetensors","b":"two.safetensors""#;
    refuse_index(&map(&format!(r#"{both},"c":"two.safetensors""#)), &["tensor `c`", "`two.safetensors`", "is not"]);
    refuse_index(&map(r#""a":"two.safetensors","b":"one.safetensors""#), &["tensor `a`", "is in `one.safetensors`"]);
    refuse_index(&map(&format!(r#"{both},"a":"one.safetensors""#)), &["tensor `a`", "in the index twice"]);
    for bad in
        ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", r"..\\one.safetensors", r"a\nb"]
    {
        refuse_index(&map(&format!(r#""a":"{bad}""#)), &["plain file name"]);
    }
}

#[test]
fn directories_with_more_than_one_answer() {
    let a = || file(&[f32s("a", &[1], &[1.0])]);
    let dir = tempdir().unwrap();
    put(dir.path(), "one.safetensors", a());
    put(dir.path(), "two.safetensors", a());
    check_message(Directory::open(dir.path()).unwrap_err(), &["two.safetensors", "tensor `a`", "one.safetensors too"]);
    put(dir.path(), "m.safetensors.index.json", r#"{"weight_map":{"b":"one.safetensors"}}"#);
    check_message(Directory::open(dir.path()).unwrap_err(), &["tensor `b`", "should be in `one.safetensors`"]);
    put(dir.path(), "m.safetensors.index.json", r#"{"weight_map":{"a":"one.safetensors"}}"#);
    assert_eq!(Directory::open(dir.path()).unwrap().files().len(), 1);
    let two = file(&[f32s("a", &[1], &[1.0]), f32s("b", &[1], &[1.0])]);
    put(dir.path(), "one.safetensors", two);
    check_message(Directory::open(dir.path()).unwrap_err(), &["tensor `b`", "not in the index"]);
    put(dir.path(), "n.safetensors.index.json", "{}");
    check_message(Directory::open(dir.path()).unwrap_err(), &["two indexes", "`m.", "`n."]);

    let dir = tempdir().unwrap();
    put(dir.path(), "weights.safetensors", a());
    put(dir.path(), "model.safetensors", a());
    check_message(Directory::open(dir.path()).unwrap_err(), &["`model.safetensors`", "`weights.safetensors`"]);
}

#[test]
fn a_whole_model_is_found_beside_other_files() {
    for name in ["weights.safetensors", "model.safetensors", "a.safetensors"] {
        let dir = tempdir().unwrap();
        put(dir.path(), name, file(&[f32s("a", &[1], &[1.0])]));
        put(dir.path(), "inputs.safetensors", file(&[f32s("video", &[1], &[1.0])]));
        put(dir.path(), "expected.safetensors", b"not looked at");
        put(dir.path(), ".half.safetensors", b"not looked at");
        let found = Directory::open(dir.path()).unwrap();
        assert_eq!(found.tensors().keys().collect::<Vec<_>>(), ["a"], "{name}");
    }
}

#[test]
fn tensors_come_to_the_host_as_floats_and_integers() {
    let dir = tempdir().unwrap();
    let tensors = [
        f32s("single", &[2], &[1.5, -2.0]),
        stored("double", "F64", &[1], 0.1f64.to_le_bytes()),
        stored("half", "F16", &[1], half::f16::from_f32(0.25).to_le_bytes()),
        stored("brain", "BF16", &[], half::bf16::from_f32(-3.0).to_le_bytes()),
        stored("long", "I64", &[1, 2], [7i64.to_le_bytes(), (-8i64).to_le_bytes()].concat()),
        stored("int", "I32", &[1], i32::MIN.to_le_bytes()),
        stored("none", "F32", &[0, 3], []),
        stored("far", "I64", &[1], (1i64 << 31).to_le_bytes()),
        stored("huge", "F64", &[1], 1e39f64.to_le_bytes()),
        f32s("nan", &[3], &[0.0, 1.0, f32::NAN]),
    ];
    let file = TensorFile::open(&put(dir.path(), "t.safetensors", file(&tensors))).unwrap();
    let read = |name| file.read(name).unwrap();
    assert_eq!(read("single"), HostTensor::f32([2], vec![1.5, -2.0]));
    assert_eq!(read("double"), HostTensor::f32([1], vec![0.1]));
    assert_eq!(read("half"), HostTensor::f32([1], vec![0.25]));
    assert_eq!(read("brain"), HostTensor::f32([], vec![-3.0]));
    assert_eq!(read("long"), HostTensor::i32([1, 2], vec![7, -8]));
    assert_eq!(read("int"), HostTensor::i32([1], vec![i32::MIN]));
    assert_eq!(read("none"), HostTensor::f32([0, 3], vec![]));
    assert_eq!(file.bytes("half").unwrap(), half::f16::from_f32(0.25).to_le_bytes());
    check_message(file.read("far").unwrap_err(), &["t.safetensors", "`far`", "2147483648", "too large for i32"]);
    check_message(file.read("huge").unwrap_err(), &["`huge`", "too large for f32"]);
    check_message(file.read("nan").unwrap_err(), &["`nan`", "NaN at element 2", "finite"]);
    check_message(file.read("other").unwrap_err(), &["t.safetensors", "`other`", "is not in the file"]);
}

#[test]
fn inputs_are_checked_against_the_plan() {
    let dir = tempdir().unwrap();
    let tensors = [f32s("video", &[1, 2], &[1.0, 2.0]), f32s("text", &[1, 3, 1], &[0.0; 3])];
    let mut inputs = Inputs::open(&put(dir.path(), "inputs.safetensors", file(&tensors))).unwrap();
    let ty = |shape: &[usize]| TensorType::f32(shape);
    assert_eq!(inputs.get("video", &ty(&[1, 2])).unwrap().as_f32(), Some(&[1.0, 2.0][..]));
    let error = inputs.get("video", &ty(&[1, 4])).unwrap_err();
    check_message(error, &["inputs.safetensors: `video` has shape [1, 2], the plan wants [1, 4]"]);
    let error = inputs.get("video", &TensorType::new(DType::I32, [1, 2])).unwrap_err();
    check_message(error, &["`video` has floats, the plan wants integers"]);
    check_message(inputs.get("t", &ty(&[1])).unwrap_err(), &["inputs.safetensors: `t` is missing", "[1]"]);
    assert_eq!(inputs.get_up_to("text", &ty(&[1, 512, 1]), 1).unwrap().shape, [1, 3, 1]);
    check_message(
        inputs.get_up_to("text", &ty(&[1, 2, 1]), 1).unwrap_err(),
        &["`text`", "[1, 2, 1] or fewer on axis 1"],
    );
    check_message(inputs.get_up_to("text", &ty(&[2, 3, 1]), 1).unwrap_err(), &["`text`", "has shape [1, 3, 1]"]);
    inputs.insert("t", HostTensor { shape: vec![1], data: HostData::F32(vec![0.5]) });
    inputs.insert("video", HostTensor::i32([1], vec![1]));
    check_message(inputs.get("video", &ty(&[1])).unwrap_err(), &["inputs: `video` has integers"]);
    assert_eq!(inputs.names(), ["t", "text", "video"]);
    assert!(inputs.contains("t") && !inputs.contains("audio"));
}

#[test]
fn outputs_are_written_whole_and_read_back() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    let tensors = BTreeMap::from([
        ("b".to_string(), HostTensor::f32([2], vec![1.0, f32::MIN_POSITIVE])),
        ("a".to_string(), HostTensor::f32([1, 1], vec![-0.0])),
        ("n".to_string(), HostTensor::i32([], vec![3])),
    ]);
    check_writable(&path).unwrap();
    write_tensors(&path, &tensors).unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.tensors().len(), 3);
    for (name, tensor) in &tensors {
        assert_eq!(file.read(name).unwrap(), *tensor);
    }
    assert!(file.entry("a").unwrap().range.end <= file.entry("b").unwrap().range.start, "sorted by name");
    let first = fs::read(&path).unwrap();
    write_tensors(&path, &tensors).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first, "the same bytes again");
    assert_eq!(names(dir.path()), ["out.safetensors"]);

    let wrong = BTreeMap::from([("a".into(), HostTensor { shape: vec![3], data: HostData::F32(vec![0.0]) })]);
    check_message(write_tensors(&path, &wrong).unwrap_err(), &["out.safetensors", "tensor `a`"]);
    assert_eq!(fs::read(&path).unwrap(), first, "the old file is untouched");
}

#[test]
fn places_that_cannot_be_written() {
    let dir = tempdir().unwrap();
    let plain = put(dir.path(), "plain", "kept");
    for path in [dir.path().to_path_buf(), dir.path().join("no/out"), plain.join("out"), dir.path().join("..")] {
        let shown = path.display().to_string();
        check_message(check_writable(&path).unwrap_err(), &[&shown]);
        check_message(write_atomic(&path, b"x").unwrap_err(), &[&shown]);
    }
    check_message(write_atomic(Path::new(""), b"x").unwrap_err(), &["file"]);
    assert_eq!(names(dir.path()), ["plain"]);
    assert_eq!(fs::read(&plain).unwrap(), b"kept");
}

#[cfg(unix)]
#[test]
fn links_stay_and_devices_are_refused() {
    let dir = tempdir().unwrap();
    let real = put(dir.path(), "real", "old");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write_atomic(&link, b"new").unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&real).unwrap(), b"new");
    check_message(write_atomic(Path::new("/dev/null"), b"x").unwrap_err(), &["/dev/null", "no regular file"]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
