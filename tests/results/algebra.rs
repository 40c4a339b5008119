//! The compiler's algebra from outside: results with every rule, the same plan every time, prices from files, the guilty rewrite by name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ccl, case, ccl, clip_of, diffusers, inputs, temp_dir, tensors};

fn cases() -> Vec<PathBuf> {
    let ours = ["small", "image", "shifted", "head128"].map(case);
    ours.into_iter().chain(["wan-t2v", "wan-i2v"].map(diffusers)).collect()
}

fn verify(case: &Path, options: &str) -> Ccl {
    ccl("verify --json").on(case).with("--expected", case.join("expected.safetensors")).words(options)
}

#[test]
fn every_case_agrees_with_every_rule() {
    // Small models are too small for most rules to pay: `always` applies them all the same.
    for rules in ["always", "all", "exact", "none"] {
        for case in cases() {
            let run = verify(&case, &format!("--backend cpu --threads 2 --rules {rules} --tolerance 2e-5")).ok();
            assert_eq!(run.json()["ok"], true, "{} with {rules}: {}", case.display(), run.stdout);
        }
    }
    for case in ["small", "head128"].map(case) {
        verify(&case, "--backend wgpu --rules always --tolerance 1e-4").ok();
    }
}

#[test]
fn half_weights_go_through_every_rule() {
    verify(&case("head128"), "--backend cpu --dtype bf16 --rules always --tolerance 2e-2").ok();
}

#[test]
fn exact_rules_change_next_to_nothing() {
    let (dir, case) = (temp_dir(), case("small"));
    let forward = |rules: &str| {
        let out = dir.path().join(format!("{rules}.safetensors"));
        let run = ccl("forward --task joint --guidance two-pass --backend cpu").on(&case).with("-o", &out);
        run.words("--rules").words(rules).ok();
        tensors::read(&out)
    };
    let (off, exact) = (forward("none"), forward("exact"));
    for (name, want) in &off {
        let (mut error, mut size) = (0.0f64, 0.0f64);
        for (a, b) in exact[name].data.iter().zip(&want.data) {
            error += f64::from(a - b).powi(2);
            size += f64::from(*b).powi(2);
        }
        assert!((error / size).sqrt() <= 2e-5, "{name}: {:e}", (error / size).sqrt());
    }
}

#[test]
fn the_same_request_gives_the_same_plan() {
    let (dir, case) = (temp_dir(), case("head128"));
    let (clip, _) = clip_of(&case);
    let plan = |n: usize, words: &str| {
        let out = dir.path().join(format!("{n}.cclp"));
        ccl("compile --task joint --guidance two-pass")
            .with("--model", &case)
            .with("--clip", &clip)
            .words(words)
            .with("-o", &out)
            .ok();
        fs::read(out).expect("a plan")
    };
    for words in ["", "--rules always", "--device-spec h200 --target cuda"] {
        assert!(plan(0, words) == plan(1, words), "{words}");
    }
    assert!(plan(0, "--rules none") != plan(1, "--rules always"));
}

#[test]
fn rules_can_be_left_out_one_by_one() {
    let case = case("small");
    let (clip, _) = clip_of(&case);
    let used = |words: &str| -> Vec<String> {
        let run = ccl("explain --task joint --json --rules always").with("--model", &case).with("--clip", &clip);
        let events = run.words(words).ok().json()["events"].as_array().expect("a list").clone();
        let of = events.iter().filter(|e| e["pass"] == "algebra" && e["applied"] == true);
        of.map(|e| e["rule"].as_str().expect("a name").to_string()).collect()
    };
    assert!(used("").iter().any(|r| r == "absorb output"));
    let without = used("--disable-rule absorb-output");
    assert!(!without.iter().any(|r| r == "absorb output") && without.iter().any(|r| r == "project after attention"));
}

#[test]
fn prices_come_from_a_file() {
    let dir = temp_dir();
    let file = dir.path().join("this.toml");
    ccl("bench calibrate --quick --backend cpu").with("-o", &file).ok();
    let text = fs::read_to_string(&file).expect("a specification");
    assert!(text.contains("bandwidth") && text.contains("matrix_flops"), "{text}");
    let explain = |spec: &Path| {
        ccl("explain --task joint --clip 4x6x4@21").with("--model", case("small")).with("--device-spec", spec)
    };
    explain(&file).ok();
    let json = ccl("bench calibrate --quick --backend cpu --json").ok().json();
    assert!(json["matrix_flops"]["f32"].as_f64().is_some_and(|f| f > 1e8), "{json}");

    fs::write(&file, text.replace("bandwidth", "bandwith")).expect("written");
    explain(&file).run().fails(2, &["--device-spec", "bandwith"]);
    explain(&dir.path().join("nothing.toml")).run().fails(2, &["--device-spec", "nothing.toml", "cannot read"]);
    let small =
        |words: &str| ccl("explain --task joint --clip 4x6x4@21").with("--model", case("small")).words(words).run();
    small("--rules some").fails(2, &["--rules", "none, exact, all"]);
    small("--disable-rule dance").fails(2, &["--disable-rule", "dance", "absorb output"]);
    small("--enable-lossy-rule absorb-output").fails(2, &["--enable-lossy-rule", "rounds nothing"]);
}

#[test]
fn a_sound_compilation_has_no_guilty_rewrite() {
    let case = case("small");
    let run =
        ccl("bisect --task joint --guidance two-pass --backend cpu --json").on(&case).words("--rules always").ok();
    let found = run.json();
    assert!(found["guilty"].is_null() && found["rewrites"].as_u64().is_some_and(|n| n > 50), "{found}");
    // Rounding alone is a difference where none is allowed: some rewrite is named.
    let run = ccl("bisect --task joint --backend cpu --json --tolerance 0").on(&case).words("--rules always").run();
    assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
    assert!(run.json()["guilty"]["rule"].is_string() && run.stderr.contains("changes `velocity."), "{}", run.stderr);
    let text = ccl("bisect --task t2a --backend cpu").with("--model", &case).with("--inputs", inputs(&case)).ok();
    assert!(text.stdout.contains("no rewrite changes a result"), "{}", text.stdout);
}
