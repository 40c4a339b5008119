//! Datasets are written whole or not at all, always the same bytes, and read back as they were.

use std::collections::BTreeMap;
use std::fs;

use crate::common::{entries, place, sample, says, schema, write};
use ccl_data::{DataError, Dataset, Schema, Source, TensorSpec, Writer, WriterOptions, check};
use ccl_runtime::HostTensor;
use ccl_runtime::tensorfile::FileDType;

#[test]
fn samples_come_back_in_every_type() {
    for dtype in [FileDType::F32, FileDType::Bf16, FileDType::F16] {
        let (_keep, dir) = place();
        write(&dir, 10, 4, dtype);
        assert_eq!(
            entries(&dir),
            ["index.json", "shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors"]
        );
        let data = Dataset::open(&dir).unwrap();
        assert_eq!((data.len(), data.index().shards.len()), (10, 3));
        assert_eq!(data.schema().get("video").unwrap().dtype, dtype);
        for i in 0..10 {
            assert_eq!(data.sample(i, &data.schema().names()).unwrap(), sample(i), "{dtype} {i}");
        }
        // Only what is asked for.
        let some = data.sample(3, &["text".into()]).unwrap();
        assert!(some.keys().eq(["text"]));
        says(data.sample(10, &[]).unwrap_err(), &["has 10 samples", "number 10"]);
        says(data.sample(0, &["smell".into()]).unwrap_err(), &["no tensor `smell`", "video"]);
        assert!(check(&dir, &mut |_| ()).unwrap().is_sound());
    }
}

#[test]
fn values_are_rounded_once_and_truth_is_not() {
    let (_keep, dir) = place();
    let stored = schema(FileDType::F32).stored_as(FileDType::Bf16).unwrap();
    let mut writer = Writer::create(&dir, stored, WriterOptions::default()).unwrap();
    let mut one = sample(0);
    one.insert("text".into(), HostTensor::f32([1, 3], vec![0.1, -1.000_001, 3.0]));
    writer.add(&one).unwrap();
    writer.finish().unwrap();
    let back = Dataset::open(&dir).unwrap().sample(0, &["text".into(), "truth.time".into()]).unwrap();
    let want: Vec<f32> = [0.1, -1.000_001, 3.0].map(|x| half::bf16::from_f32(x).to_f32()).to_vec();
    assert_eq!(back["text"].as_f32(), Some(&want[..]));
    assert_eq!(back["truth.time"], one["truth.time"]);
    assert!(schema(FileDType::F32).stored_as(FileDType::I32).is_err());
}

