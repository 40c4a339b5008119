//! `ccl explain`: work and memory of the 14B model as CLI.md promises them, what the events name, and the other formats.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Instant;

use crate::common::{Ccl, case, ccl, temp_dir};
use serde_json::Value;

const TASKS: [&str; 6] = ["t2v", "t2a", "t2av", "a2v", "v2a", "joint"];
const FORMS: [&str; 5] = ["none", "text", "two-pass", "three-pass", "modality-drop"];
const ENTRIES: [&str; 4] = ["load", "prologue", "step", "epilogue"];
const CLIP: &str = "21x44x80@158";

/// What `explain` says of the 14B model, from its configuration alone and with less than 1 GB, for every task and guidance.
static WAN_14B: LazyLock<BTreeMap<(&str, &str), Value>> = LazyLock::new(|| {
    let dir = temp_dir();
    fs::write(dir.path().join("config.json"), crate::common::WAN_14B).expect("a configuration");
    let mut all = BTreeMap::new();
    for task in TASKS {
        for guidance in FORMS {
            let words = format!("explain --format json --task {task} --guidance {guidance} --clip {CLIP}");
            let begin = Instant::now();
            let run = ccl(&words).with("--model", dir.path()).memory(1_000_000_000).ok();
            // For the eye: what a machine takes is not the suite's business.
            println!("{task:<5} {guidance:<14} planned in {:.2} s", begin.elapsed().as_secs_f64());
            all.insert((task, guidance), run.json());
        }
    }
    all
});

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no whole number: {value}"))
}

#[test]
fn every_promised_field_is_there() {
    for ((task, guidance), e) in &*WAN_14B {
        assert_eq!(e["task"], *task);
        assert_eq!(e["guidance"], *guidance);
        assert_eq!((&e["clip"], &e["batch"]), (&CLIP.into(), &1.into()));
        assert_eq!((&e["target"], &e["dtype"]), (&"cpu".into(), &"f32".into()));
        for entry in ENTRIES {
            for field in ["flops_before", "flops", "bytes"] {
                number(&e[field][entry]);
            }
            assert!(entry == "step" || number(&e["flops_before"][entry]) == 0, "nothing is hoisted before the passes");
        }
        let kernels = e["kernels"].as_array().expect("a list");
        for field in ["flops", "bytes"] {
            let sum: u64 = kernels.iter().map(|k| number(&k[field])).sum();
            let entries: u64 = ENTRIES.iter().map(|entry| number(&e[field][entry])).sum();
            assert_eq!(sum, entries, "{task} {guidance}: {field} of the kernels and of the entries");
        }
        assert!(kernels.iter().all(|k| k["name"].is_string() && number(&k["count"]) > 0));
        let events = e["events"].as_array().expect("a list");
        for event in events {
            let texts = ["pass", "rule", "at", "reason"];
            assert!(texts.iter().all(|t| event[t].as_str().is_some_and(|s| !s.is_empty())), "{event}");
            assert!(event["applied"].is_boolean(), "{event}");
            assert!(["flops_delta", "bytes_delta"].iter().all(|d| event[d].is_i64()), "{event}");
        }
        assert!(events.iter().any(|event| event["applied"] == false), "refusals are events too");
    }
}

#[test]
fn work_is_what_the_model_says() {
    let tera = |task, field: &str| number(&WAN_14B[&(task, "none")][field]["step"]) as f64 / 1e12;
    for (task, want) in [("joint", 833.8), ("a2v", 810.5), ("v2a", 833.3), ("t2v", 809.1), ("t2a", 0.86)] {
        let got = tera(task, "flops_before");
        assert!((got / want - 1.0).abs() < 0.015, "{task}: {got} TFLOP, {want} wanted");
    }
    assert!(tera("v2a", "flops") < 20.0, "the video stream of v2a runs once per clip");
    for ((task, guidance), e) in &*WAN_14B {
        let (before, after) = (number(&e["flops_before"]["step"]), number(&e["flops"]["step"]));
        assert!(0 < after && after < before, "{task} {guidance}: a step from {before} to {after}");
    }
    // Two prompts: twice the work of one.
    let two = number(&WAN_14B[&("t2v", "text")]["flops_before"]["step"]) as f64 / 1e12;
    assert!((two / tera("t2v", "flops_before") - 2.0).abs() < 0.01, "{two}");
}

