//! Files that are missing, damaged or lie: one line that names the file and the tensor or field, exit code 1, nothing
//! written, no memory for what a header claims.

use std::fs;
use std::path::Path;

use crate::common::bad::{Place, entry, failed};
use crate::common::tensors::{self, Tensor};
use crate::common::{case, ccl, inputs};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

#[test]
fn configurations() {
    let p = Place::new();
    let mut cases = vec![
        failed("no directory", p.forward(&p.path("absent")), &["absent", "no directory", "--model"]),
        failed("a file", p.forward(&case("small").join("config.json")), &["config.json", "no directory"]),
    ];
    let texts: [(&str, Vec<u8>, &str); 7] = [
        ("empty", Vec::new(), "not JSON"),
        ("cut-short", br#"{"video": {"dim": 64,"#.to_vec(), "not JSON"),
        ("no-text", vec![0xff, 0xfe, 0x00], "UTF-8"),
        ("a-list", b"[1, 2]".to_vec(), "must be an object"),
        ("no-video", br#"{"audio": {}, "layers": 1}"#.to_vec(), "field `video` is missing"),
        ("deep", [vec![b'['; 100_000], vec![b']'; 100_000]].concat(), "not JSON"),
        ("large", vec![b' '; (1 << 20) + 1], "larger than 1 MiB"),
    ];
    for (name, text, says) in texts {
        let model = p.model(name, "small", |dir| fs::write(dir.join("config.json"), text).expect("a file"));
        cases.push(failed(name, p.forward(&model), &["config.json", says]));
    }
    let gone = p.model("gone", "small", |dir| fs::remove_file(dir.join("config.json")).expect("a file"));
    cases.push(failed("no config", p.forward(&gone), &["config.json", "No such file"]));
    let fields: [(&str, Value, &[&str]); 22] = [
        ("/video/dims", json!(64), &["video.dims", "unknown", "ffn_dim"]),
        ("/flavour", json!("sweet"), &["flavour", "unknown"]),
        ("/video/dim", json!("64"), &["video.dim", "whole number"]),
        ("/video/dim", json!(64.5), &["video.dim", "whole number"]),
        ("/video/dim", json!(-64), &["video.dim", "whole number"]),
        ("/video/dim", json!(0), &["video.dim", "1 to"]),
        ("/video/dim", json!(1u64 << 40), &["video.dim", "1 to"]),
        ("/video/heads", json!(3), &["video.dim", "multiple of the 3 heads"]),
        ("/video/heads", json!(64), &["video.dim", "even"]),
        ("/video/in_channels", json!(3), &["video.in_channels", "out_channels"]),
        ("/audio/in_channels", json!(7), &["audio.in_channels", "out_channels"]),
        ("/video/patch", json!([1, 2]), &["video.patch", "3 sizes"]),
        ("/video/patch", json!([1, 2, 0]), &["video.patch", "1 to"]),
        ("/video", json!(7), &["video", "an object"]),
        ("/layers", json!(0), &["layers", "1 to"]),
        ("/layers", json!(1_000_000), &["layers", "1 to"]),
        ("/layers", Value::Null, &["layers", "whole number"]),
        ("/eps", json!(0.0), &["eps", "above zero"]),
        ("/rope_theta", json!("big"), &["rope_theta", "number"]),
        ("/freq_dim", json!(31), &["freq_dim", "even"]),
        ("/window_center", json!("middle"), &["window_center", "paper"]),
        ("/window_frames", json!(0), &["window_frames", "1 to"]),
    ];
    for (i, (pointer, value, says)) in fields.into_iter().enumerate() {
        let what = format!("{pointer} = {value}");
        let model = p.config(&format!("field{i}"), pointer, value);
        cases.push(failed(&what, p.forward(&model), &[&["config.json"], says].concat()));
    }
    // Fits itself, but not the weights.
    for (pointer, value, tensor) in [
        ("/video/ffn_dim", json!(96), "video.blocks.0.ffn.0.bias"),
        ("/layers", json!(3), "audio.blocks.2.cca"),
        ("/layers", json!(1), "blocks.1."),
        ("/image_dim", json!(20), "img"),
    ] {
        let model = p.config(&format!("other{}", cases.len()), pointer, value);
        cases.push(failed(pointer, p.forward(&model), &["tensor `", tensor]));
    }
    p.check(cases);
}

/// Damage to a safetensors file: what it is, the file, what the message says.
fn damaged_files(good: &[u8]) -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let one = |dtype: &str, shape: &[u64], offsets: [u64; 2], data: usize| {
        file(&json!({"video.x": entry(dtype, shape, offsets)}).to_string(), data)
    };
    let two = |a: [u64; 2], b: [u64; 2], data: usize| {
        let header = json!({"video.a": entry("F32", &[2], a), "video.b": entry("F32", &[2], b)});
        file(&header.to_string(), data)
    };
    let entry_text = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    vec![
        ("empty", Vec::new(), &["too few"]),
        ("seven bytes", vec![0; 7], &["too few"]),
        ("cut in the header", good[..1000].to_vec(), &["cut short"]),
        ("cut in the data", good[..good.len() - 1].to_vec(), &["cut short"]),
        ("a longer header than file", [&u64::to_le_bytes(5000)[..], b"{}"].concat(), &["cut short"]),
        ("a huge header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), &["no safetensors file"]),
        ("no JSON", file("what?", 0), &["bad header"]),
        ("a list", file("[]", 0), &["bad header"]),
        ("a number for a tensor", file(r#"{"video.x":7}"#, 0), &["video.x"]),
        ("negative offsets", file(&entry_text_at("[-4,0]"), 0), &["video.x"]),
        ("petabytes", one("F32", &[1 << 25, 1 << 25], [0, 1 << 52], 16), &["video.x", "impossible shape"]),
        ("an overflow", one("F32", &[1 << 32, 1 << 32, 1 << 32], [0, 0], 0), &["video.x", "impossible shape"]),
        ("more than the file", one("F32", &[1 << 30], [0, 1 << 32], 16), &["video.x", "only 16"]),
        ("other bytes than the shape", one("F32", &[3], [0, 16], 16), &["video.x", "needs 12"]),
        ("an end before the start", one("F32", &[1], [8, 4], 8), &["video.x", "before its start"]),
        ("an unknown type", one("F8_E4M3", &[4], [0, 4], 4), &["video.x", "F8_E4M3", "known"]),
        ("twenty dimensions", one("F32", &[1; 20], [0, 4], 4), &["video.x", "20 dimensions"]),
        ("shared bytes", two([0, 8], [4, 12], 12), &["shares bytes"]),
        ("a gap", two([0, 8], [12, 20], 20), &["belong to no tensor"]),
        ("bytes behind the end", two([0, 8], [8, 16], 17), &["belong to no tensor"]),
        ("a name twice", file(&format!(r#"{{"video.x":{entry_text},"video.x":{entry_text}}}"#), 4), &["twice"]),
        ("no tensors", file("{}", 0), &["safetensors"]),
    ]
}

fn entry_text_at(offsets: &str) -> String {
    format!(r#"{{"video.x":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}}}"#)
}

fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn weight_files() {
    let p = Place::new();
    let good = fs::read(case("small").join("weights.safetensors")).expect("a file");
    let mut cases = Vec::new();
    for (i, (what, bytes, says)) in damaged_files(&good).into_iter().enumerate() {
        let at = |dir: &Path| fs::write(dir.join("weights.safetensors"), &bytes).expect("a file");
        let model = p.model(&format!("damaged{i}"), "small", at);
        // A file without tensors is whole, but no checkpoint.
        let place = if what == "no tensors" { format!("damaged{i}") } else { "weights.safetensors".into() };
        let says = if what == "no tensors" { &["no tensors of a CCL"] } else { says };
        cases.push(failed(what, p.forward(&model), &[&[place.as_str()], says].concat()));
        cases.push(failed(what, p.forward(&model).words("--backend reference"), &[place.as_str()]));
    }
    let model = p.model("none", "small", |dir| fs::remove_file(dir.join("weights.safetensors")).expect("a file"));
    cases.push(failed("no weights", p.forward(&model), &["none", "has no weights"]));
    let model = p.model("directory", "small", |dir| {
        fs::remove_file(dir.join("weights.safetensors")).expect("a file");
        fs::create_dir(dir.join("weights.safetensors")).expect("a directory");
    });
    cases.push(failed("a directory", p.forward(&model), &["weights.safetensors", "is a directory"]));
    let model = p.model("two", "small", |dir| {
        fs::copy(dir.join("weights.safetensors"), dir.join("model.safetensors")).expect("a copy");
    });
    cases.push(failed("two whole models", p.forward(&model), &["`model.safetensors`", "`weights.safetensors`"]));
    p.check(cases);
}

#[test]
fn tensors_of_weights() {
    let p = Place::new();
    let bias = "audio.blocks.1.ffn.2.bias";
    let matrix = "video.blocks.0.self_attn.q.weight";
    let at = |t: &mut tensors::Tensors, name: &str, value: f32| {
        t.get_mut(name).expect("a weight").data[1] = value;
    };
    let missing = p.weights("missing", |t| drop(t.remove(bias)));
    let surplus = p.weights("surplus", |t| drop(t.insert("video.blocks.0.extra".into(), Tensor::full(&[2], 0.0))));
    let shape = p.weights("shape", |t| drop(t.insert(bias.into(), Tensor::full(&[33], 0.0))));
    let transposed =
        p.weights("transposed", |t| t.get_mut("video.blocks.0.ffn.0.weight").expect("one").shape.reverse());
    let nan = p.weights("nan", |t| at(t, matrix, f32::NAN));
    let infinite = p.weights("infinite", |t| at(t, bias, f32::INFINITY));
    let large = p.weights("large", |t| at(t, matrix, 1e6));
    let strange = p.weights("strange", |t| {
        *t = t.iter().map(|(name, v)| (format!("unet.{name}"), v.clone())).collect();
    });
    let integers = p.model("integers", "small", |dir| {
        let tensors = tensors::read(&dir.join("weights.safetensors"));
        let header = serde_json::to_string(&integer_header(&tensors)).expect("JSON");
        let bytes: usize = tensors.values().map(|t| 4 * t.data.len()).sum();
        tensors::write_raw(&dir.join("weights.safetensors"), &header, &vec![0; bytes]);
    });
    let file = "weights.safetensors";
    p.check(vec![
        failed("a tensor is missing", p.forward(&missing), &[bias, "is missing"]),
        failed("a tensor too many", p.forward(&surplus), &[file, "video.blocks.0.extra"]),
        failed("another shape", p.forward(&shape), &[file, bias, "[33]", "[32]"]),
        failed("transposed", p.forward(&transposed), &[file, "ffn.0.weight", "[64, 128]", "[128, 64]"]),
        failed("a NaN", p.forward(&nan), &["not finite", "velocity."]),
        failed("a NaN, converted", p.forward(&nan).words("--dtype bf16"), &[file, matrix, "NaN"]),
        failed("infinity", p.forward(&infinite), &["not finite", "velocity."]),
        failed("too large for f16", p.forward(&large).words("--dtype f16"), &[file, matrix, "f16"]),
        failed("names of another model", p.forward(&strange), &["strange", "no tensors of a CCL", "unet."]),
        failed("integers", p.forward(&integers), &[file, "I32", "floats"]),
    ]);
}

/// A header that says of every tensor that it holds integers.
fn integer_header(tensors: &tensors::Tensors) -> Value {
    let mut end = 0u64;
    let of = |(name, t): (&String, &Tensor)| {
        let shape: Vec<u64> = t.shape.iter().map(|&n| n as u64).collect();
        let start = end;
        end += 4 * t.data.len() as u64;
        (name.clone(), entry("I32", &shape, [start, end]))
    };
    tensors.iter().map(of).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn indexes_and_shards() {
    let p = Place::new();
    let (weight, name) = ("video.head.head.bias", "model.safetensors.index.json");
    // The weights in one shard, and an index that may lie about it.
    let shard = |at: &str, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        p.model(at, "small", |dir| {
            let tensors = tensors::read(&dir.join("weights.safetensors"));
            fs::rename(dir.join("weights.safetensors"), dir.join("a.safetensors")).expect("a move");
            let mut map = tensors.keys().map(|n| (n.clone(), json!("a.safetensors"))).collect();
            change(&mut map);
            fs::write(dir.join(name), json!({ "weight_map": map }).to_string()).expect("a file");
        })
    };
    let set =
        |value: &'static str| move |m: &mut serde_json::Map<String, Value>| drop(m.insert(weight.into(), json!(value)));
    let gone = shard("gone", &set("b.safetensors"));
    let outside = shard("outside", &set("../b.safetensors"));
    let unlisted = shard("unlisted", &|m| drop(m.remove(weight)));
    let unfound = shard("unfound", &|m| drop(m.insert("video.more".into(), json!("a.safetensors"))));
    let empty = shard("empty", &|m| m.clear());
    let number = shard("number", &|m| drop(m.insert(weight.into(), json!(7))));
    let cut = shard("cut", &|_| {});
    fs::write(cut.join(name), "{\"weight_map\": {").expect("a file");
    let two = shard("two", &|_| {});
    fs::copy(two.join(name), two.join("other.safetensors.index.json")).expect("a copy");
    let twice = shard("twice", &|_| {});
    fs::remove_file(twice.join(name)).expect("a file");
    fs::copy(twice.join("a.safetensors"), twice.join("b.safetensors")).expect("a copy");
    p.check(vec![
        failed("a shard is missing", p.forward(&gone), &[name, "`b.safetensors`", "does not exist"]),
        failed("a shard outside", p.forward(&outside), &[name, "plain file name"]),
        failed("not in the index", p.forward(&unlisted), &[name, weight, "not in the index"]),
        failed("not in the shard", p.forward(&unfound), &[name, "video.more", "is not"]),
        failed("an empty index", p.forward(&empty), &[name, "names no tensor"]),
        failed("a number for a shard", p.forward(&number), &[name, "bad index"]),
        failed("half an index", p.forward(&cut), &[name, "bad index"]),
        failed("two indexes", p.forward(&two), &["two indexes"]),
        failed("a tensor in two files", p.forward(&twice), &["b.safetensors", "tensor `", "a.safetensors too"]),
    ]);
}

#[test]
fn input_files() {
    let p = Place::new();
    let small = case("small");
    let good = fs::read(inputs(&small)).expect("a file");
    let mut cases = vec![
        failed("no file", p.forward_on(&small, &p.path("absent.safetensors"), "joint"), &["absent.safetensors"]),
        failed("a directory", p.forward_on(&small, &small, "joint"), &["small", "is a directory"]),
        failed("a device", p.forward_on(&small, Path::new("/dev/zero"), "joint"), &["/dev/zero", "no regular file"]),
    ];
    for (i, (what, bytes, says)) in damaged_files(&good).into_iter().enumerate() {
        let path = p.path(&format!("bad{i}.safetensors"));
        fs::write(&path, bytes).expect("a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // A file without tensors is whole, but has nothing of what the task needs.
        if what == "no tensors" {
            continue;
        }
        cases.push(failed(what, p.forward_on(&small, &path, "joint"), &[&[name.as_str()], says].concat()));
        let verify = ccl("verify").on(&small).with("--expected", &path);
        cases.push(failed(what, verify, &[&[name.as_str()], says].concat()));
    }
    p.check(cases);
}

#[test]
fn a_name_with_a_line_break_stays_in_its_line() {
    let p = Place::new();
    let header = json!({"video.a\nb": entry("F99", &[1], [0, 4])}).to_string();
    let path = p.path("in\nputs.safetensors");
    tensors::write_raw(&path, &header, &[0; 4]);
    let says = ["in\\nputs.safetensors", "video.a\\nb", "F99"];
    p.check(vec![failed("line breaks", p.forward_on(&case("small"), &path, "joint"), &says)]);
}

#[test]
fn plans_of_other_models() {
    // A half-precision copy is another model's weights for a plan that was made for f32.
    let p = Place::new();
    let plan = p.path("some.cclp");
    let model = p.model("model", "small", |_| {});
    ccl("compile --task t2a --clip 4x6x4@21 --batch 2").with("--model", &model).with("-o", &plan).ok();
    let weights = tensors::read(&model.join("weights.safetensors"));
    tensors::write(&model.join("weights.safetensors"), &weights, Dtype::BF16);
    let run = || ccl("forward").with("--plan", &plan).with("--inputs", inputs(&case("small"))).with("-o", p.out());
    let changed = failed("stored in bf16 since", run(), &["some.cclp", "have changed"]);
    fs::rename(model.join("config.json"), model.join("config.txt")).expect("a move");
    p.check(vec![failed("no config", run(), &["config.json"])]);
    fs::rename(model.join("config.txt"), model.join("config.json")).expect("a move");
    p.check(vec![changed]);
}
