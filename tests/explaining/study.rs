//! `ccl study`: paired trainings, measures and a page; stopped, it goes on and ends with the same numbers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Ccl, ccl, entries};
use serde_json::Value;

/// A study that is quick and shows nothing: the world's recipe with one block and a few steps.
const SMALL: &str = "study --backend cpu --json --seeds 2 --clips 8 --sample-steps 2 --jobs 2 --set data.world.clips=60 \
    --set data.held_out=4 --set train.batch=4 --set train.steps=12 --set train.log_every=2 --set train.validate_every=6 \
    --set train.checkpoint_every=4 --set model.config.layers=1";

fn study(out: &Path) -> Ccl {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/world/study.toml");
    ccl(SMALL).with("--config", recipe).with("--out", out)
}

#[test]
fn a_study_trains_pairs_measures_arms_and_draws_a_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let run = study(&whole).ok();
    let numbers: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(entries(&whole.join("runs")).len(), 6);
    assert_eq!(entries(&whole.join("measures")).len(), 2 * (5 * 3 + 1));
    assert_eq!(numbers["each"].as_array().expect("a list").len(), 2 * 5 * 3);
    assert_eq!(run.stderr.lines().filter(|l| l.contains("/38: ")).count(), 38, "{}", run.stderr);

    // Pairs: all models of a seed draw the same tasks and learn the same clips; before the first update only the model differs, and what needs no
    // other stream does not.
    let row = |cross: &str, seed: u64| {
        let text = fs::read_to_string(whole.join(format!("runs/{cross}-s{seed}/metrics.jsonl"))).expect("metrics");
        text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line")).collect::<Vec<_>>()
    };
    let names = |rows: &[Value]| {
        rows.iter().map(|r| r.as_object().unwrap().keys().cloned().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    for seed in [0, 1] {
        assert_eq!(names(&row("dense", seed)), names(&row("context", seed)), "seed {seed}: other tasks were drawn");
    }
    assert_ne!(names(&row("dense", 0)), names(&row("dense", 1)));
    // Two arms on one model differ by their guidance alone, and all three do.
    let f1 = |arm: &str| {
        let each = numbers["each"].as_array().expect("a list").iter();
        each.filter(|e| e["arm"] == arm && e["seed"] == 0).map(|e| e["measures"].to_string()).collect::<Vec<_>>()
    };
    assert!(f1("context") != f1("ucg") && f1("ucg") != f1("still"));

    // Two seeds are too few for any claim, and the page says so.
    let claims = numbers["claims"].as_array().expect("a list");
    assert_eq!(claims.len(), 4 * 3 + 2 * 6);
    assert!(claims.iter().all(|c| c["verdict"] == "open" && c["gain"]["n"].as_u64() <= Some(2)));
    let page = fs::read_to_string(whole.join("index.html")).expect("a page");
    for text in
        ["nothing is claimed", "4 + UCG", "fig5-loss.svg", "fig5-paired.svg", "fig6-attention.svg", "too few seeds"]
    {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("NaN") && !page.contains("http-equiv=\"refresh\""));
    for figure in ["fig5-loss.svg", "fig5-paired.svg", "fig6-attention.svg"] {
        assert!(fs::read_to_string(whole.join(figure)).expect("a picture").starts_with("<svg"), "{figure}");
    }
    let shares = &numbers["attention"]["0"]["regions"];
    for region in ["background", "ball", "impact", "burst", "hum"] {
        assert!(shares[region][0].as_f64().is_some_and(|x| x > 0.0 && x < 1.0), "{region}: {shares}");
    }

    // Killed once something is there, it goes on and comes to the same numbers.
    let begin = Instant::now();
    let mut child = study(&stopped)
        .command()
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a run");
    while !stopped.join("index.html").is_file() && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let again = study(&stopped).ok();
    let numbers_again: Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!(numbers, numbers_again);
    // What was done was not done again.
    let third = study(&stopped).ok();
    assert_eq!(third.stdout, again.stdout);
    assert_eq!(third.stderr.lines().filter(|l| l.contains("/38: ")).count(), 0, "{}", third.stderr);
    // The page can be written anew without running anything, and says what is missing.
    fs::remove_dir_all(stopped.join("measures")).expect("removed measures");
    let page = study(&stopped).words("--page").ok();
    let left: Value = serde_json::from_str(&page.stdout).expect("JSON");
    assert_eq!(left["each"].as_array().expect("a list").len(), 0);
    assert!(
        fs::read_to_string(stopped.join("index.html")).expect("a page").contains("0 of 30 measurements</b> are there")
    );
}

#[test]
fn a_study_refuses_what_it_cannot_compare() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let refused = |words: &str, code: i32, text: &str| {
        study(&out).words(words).run().fails(code, &[text]);
        assert!(!out.join("runs").exists(), "{words}");
    };
    refused("--threads 0", 2, "--threads must be at least 1");
    refused("--set model.init=\"somewhere\"", 1, "every arm begins afresh");
    refused("--set model.config.text_dim=16", 1, "`text_dim` is 16");
    refused("--set train.stepz=3", 1, "stepz");
}
