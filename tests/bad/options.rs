//! Wrong options and combinations, impossible sizes, outputs that cannot be written: one line that names the option.

use std::fs;

use crate::common::bad::{Bad, Place, failed, wrong_usage};
use crate::common::{Ccl, case, ccl, entries, inputs};

/// A command on `small` with all that it needs, and more words.
fn on_small(p: &Place, command: &str, words: &str) -> Ccl {
    let small = case("small");
    let run = ccl(command).with("--model", &small);
    let run = match command {
        "forward" | "sample" => run.words("--task joint").with("--inputs", inputs(&small)).with("-o", p.out()),
        "verify" => run.with("--inputs", inputs(&small)).with("--expected", small.join("expected.safetensors")),
        "compile" => run.words("--task joint").with("-o", p.out()),
        _ => run.words("--task joint"),
    };
    run.words(words)
}

#[test]
fn words_that_mean_nothing() {
    let p = Place::new();
    let small = |command: &str, words: &str| on_small(&p, command, words);
    let task = |words: &str| ccl("explain --clip 4x6x4@21").with("--model", case("small")).words(words);
    p.check(vec![
        wrong_usage(ccl("dance"), &["dance"]),
        wrong_usage(ccl("bench dance"), &["dance"]),
        wrong_usage(small("forward", "--stepz 3"), &["--stepz"]),
        wrong_usage(small("sample", "--step 3"), &["--step", "similar", "--steps"]),
        wrong_usage(small("forward", "more"), &["more"]),
        wrong_usage(small("forward", "--task t2v"), &["--task"]),
        wrong_usage(small("forward", "--threads"), &["--threads"]),
        wrong_usage(ccl("forward --task joint"), &["--inputs", "--output"]),
        wrong_usage(ccl("verify --tolerance 1"), &["--model", "--inputs", "--expected"]),
        wrong_usage(ccl("sample --task joint").with("-o", p.out()), &["--model", "--plan"]),
        wrong_usage(task("--task v2t"), &["v2t", "t2v", "t2a", "t2av", "a2v", "v2a", "joint"]),
        wrong_usage(task(""), &["--task", "joint"]),
        wrong_usage(task("--task t2v --guidance some"), &["--guidance", "some", "modality-drop"]),
        wrong_usage(task("--task t2v --format yaml"), &["--format", "yaml", "json"]),
        wrong_usage(task("--task t2v --target tpu"), &["--target", "tpu"]),
        wrong_usage(small("forward", "--dtype f8"), &["--dtype", "f8", "bf16"]),
        wrong_usage(small("forward", "--dtype i32"), &["--dtype", "i32"]),
        wrong_usage(small("forward", "--backend abacus"), &["--backend", "abacus", "cpu"]),
        wrong_usage(small("sample", "--sampler heun"), &["--sampler", "heun", "euler"]),
        wrong_usage(small("sample", "--seed -1"), &["--seed", "-1"]),
        wrong_usage(small("sample", "--seed 99999999999999999999"), &["--seed"]),
        wrong_usage(small("sample", "--steps many"), &["--steps", "many"]),
    ]);
}