#[test]
fn the_same_samples_give_the_same_bytes() {
    let ((_a, a), (_b, b)) = (place(), place());
    write(&a, 9, 4, FileDType::F32);
    write(&b, 9, 4, FileDType::F32);
    for name in entries(&a) {
        assert!(fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn nothing_is_there_before_the_end() {
    let (keep, dir) = place();
    let mut writer =
        Writer::create(&dir, schema(FileDType::F32), WriterOptions { shard_samples: 2, ..Default::default() }).unwrap();
    (0..5).for_each(|i| writer.add(&sample(i)).unwrap());
    assert!(!dir.exists());
    drop(writer);
    assert!(entries(keep.path()).is_empty(), "{:?}", entries(keep.path()));
    // An empty directory is taken; anything else is left alone.
    fs::create_dir(&dir).unwrap();
    write(&dir, 3, 2, FileDType::F32);
    let before = fs::read(dir.join("index.json")).unwrap();
    let again = Writer::create(&dir, schema(FileDType::F32), WriterOptions::default());
    says(again.unwrap_err(), &["data", "not empty"]);
    assert!(fs::read(dir.join("index.json")).unwrap() == before);
    assert_eq!(entries(keep.path()), ["data"]);

    let create = |path: &std::path::Path| Writer::create(path, schema(FileDType::F32), WriterOptions::default());
    says(create(&dir.join("index.json")).unwrap_err(), &["index.json", "is a file"]);
    says(create(&keep.path().join("no/data")).unwrap_err(), &["no/data", "does not exist"]);
    // Something came in between.
    let late = keep.path().join("late");
    let mut writer = create(&late).unwrap();
    writer.add(&sample(0)).unwrap();
    fs::create_dir(&late).unwrap();
    fs::write(late.join("mine"), "text").unwrap();
    says(writer.finish().unwrap_err(), &["late", "cannot write"]);
    assert_eq!(entries(keep.path()), ["data", "late"]);
    assert_eq!(entries(&late), ["mine"]);
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    let (keep, dir) = place();
    let mut writer = Writer::create(&dir, schema(FileDType::F16), WriterOptions::default()).unwrap();
    writer.add(&sample(0)).unwrap();
    let mut bad = |parts: &[&str], change: &dyn Fn(&mut ccl_data::Sample)| {
        let mut one = sample(1);
        change(&mut one);
        says(writer.add(&one).unwrap_err(), &[&["sample 1"], parts].concat());
    };
    bad(&["`text`", "is missing"], &|s| drop(s.remove("text")));
    bad(&["`smell`", "not in the schema"], &|s| drop(s.insert("smell".into(), HostTensor::f32([1], vec![0.0]))));
    bad(&["`audio`", "[5, 2]"], &|s| drop(s.insert("audio".into(), HostTensor::f32([5, 2], vec![0.0; 10]))));
    bad(&["`audio`", "whole numbers"], &|s| drop(s.insert("audio".into(), HostTensor::i32([2, 5], vec![0; 10]))));
    bad(&["`truth.number`", "real numbers"], &|s| {
        drop(s.insert("truth.number".into(), HostTensor::f32([], vec![0.0])))
    });
    for value in [f32::NAN, f32::INFINITY, 1e6] {
        bad(&["`text`", "element 2"], &|s| {
            drop(s.insert("text".into(), HostTensor::f32([1, 3], vec![0.0, 0.0, value])))
        });
    }
    // What was refused left nothing behind.
    writer.add(&sample(1)).unwrap();
    writer.finish().unwrap();
    assert_eq!(Dataset::open(&dir).unwrap().sample(1, &["text".into()]).unwrap()["text"], sample(1)["text"]);

    let empty = Writer::create(&keep.path().join("empty"), schema(FileDType::F32), WriterOptions::default()).unwrap();
    says(empty.finish().unwrap_err(), &["samples", "at least 1"]);
    let none = WriterOptions { shard_samples: 0, ..Default::default() };
    says(Writer::create(&keep.path().join("x"), schema(FileDType::F32), none).unwrap_err(), &["shard size"]);
    assert_eq!(entries(keep.path()), ["data"]);
}

#[test]
fn a_schema_makes_sense() {
    let spec = |shape: &[usize]| TensorSpec::new(FileDType::F32, shape);
    let make = |tensors: &[(&str, TensorSpec)]| -> Result<Schema, DataError> {
        Schema::new(tensors.iter().map(|(n, s)| (n.to_string(), s.clone())).collect::<BTreeMap<_, _>>())
    };
    let (text, audio) = (("text", spec(&[4, 8])), ("audio", spec(&[2, 9])));
    make(&[text.clone(), audio.clone()]).unwrap();
    make(&[text.clone(), audio.clone(), ("image", spec(&[5, 6])), ("what.ever", spec(&[]))]).unwrap();
    let refused = |tensors: &[(&str, TensorSpec)], parts: &[&str]| says(make(tensors).unwrap_err(), parts);
    refused(&[audio.clone()], &["no `text`"]);
    refused(&[text.clone()], &["neither `video` nor `audio`"]);
    refused(&[text.clone(), ("video", spec(&[4, 8]))], &["`video`", "[C, T, H, W]"]);
    refused(&[text.clone(), audio.clone(), ("a b", spec(&[1]))], &["`a b`", "letters"]);
    refused(&[text.clone(), audio.clone(), ("x", spec(&[3, 0]))], &["`x`", "[3, 0]"]);
    refused(&[text.clone(), audio, ("x", spec(&[usize::MAX, 2]))], &["`x`", "impossible"]);
    refused(&[text, ("audio", TensorSpec::new(FileDType::I32, [2, 9]))], &["`audio`", "I32"]);
}