#[test]
fn memory_is_near_its_lower_bound() {
    for ((task, guidance), e) in &*WAN_14B {
        let (peak, bound) = (number(&e["peak_bytes"]), number(&e["live_lower_bound_bytes"]));
        assert!(peak >= bound, "{task} {guidance}: {peak} bytes, less than the bound {bound}");
        assert!(peak as f64 <= 1.25 * bound as f64, "{task} {guidance}: {peak} bytes, the bound is {bound}");
        assert!(number(&e["weight_bytes"]) < peak);
    }
    // The audio stream alone does not pay for the video stream's weights.
    let weights = |task| number(&WAN_14B[&(task, "none")]["weight_bytes"]);
    assert!(weights("t2a") < weights("joint") / 8);
}

#[test]
fn events_name_what_moved_and_what_died() {
    let e = &WAN_14B[&("v2a", "none")];
    let find = |rule: &str, at: &str| {
        let hit = |v: &&Value| v["rule"] == rule && v["at"] == at && v["applied"] == true;
        let events = e["events"].as_array().expect("a list");
        events.iter().find(hit).unwrap_or_else(|| panic!("no event `{rule}` at {at}"))
    };
    for block in [0, 17, 39] {
        let event = find("to prologue", &format!("cond/video.blocks.{block}.self_attn"));
        assert!(event["flops_delta"].as_i64().expect("a number") < -10_000_000_000_000);
        assert!(event["reason"].as_str().expect("a reason").contains("once per clip"));
    }
    // Nobody reads what the last block and the head of the video stream make.
    for at in ["cond/video.blocks.39.cca", "cond/video.blocks.39.ffn", "cond/video.head"] {
        assert!(find("dead code", at)["flops_delta"].as_i64().expect("a number") < 0, "{at}");
    }
    find("dead weight", "video.blocks.39.ffn");
    find("dead weight", "video.head");
    find("PartitionedContextAttention", "cond/audio.blocks.0.cca");
}

fn small(options: &str) -> Ccl {
    ccl("explain --task joint --guidance two-pass --clip 4x6x4@21").with("--model", case("small")).words(options)
}

#[test]
fn text_is_for_people() {
    let text = small("").ok().stdout;
    for word in
        ["joint for clip 4x6x4@21", "prologue", "memory", "weights", "kernels", "what the passes did", "refused"]
    {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    let all = small("--events").ok().stdout;
    assert!(all.lines().count() > 2 * text.lines().count());
    assert_eq!(small("--json").ok().json(), small("--format json").ok().json());
    // Into a file, and nothing on standard output.
    let dir = temp_dir();
    let file = dir.path().join("plan.txt");
    let run = small("").with("-o", &file).ok();
    assert_eq!((run.stdout.as_str(), fs::read_to_string(file).expect("a file").trim_end()), ("", text.trim_end()));
}

#[test]
fn dot_is_a_graph() {
    for task in TASKS {
        let words = format!("explain --format dot --task {task} --clip 4x6x4@21");
        let dot = ccl(&words).with("--model", case("small")).ok().stdout;
        assert!(dot.starts_with("digraph plan {") && dot.trim_end().ends_with('}'));
        assert_eq!(dot.matches('{').count(), dot.matches('}').count());
        assert!(dot.lines().all(|l| l.matches('"').count().is_multiple_of(2)), "an open quote");
        let (edges, rest): (Vec<&str>, Vec<&str>) = dot.lines().map(str::trim).partition(|l| l.contains(" -> "));
        let nodes: BTreeSet<&str> = rest.iter().filter_map(|l| l.split_once(" [label=")).map(|(id, _)| id).collect();
        assert!(edges.len() > nodes.len() / 2, "{task}");
        for edge in edges {
            let ends = edge.trim_end_matches(';').split(" -> ");
            assert!(ends.clone().count() == 2 && ends.clone().all(|id| nodes.contains(id)), "{task}: {edge}");
        }
    }
}

/// `ccl explain | head`, and the same for standard error.
#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child =
        small("--events").command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");

    let dir = temp_dir();
    let out = dir.path().join("out.safetensors");
    let sample = ccl("sample --task t2a --steps 20").on(&case("small")).with("-o", &out);
    let mut child = sample.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    drop(child.stderr.take());
    assert!(child.wait_with_output().expect("an end").status.success());
    assert!(out.is_file(), "the work goes on when nobody reads its progress");
}