#[test]
fn numbers_out_of_range() {
    let p = Place::new();
    let small = |command: &str, words: &str| on_small(&p, command, words);
    p.check(vec![
        wrong_usage(small("sample", "--steps 0"), &["--steps", "0 steps"]),
        wrong_usage(small("sample", "--steps 1000000000000"), &["--steps", "1000000000000"]),
        wrong_usage(small("sample", "--steps 18446744073709551615"), &["--steps"]),
        wrong_usage(small("sample", "--steps -1"), &["--steps", "-1"]),
        wrong_usage(small("sample", "--shift nan"), &["--shift"]),
        wrong_usage(small("sample", "--shift inf"), &["--shift"]),
        wrong_usage(small("sample", "--shift 0"), &["--shift"]),
        wrong_usage(small("sample", "--shift -5"), &["--shift"]),
        wrong_usage(small("sample", "--steps 50 --shift 1e30"), &["--shift"]),
        wrong_usage(small("forward", "--threads 0"), &["--threads"]),
        wrong_usage(small("forward", "--threads 1000000000"), &["--threads"]),
        wrong_usage(small("verify", "--threads 0"), &["--threads"]),
        wrong_usage(small("verify", "--tolerance nan"), &["--tolerance"]),
        wrong_usage(small("verify", "--tolerance -1"), &["--tolerance"]),
        wrong_usage(small("bench step", "--clip 4x6x4@21 --steps 0"), &["--steps"]),
        wrong_usage(small("bench step", "--clip 4x6x4@21 --repeat 0"), &["--repeat"]),
        wrong_usage(small("forward", "--guidance two-pass --scale-audio 1e39"), &["--scale-audio", "must be a number"]),
        wrong_usage(small("explain", "--clip 4x6x4@21 --text-tokens 0"), &["text tokens", "is 0"]),
        wrong_usage(small("explain", "--clip 4x6x4@21 --text-tokens 1000000000000"), &["text tokens", "1000000000000"]),
        wrong_usage(small("explain", "--clip 4x6x4@21 --image-tokens 5"), &["image"]),
        wrong_usage(small("compile", "--clip 4x6x4@21 --batch 0"), &["batch", "is 0"]),
        wrong_usage(small("compile", "--clip 4x6x4@21 --batch 1000000000000"), &["batch", "1000000000000"]),
    ]);
}

#[test]
fn clips() {
    let p = Place::new();
    let texts = [
        "4x6x4",
        "4x6@21",
        "4x6x4x2@21",
        "4x6x4@",
        "@21",
        "axbxc@d",
        "4x6x+4@21",
        "4.0x6x4@21",
        "0x6x4@21",
        "4x0x4@21",
        "4x6x4@0",
        "99999999999999999999x6x4@21",
        "1048577x1x1@1",
        "65536x65536x65536@1",
        "1048576x2x2@1048576",
    ];
    let mut cases: Vec<Bad> = Vec::new();
    for text in texts {
        cases.push(wrong_usage(on_small(&p, "explain", "").with("--clip", text), &["--clip", text]));
    }
    // Well written, but not this model's.
    for (text, says) in [("4x5x4@21", "rows"), ("4x6x5@21", "columns")] {
        let says = &[text, says, "multiple of the video patch (2)"];
        cases.push(wrong_usage(on_small(&p, "explain", "").with("--clip", text), says));
        cases.push(wrong_usage(on_small(&p, "compile", "").with("--clip", text), says));
    }
    // More memory than there is: said before anything is allocated.
    let huge = on_small(&p, "sample", "--steps 1 --clip 4096x128x128@4096");
    cases.push(wrong_usage(huge, &["--clip", "4x6x4@21"]));
    // Beyond the limit of the test, and beyond any machine.
    let text = p.inputs("text", "small", |t| t.retain(|name, _| name.contains("text")));
    for clip in ["512x128x128@512", "65536x256x256@65536"] {
        let huge = ccl("sample --task joint --steps 1").with("--clip", clip).with("--model", case("small"));
        cases.push(failed("a huge clip", huge.with("--inputs", &text).with("-o", p.out()), &[clip, "needs"]));
    }
    p.check(cases);
}

