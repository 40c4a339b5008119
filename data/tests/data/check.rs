//! Every kind of damage is named, with the sample and the tensor, and never hides the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{place, says, write};
use ccl_data::index::{Index, tensor_name};
use ccl_data::{Dataset, Report, check};
use ccl_runtime::HostTensor;
use ccl_runtime::tensorfile::{FileDType, TensorFile};
use ccl_runtime::write::write_tensors;

fn look(dir: &Path) -> Report {
    check(dir, &mut |_| ()).unwrap()
}

/// Rewrites a shard after a change to its tensors.
fn edit(shard: &Path, change: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
    let file = TensorFile::open(shard).unwrap();
    let mut tensors: BTreeMap<String, HostTensor> =
        file.tensors().keys().map(|name| (name.clone(), file.read(name).unwrap())).collect();
    drop(file);
    change(&mut tensors);
    write_tensors(shard, &tensors).unwrap();
}

#[test]
fn everything_is_named_and_nothing_hides_the_next() {
    let (_keep, dir) = place();
    write(&dir, 30, 10, FileDType::F32);
    assert!(look(&dir).is_sound());
    let shard = |i: usize| dir.join(format!("shard-{i:05}.safetensors"));
    edit(&shard(0), |t| {
        t.remove(&tensor_name(2, "text")).unwrap();
        t.insert(tensor_name(4, "audio"), HostTensor::f32([5, 2], vec![0.0; 10]));
        t.insert(tensor_name(5, "truth.number"), HostTensor::f32([], vec![1.0]));
        let mut video = vec![0.0; 12];
        video[7] = f32::NAN;
        t.insert(tensor_name(6, "video"), HostTensor::f32([2, 3, 2, 1], video));
        t.insert(tensor_name(8, "text"), HostTensor::f32([1, 3], vec![0.0, f32::NEG_INFINITY, 0.0]));
        t.insert(tensor_name(10, "text"), HostTensor::f32([1, 3], vec![0.0; 3]));
        t.insert(tensor_name(9, "smell"), HostTensor::f32([1], vec![0.0]));
        t.insert("stray".into(), HostTensor::f32([1], vec![0.0]));
    });
    fs::remove_file(shard(1)).unwrap();
    fs::copy(shard(2), dir.join("shard-00009.safetensors")).unwrap();
    let report = look(&dir);
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    println!("{}", told.join("\n"));
    let want: [(&str, &str); 10] = [
        ("shard-00000.safetensors: sample 2: `text`", "missing"),
        ("shard-00000.safetensors: sample 4: `audio`", "[5, 2]"),
        ("shard-00000.safetensors: sample 5: `truth.number`", "F32"),
        ("shard-00000.safetensors: sample 6: `video`", "element 7"),
        ("shard-00000.safetensors: sample 8: `text`", "-inf"),
        ("shard-00000.safetensors: tensor `00000009.smell`", "not in the index"),
        ("shard-00000.safetensors: tensor `00000010.text`", "another sample"),
        ("shard-00000.safetensors: tensor `stray`", "no sample's name"),
        ("shard-00001.safetensors: cannot read", "No such file"),
        ("shard-00009.safetensors: ", "not in the index"),
    ];
    assert_eq!(told.len(), want.len(), "{told:#?}");
    for (line, (begin, part)) in told.iter().zip(want) {
        assert!(line.starts_with(begin) && line.contains(part), "{line}\n  is not: {begin} ... {part}");
    }
    let broken: Vec<usize> = [2, 4, 5, 6, 8].into_iter().chain(10..20).collect();
    assert_eq!(report.broken, broken);
    // Opening says the first, and never gives a broken sample away.
    says(Dataset::open(&dir).unwrap_err(), &["shard-00000.safetensors", "00000002.text", "is missing"]);
}

#[test]
fn a_shard_that_is_cut_short_tells_what_is_lost() {
    let (_keep, dir) = place();
    write(&dir, 12, 6, FileDType::F32);
    let path = dir.join("shard-00001.safetensors");
    let whole = fs::read(&path).unwrap();
    let file = TensorFile::open(&path).unwrap();
    // Cut inside of the text of sample 9, if it lies where it did.
    let at = file.tensors()[&tensor_name(9, "text")].range.start + 2;
    let lost: Vec<usize> = (6..12)
        .filter(|s| file.tensors().iter().any(|(n, e)| n.starts_with(&format!("{s:08}.")) && e.range.end > at))
        .collect();
    drop(file);
    fs::write(&path, &whole[..at]).unwrap();
    let report = look(&dir);
    says(&report.problems[0], &["shard-00001.safetensors", "cut short", &format!("{at} of {} bytes", whole.len())]);
    assert_eq!(report.broken, lost);
    let nine = report.problems.iter().find(|p| p.sample == Some(9)).expect("sample 9");
    says(nine, &["sample 9", "text", "cut off"]);
    says(Dataset::open(&dir).unwrap_err(), &["shard-00001.safetensors", "cut short"]);
    // The header itself is cut: all are lost.
    for length in [0, 5, 40] {
        fs::write(&path, &whole[..length]).unwrap();
        let report = look(&dir);
        assert_eq!(report.broken, (6..12).collect::<Vec<_>>(), "{length}");
        assert_eq!(report.problems.len(), 1);
    }
    // Not cut, but longer.
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    says(&look(&dir).problems[0], &["shard-00001.safetensors", "4 bytes belong to no tensor"]);
}

#[test]
fn a_flipped_bit_is_seen() {
    let (_keep, dir) = place();
    write(&dir, 4, 4, FileDType::F32);
    let path = dir.join("shard-00000.safetensors");
    let at = TensorFile::open(&path).unwrap().tensors()[&tensor_name(1, "video")].range.start + 1;
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let report = look(&dir);
    assert_eq!(report.problems.len(), 1);
    says(&report.problems[0], &["shard-00000.safetensors", "BLAKE3", "samples 0 to 3"]);
}

#[test]
fn an_index_that_lies_is_refused() {
    let (_keep, dir) = place();
    write(&dir, 6, 3, FileDType::F32);
    let path = dir.join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    let refused = |from: &str, to: &str, parts: &[&str]| {
        assert!(text.contains(from), "no {from} in {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        says(Index::read(&dir).unwrap_err(), &[&["index.json"], parts].concat());
        says(check(&dir, &mut |_| ()).unwrap_err(), parts);
    };
    refused("{", "[", &["bad index"]);
    refused("ccl-dataset", "else\\n", &["format is `else"]);
    refused("\"version\": 1", "\"version\": 2", &["version 2"]);
    refused("\"samples\": 6", "\"samples\": 7", &["says 7", "have 6"]);
    refused("\"samples\": 3", "\"samples\": 0", &["no samples"]);
    refused("\"samples\": 3", "\"samples\": 18446744073709551615", &["18446744073709551615"]);
    refused("shard-00000.safetensors", "../shard-00000.safetensors", &["plain file name"]);
    refused("shard-00001.safetensors", "shard-00000.safetensors", &["twice"]);
    refused("\"F32\"", "\"F8\"", &["F8"]);
    refused("\"text\"", "\"words\"", &["no `text`"]);
    refused("\"about\"", "\"abuot\"", &["abuot"]);
    fs::remove_file(&path).unwrap();
    says(Dataset::open(&dir).unwrap_err(), &["is no dataset", "index.json"]);
    says(Dataset::open(&dir.join("no")).unwrap_err(), &["no", "cannot read"]);
}
