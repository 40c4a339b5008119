//! Inputs that do not fit the model, the task or the plan: one line that names the tensor, nothing written.

use std::path::{Path, PathBuf};

use crate::common::bad::{Bad, Place, failed, wrong_usage};
use crate::common::tensors::{self, Tensor, Tensors};
use crate::common::{Ccl, case, ccl, inputs};
use safetensors::tensor::Dtype;

/// Inputs with one tensor removed.
fn without(p: &Place, of: &str, name: &'static str) -> PathBuf {
    p.inputs(&format!("no-{of}-{name}"), of, |t| drop(t.remove(name).expect("an input")))
}

/// Inputs of `small` with one tensor replaced.
fn with(p: &Place, file: &str, name: &'static str, tensor: Tensor) -> PathBuf {
    p.inputs(file, "small", |t| drop(t.insert(name.into(), tensor)))
}

fn forward(p: &Place, of: &str, inputs: &Path, options: &str) -> Ccl {
    p.forward_on(&case(of), inputs, options)
}

fn sample(p: &Place, of: &str, inputs: &Path, options: &str) -> Ccl {
    let run = ccl("sample --steps 2 --task").words(options).with("--model", case(of));
    run.with("--inputs", inputs).with("-o", p.out())
}

#[test]
fn what_a_task_needs_is_missing() {
    let p = Place::new();
    let no = |of: &str, name| without(&p, of, name);
    let (text, t, video, audio) = (no("small", "text"), no("small", "t"), no("small", "video"), no("small", "audio"));
    let negative = no("small", "negative_text");
    let noise = p.inputs("only-noise", "small", |t| t.retain(|n, _| n != "video" && n != "audio"));
    p.check(vec![
        failed("no text", forward(&p, "small", &text, "joint"), &["no-small-text", "`text`", "is missing"]),
        failed("no text", sample(&p, "small", &text, "t2a"), &["no-small-text", "`text`", "is missing"]),
        failed("no t", forward(&p, "small", &t, "t2v"), &["`t`", "is missing"]),
        failed("no video", forward(&p, "small", &video, "t2v --clip 4x6x4@21 --batch 2"), &["`video`", "is missing"]),
        failed("no audio", forward(&p, "small", &audio, "t2a --clip 4x6x4@21"), &["`audio`", "is missing"]),
        failed("no negative text", forward(&p, "small", &negative, "joint --guidance two-pass"), &["`negative_text`"]),
        failed("no reference video", sample(&p, "small", &noise, "v2a"), &["`video`", "is missing"]),
        failed("no reference audio", sample(&p, "small", &noise, "a2v"), &["`audio`", "is missing"]),
        failed("no condition", forward(&p, "image", &no("image", "video_condition"), "t2v"), &["`video_condition`"]),
        // The noise alone tells no level.
        failed("only noise", forward(&p, "small", &noise, "joint"), &["`video`", "is missing"]),
        // Nothing says how long the clip is.
        wrong_usage(
            ccl("sample --task joint --steps 2").with("--model", case("small")).with("-o", p.out()),
            &["--clip TxHxW@L"],
        ),
        wrong_usage(
            ccl("sample --task joint --steps 2 --clip 4x6x4@21").with("--model", case("small")).with("-o", p.out()),
            &["`text`", "is missing", "--inputs"],
        ),
    ]);
}

#[test]
fn shapes_that_do_not_fit() {
    let p = Place::new();
    let mut cases = Vec::new();
    let shapes: [(&str, &str, &[usize], &[&str]); 13] = [
        ("width", "text", &[2, 7, 23], &["`text`", "[2, 7, 23]"]),
        ("rank", "text", &[7, 24], &["`text`", "[7, 24]"]),
        ("tokens", "text", &[2, 0, 24], &["`text`", "no tokens"]),
        ("batch", "text", &[1, 7, 24], &["`text`", "[1, 7, 24]"]),
        ("batch of t", "t", &[1], &["`t`", "[1]"]),
        ("rank of t", "t", &[2, 1], &["`t`", "[2, 1]"]),
        ("channels", "video", &[2, 5, 4, 6, 4], &["`video`", "[2, 5, 4, 6, 4]"]),
        ("rank", "video", &[4, 4, 6, 4], &["shape7.safetensors", "`video`", "[B, C, T, H, W]"]),
        ("no frames", "video", &[2, 4, 0, 6, 4], &["`video`", "[2, 4, 0, 6, 4]"]),
        ("odd height", "video", &[2, 4, 4, 5, 4], &["shape9.safetensors", "clip `4x5x4@21`", "rows (5)"]),
        ("rank", "audio", &[2, 21], &["`audio`", "[B, C, L]"]),
        ("empty", "audio", &[2, 6, 0], &["`audio`", "[2, 6, 0]"]),
        ("channels", "audio", &[2, 7, 21], &["`audio`", "[2, 7, 21]"]),
    ];
    for (i, (what, name, shape, says)) in shapes.into_iter().enumerate() {
        let file = with(&p, &format!("shape{i}"), name, Tensor::full(shape, 0.5));
        cases.push(failed(&format!("{what} of {name}"), forward(&p, "small", &file, "joint"), says));
    }
    let noise = with(&p, "noise", "noise.audio", Tensor::full(&[2, 6, 20], 0.5));
    cases.push(failed("other noise", sample(&p, "small", &noise, "joint"), &["`noise.audio`", "[2, 6, 20]"]));
    let batch = with(&p, "batch", "audio", Tensor::full(&[3, 6, 21], 0.5));
    let says = ["batch.safetensors", "`video` has a batch of 2", "`audio` of 3"];
    cases.push(failed("two batches", forward(&p, "small", &batch, "joint"), &says));
    let condition = p.inputs("condition", "image", |t| {
        t.insert("video_condition".into(), Tensor::full(&[1, 4, 3, 4, 6], 0.0));
    });
    cases.push(failed("condition", forward(&p, "image", &condition, "t2v"), &["`video_condition`", "[1, 4, 3, 4, 6]"]));
    let image = p.inputs("image", "image", |t| drop(t.insert("image".into(), Tensor::full(&[1, 9, 21], 0.0))));
    cases.push(failed("image", forward(&p, "image", &image, "t2v"), &["`image`", "[1, 9, 21]"]));
    p.check(cases);
}

