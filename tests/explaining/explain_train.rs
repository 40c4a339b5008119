//! `ccl explain --train`: a training step by phase and stream, what has no backward pass, and what a budget of memory costs and saves.

use std::collections::BTreeMap;
use std::fs;

use crate::common::page::Page;
use crate::common::{Ccl, case, ccl, temp_dir};
use serde_json::Value;

fn small(words: &str) -> Ccl {
    ccl("explain --train --clip 4x6x4@21 --batch 2 --text-tokens 6").with("--model", case("small")).words(words)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no whole number: {value}"))
}

/// FLOPs by phase and stream.
fn shares(json: &Value) -> BTreeMap<(String, String), u64> {
    let of = |s: &Value, field: &str| s[field].as_str().expect("a text").to_owned();
    let list = json["training"]["shares"].as_array().expect("a list");
    list.iter().map(|s| ((of(s, "phase"), of(s, "stream")), number(&s["flops"]))).collect()
}

fn total(json: &Value) -> u64 {
    ["load", "prologue", "step", "epilogue"].iter().map(|entry| number(&json["flops"][entry])).sum()
}

#[test]
fn the_phases_are_the_whole_step() {
    for task in ["t2v", "t2a", "t2av", "a2v", "v2a", "joint"] {
        let json = small(&format!("--json --task {task}")).ok().json();
        assert_eq!(json["task"], task);
        assert_eq!(json, small(&format!("--json --task {task}")).ok().json(), "the same plan every time");
        let shares = shares(&json);
        assert_eq!(shares.values().sum::<u64>(), total(&json), "{task}");
        let of = |phase: &str| shares.iter().filter(|((p, _), _)| p == phase).map(|(_, n)| n).sum::<u64>();
        // Gradients of inputs and of weights: twice the forward pass, less for what is no parameter's.
        let (forward, backward) = (of("forward"), of("backward"));
        assert!(forward > 0 && backward > forward / 2 && backward < 3 * forward, "{task}: {forward} and {backward}");
        assert_eq!(of("again"), 0, "{task}");
        assert!(json["training"]["rematerialised"].is_null(), "{task}: no budget was given");
        let passes = json["training"]["passes"].as_array().expect("a list");
        let told: Vec<&str> = passes.iter().filter_map(Value::as_str).collect();
        assert!(told.iter().any(|s| s.starts_with("differentiate: the backward pass to ")), "{told:?}");
        assert!(told.iter().any(|s| s.starts_with("optimise: AdamW on ")), "{told:?}");
    }
    let sampling = ccl("explain --json --task joint --clip 4x6x4@21").with("--model", case("small")).ok().json();
    assert!(sampling.get("training").is_none());
}

#[test]
fn a_reference_has_no_backward_pass() {
    for (task, reference) in [("a2v", Some("audio")), ("v2a", Some("video")), ("joint", None), ("t2av", None)] {
        let json = small(&format!("--json --task {task}")).ok().json();
        let want: Vec<&str> = reference.into_iter().collect();
        assert_eq!(json["training"]["without_backward"], Value::from(want), "{task}");
        let text = small(&format!("--task {task}")).ok().stdout;
        let page = Page::new(small(&format!("--format html --task {task}")).ok().stdout);
        page.is_well_formed();
        page.loads_nothing();
        match reference {
            Some(stream) => {
                let backward = shares(&json).get(&("backward".into(), stream.into())).copied();
                assert_eq!(backward, None, "{task}");
                assert!(shares(&json)[&("forward".into(), stream.into())] > 0, "{task}: it is read all the same");
                let sentence = format!("the {stream} stream has no backward pass");
                assert!(text.contains(&sentence) && page.section("training").contains(&sentence), "{text}");
            }
            None => assert!(!text.contains("no backward pass"), "{text}"),
        }
    }
}

#[test]
fn a_budget_says_what_it_costs_and_saves() {
    let all = small("--json --task joint").ok().json();
    let peak = number(&all["peak_bytes"]);
    let with = |bytes: u64, words: &str| small(words).with("--memory", bytes.to_string());

    let enough = with(peak, "--json --task joint").ok().json();
    let kept = &enough["training"]["rematerialised"];
    assert_eq!((number(&kept["blocks"]), number(&kept["cost_flops"]), number(&kept["saved_peak_bytes"])), (0, 0, 0));

    // One byte too few: the fewest blocks that save it.
    let json = with(peak - 1, "--json --task joint").ok().json();
    let r = &json["training"]["rematerialised"];
    assert!(number(&json["peak_bytes"]) < peak);
    assert_eq!((number(&r["blocks"]), number(&r["of"]), number(&r["budget"])), (1, 2, peak - 1));
    assert_eq!(number(&r["kept_peak_bytes"]), peak);
    assert_eq!(number(&r["kept_flops"]), total(&all));
    assert_eq!(number(&r["saved_peak_bytes"]), peak - number(&json["peak_bytes"]));
    let cost = number(&r["cost_flops"]);
    assert!(cost > 0 && total(&json) - total(&all) == cost);
    let again: u64 = shares(&json).iter().filter(|((p, _), _)| p == "again").map(|(_, n)| n).sum();
    assert_eq!(again, cost, "what is done twice is all that is more");

    let text = with(peak - 1, "--task joint").ok().stdout;
    for word in ["computed again", "1 of 2 blocks", "less memory at the peak", "rematerialise: block"] {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    let page = Page::new(with(peak - 1, "--format html --task joint").ok().stdout);
    page.is_well_formed();
    assert!(page.section("training").contains("1 of 2 blocks"));
    assert!(page.section("top").contains("of it once more"), "{}", page.section("top"));
    with(1, "--task joint").run().fails(1, &["a training step needs", "the budget is 1 B"]);
}

#[test]
fn wrong_uses_say_what_is_right() {
    small("--task joint --guidance two-pass").run().fails(2, &["--train", "leave --guidance"]);
    small("--task joint --dtype bf16").run().fails(2, &["--train", "--dtype"]);
    small("--task joint --validate").run().fails(2, &["ccl grad --validate"]);
    small("--task joint --target cuda").run().fails(2, &["--target"]);
    let sampling = ccl("explain --task joint --clip 4x6x4@21 --memory 5").with("--model", case("small"));
    sampling.run().fails(2, &["--train"]);
    small("").run().fails(2, &["--task"]);
}

/// The 14B model from its configuration alone: planning it for training takes no weights and little memory.
#[test]
fn the_14b_model_is_planned_for_training() {
    let dir = temp_dir();
    fs::write(dir.path().join("config.json"), crate::common::WAN_14B).expect("a configuration");
    let explain = |words: &str| {
        ccl("explain --train --json --clip 21x44x80@158").words(words).with("--model", dir.path()).memory(1_500_000_000)
    };
    let joint = explain("--task joint").ok().json();
    let tera = |json: &Value, phase: &str| {
        let of = shares(json).iter().filter(|((p, _), _)| p == phase).map(|(_, n)| *n as f64).sum::<f64>();
        of / 1e12
    };
    let (forward, backward) = (tera(&joint, "forward"), tera(&joint, "backward"));
    println!("joint: {forward:.1} TFLOP forward, {backward:.1} backward, peak {}", joint["peak_bytes"]);
    assert!(forward > 700.0 && backward > 2.0 * forward && backward < 2.6 * forward, "{forward} and {backward}");
    // The audio stream is small beside what reading it costs the video stream.
    let a2v = explain("--task a2v").ok().json();
    assert_eq!(a2v["training"]["without_backward"], Value::from(vec!["audio"]));
    assert!(tera(&a2v, "backward") < backward);
}