#[test]
fn combinations() {
    let p = Place::new();
    let small = |command: &str, words: &str| on_small(&p, command, words);
    let plan = p.path("some.cclp");
    let words = "compile --task joint --guidance two-pass --clip 4x6x4@21 --batch 2";
    ccl(words).with("--model", case("small")).with("-o", &plan).ok();
    let planned = |words: &str| {
        let run = ccl("forward").with("--plan", &plan).with("--inputs", inputs(&case("small")));
        run.with("-o", p.out()).words(words)
    };
    let explained = |words: &str| ccl("explain").with("--plan", &plan).words(words);
    p.check(vec![
        wrong_usage(small("forward", "--scale-video 2"), &["--scale-video", "--guidance none"]),
        wrong_usage(small("forward", "--guidance text --scale-audio 2 --text-scale-audio 2"), &["--text-scale-audio"]),
        wrong_usage(small("sample", "--guidance two-pass --text-scale-video 2"), &["--text-scale-video", "two-pass"]),
        wrong_usage(small("forward", "--guidance two-pass --scale-video nan"), &["--scale-video", "must be a number"]),
        wrong_usage(small("forward", "--guidance two-pass --scale-audio inf"), &["--scale-audio"]),
        wrong_usage(small("forward", "--guidance two-pass --scale-audio x"), &["--scale-audio"]),
        wrong_usage(small("forward", "--clip 4x6x4@20"), &["--clip", "4x6x4@20", "4x6x4@21"]),
        wrong_usage(small("forward", "--batch 3"), &["--batch"]),
        wrong_usage(planned("--task v2a"), &["some.cclp", "--task", "joint", "v2a"]),
        wrong_usage(planned("--guidance none"), &["--guidance", "two-pass", "none"]),
        wrong_usage(planned("--dtype bf16"), &["--dtype", "f32", "bf16"]),
        wrong_usage(planned("--clip 5x6x4@21"), &["--clip", "4x6x4@21", "5x6x4@21"]),
        wrong_usage(planned("--batch 1"), &["--batch", "2"]),
        wrong_usage(planned("--text-tokens 9"), &["--text-tokens"]),
        wrong_usage(planned("--validate"), &["--validate"]),
        wrong_usage(planned("--text-scale-video 3"), &["--text-scale-video", "two-pass"]),
        wrong_usage(explained("--task v2a"), &["some.cclp", "--task"]),
        wrong_usage(explained("--clip 5x6x4@21"), &["some.cclp", "--clip"]),
        wrong_usage(explained("").with("--model", case("small")), &["--model", "--plan"]),
        wrong_usage(ccl("explain --task joint").with("--model", case("small")), &["--clip"]),
        failed("a model for a plan", ccl("explain").with("--plan", case("small")), &["small"]),
        failed("no plan", ccl("explain").with("--plan", p.path("absent.cclp")), &["absent.cclp"]),
        failed("a checkpoint", ccl("explain").with("--plan", case("small").join("weights.safetensors")), &["no plan"]),
    ]);
}

#[test]
fn devices_that_are_not_there() {
    let p = Place::new();
    let small = |command: &str, words: &str| on_small(&p, command, words);
    let mut cases = vec![wrong_usage(small("compile", "--clip 4x6x4@21 --target tpu"), &["tpu", "--target", "cpu"])];
    let devices = ccl("devices --json").ok().json();
    let has_cuda = devices.as_array().expect("a list").iter().any(|d| d["backend"] == "cuda");
    if !has_cuda {
        cases.push(failed("cuda", small("forward", "--backend cuda"), &["cuda", "NVIDIA"]));
        cases.push(failed("cuda", small("bench step", "--clip 4x6x4@21 --backend cuda"), &["cuda", "NVIDIA"]));
    }
    p.check(cases);
}

#[test]
fn outputs_that_cannot_be_written() {
    let p = Place::new();
    let small = case("small");
    let file = p.path("file");
    fs::write(&file, "mine").expect("a file");
    let mut cases = Vec::new();
    for (what, path, says) in [
        ("a directory", p.path("out"), "is a directory"),
        ("no parent", p.path("absent/out.safetensors"), "directory does not exist"),
        ("under a file", file.join("out.safetensors"), "cannot write"),
        ("a device", "/dev/null".into(), "no regular file"),
        ("dots", p.path("absent/.."), ""),
    ] {
        let named = path.to_string_lossy().into_owned();
        let says = &[named.as_str(), says];
        let forward = ccl("forward --task joint").on(&small).with("-o", &path);
        let sample = ccl("sample --task joint --steps 2").on(&small).with("-o", &path);
        let compile = ccl("compile --task joint --clip 4x6x4@21").with("--model", &small).with("-o", &path);
        let explain = ccl("explain --task joint --clip 4x6x4@21").with("--model", &small).with("-o", &path);
        cases.extend([forward, sample, compile, explain].map(|c| failed(what, c, says)));
    }
    cases.push(wrong_usage(ccl("forward --task joint").on(&small).with("-o", ""), &["--output"]));
    p.check(cases);
    // A failure leaves what was there, whatever it was about.
    let run = ccl("forward --task joint").with("--model", &small).with("--inputs", &file).with("-o", &file).run();
    run.fails(1, &["file"]);
    assert_eq!(fs::read_to_string(&file).expect("a file"), "mine");
    assert_eq!(entries(file.parent().expect("a directory")), ["file", "out"]);
}