#[test]
fn values_that_are_no_numbers() {
    let p = Place::new();
    let mut cases: Vec<Bad> = Vec::new();
    let spoil = |file: &str, name: &'static str, value: f32| {
        p.inputs(file, "small", |t: &mut Tensors| {
            *t.get_mut(name).expect("an input").data.last_mut().expect("a value") = value;
        })
    };
    for (name, value) in [("video", f32::NAN), ("text", f32::INFINITY), ("t", f32::NAN), ("audio", f32::NEG_INFINITY)] {
        let file = spoil(name, name, value);
        cases.push(failed(name, forward(&p, "small", &file, "joint"), &[&format!("`{name}`"), "finite"]));
    }
    let noise = spoil("noise", "noise.video", f32::NAN);
    cases.push(failed("noise", sample(&p, "small", &noise, "joint"), &["`noise.video`", "finite"]));
    // Finite, but the arithmetic is not.
    let huge = p.inputs("huge", "small", |t| t.get_mut("video").expect("an input").data.fill(3e38));
    cases.push(failed("huge", forward(&p, "small", &huge, "t2v"), &["not finite", "velocity.video"]));
    p.check(cases);
}

#[test]
fn integers_and_doubles() {
    let p = Place::new();
    let small = tensors::read(&inputs(&case("small")));
    // The same bytes under another type: numbers of 4 bytes that are integers, and pairs of them as doubles.
    let file = |name: &str, dtype: &str, of: &str, width: usize| {
        let mut header = serde_json::Map::new();
        let (mut end, mut data) = (0u64, Vec::new());
        for (key, t) in &small {
            let (dtype, bytes) = if key == of { (dtype, width * t.data.len()) } else { ("F32", 4 * t.data.len()) };
            let shape: Vec<u64> = t.shape.iter().map(|&n| n as u64).collect();
            header.insert(key.clone(), crate::common::bad::entry(dtype, &shape, [end, end + bytes as u64]));
            end += bytes as u64;
            data.resize(end as usize, 0x7f);
        }
        let path = p.path(&format!("{name}.safetensors"));
        tensors::write_raw(&path, &serde_json::to_string(&header).expect("JSON"), &data);
        path
    };
    let (integers, doubles) = (file("integers", "I32", "text", 4), file("doubles", "F64", "text", 8));
    p.check(vec![
        failed("integers", forward(&p, "small", &integers, "t2a"), &["`text`", "integers"]),
        failed("doubles beyond f32", forward(&p, "small", &doubles, "t2a"), &["`text`"]),
    ]);
}

#[test]
fn inputs_beyond_a_plan() {
    let p = Place::new();
    let compile = |of: &str, options: &str| {
        let plan = p.path(&format!("{of}.cclp"));
        ccl("compile --task joint").with("--model", case(of)).words(options).with("-o", &plan).ok();
        plan
    };
    let run =
        |plan: &Path, inputs: &Path| ccl("forward").with("--plan", plan).with("--inputs", inputs).with("-o", p.out());
    let small = compile("small", "--clip 4x6x4@21 --batch 2 --text-tokens 5");
    let image = compile("image", "--clip 3x4x6@12 --image-tokens 8");
    let (small_inputs, image_inputs) = (inputs(&case("small")), inputs(&case("image")));
    let no_image = without(&p, "image", "image");
    let batch = p.inputs("batch", "small", |t| {
        for x in t.values_mut() {
            x.data.truncate(x.data.len() / 2);
            x.shape[0] = 1;
        }
    });
    p.check(vec![
        failed("more text", run(&small, &small_inputs), &["`text`", "7 tokens", "room for 5", "--text-tokens 7"]),
        failed(
            "a larger image",
            run(&image, &image_inputs),
            &["`image`", "9 tokens", "room for 8", "--image-tokens 9"],
        ),
        failed("no image", run(&image, &no_image), &["`image`", "--image-tokens 0"]),
        failed("another clip", run(&small, &image_inputs), &["`", "shape"]),
        failed("another batch", run(&small, &batch), &["`", "shape [1"]),
    ]);
    // What fits runs.
    let short = p.inputs("short", "small", |t| {
        t.insert("text".into(), Tensor::full(&[2, 5, 24], 0.25));
    });
    let result = p.path("result.safetensors");
    ccl("forward").with("--plan", &small).with("--inputs", &short).with("-o", &result).ok();
    assert_eq!(tensors::read(&result)["velocity.audio"].shape, [2, 6, 21]);
}

#[test]
fn inputs_in_half_precision_are_read() {
    // Not wrong, but near it: the types that checkpoints use are fine for inputs too.
    let p = Place::new();
    let mut rounded = tensors::read(&inputs(&case("small")));
    tensors::round_to_bf16(&mut rounded);
    let result = |dtype: Dtype| {
        let (path, out) = (p.path("typed.safetensors"), p.path("result.safetensors"));
        tensors::write(&path, &rounded, dtype);
        ccl("forward --task t2a").with("--model", case("small")).with("--inputs", &path).with("-o", &out).ok();
        tensors::read(&out)
    };
    assert_eq!(result(Dtype::BF16), result(Dtype::F32));
}
