//! `ccl compile` and `ccl explain` for GPUs, on a machine without one.

use std::process::Output;

use assert_cmd::Command;
use ccl::ir::plan::{BufferRef, EmittedCall};
use serde_json::Value;

const CLIP: &str = "3x4x4@13";

/// Runs `ccl` on the model of a case.
fn ccl(words: &str, more: &[&str]) -> Output {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/small");
    let mut command = Command::cargo_bin("ccl").unwrap();
    command.args(words.split(' ')).args(["--model", model, "--clip", CLIP]).args(more).output().unwrap()
}

fn json(run: &Output) -> Value {
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

/// The one line of an error.
fn error(run: &Output, code: i32) -> String {
    assert_eq!(run.status.code(), Some(code));
    let text = String::from_utf8(run.stderr.clone()).unwrap();
    assert_eq!(text.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{text}");
    text.lines().last().unwrap().into()
}

#[test]
fn a_plan_for_a_gpu_carries_its_kernels() {
    let dir = tempfile::tempdir().unwrap();
    for (target, dtype, language) in
        [("cuda:sm_90a", "bf16", "cuda"), ("cuda", "f32", "cuda"), ("wgpu", "f16", "wgsl"), ("wgpu", "f32", "wgsl")]
    {
        let file = dir.path().join("plan.cclp");
        let out = file.to_str().unwrap();
        let words = format!("compile --task joint --guidance two-pass --target {target} --dtype {dtype}");
        let said = json(&ccl(&words, &["-o", out, "--json"]));
        let count = said["kernels"].as_u64().unwrap();
        assert!(count > 10, "{target} {dtype}: {count} kernels");
        let text = ccl(&words, &["-o", out]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains(&format!("carries {count} kernels for {target}")), "{text}");

        let plan = ccl::runtime::planfile::load(&file).unwrap();
        let kernels = plan.kernels.unwrap();
        assert_eq!((kernels.target.as_str(), kernels.language.as_str()), (target, language));
        assert_eq!(kernels.kernels.len() as u64, count);
        let entry = if language == "cuda" { "__global__ void" } else { "@compute @workgroup_size" };
        assert!(kernels.kernels.iter().all(|k| k.text.contains(entry) && !k.name.is_empty()));
        assert_eq!(plan.about.target, target);
    }
}

/// What is written must not be bound a second time: WebGPU forbids it.
#[test]
fn calls_that_work_in_place_bind_their_buffer_once() {
    let dir = tempfile::tempdir().unwrap();
    for (target, dtype) in [("cuda:sm_90a", "bf16"), ("wgpu", "f32")] {
        let file = dir.path().join("plan.cclp");
        let words = format!("compile --task joint --guidance three-pass --target {target} --dtype {dtype}");
        json(&ccl(&words, &["-o", file.to_str().unwrap(), "--json"]));
        let plan = ccl::runtime::planfile::load(&file).unwrap();
        let (kernels, mut in_place) = (plan.kernels.as_ref().unwrap(), 0);
        for (entry, calls) in &plan.entries {
            for (call, emitted) in calls.iter().zip(&kernels.entries[entry]) {
                let (EmittedCall::Launches(launches), over) = (emitted, plan.in_place(call)) else { continue };
                in_place += usize::from(!over.is_empty());
                let twice = |b: &BufferRef| matches!(b, BufferRef::In(i) if over.contains(&usize::from(*i)));
                assert!(!launches.iter().flat_map(|l| &l.buffers).any(twice), "{target}: {}", call.at);
            }
        }
        assert!(in_place > 1, "{target}: {in_place} calls work in place");
    }
}

#[test]
fn a_plan_for_the_cpu_carries_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.cclp");
    let said = json(&ccl("compile --task joint", &["-o", file.to_str().unwrap(), "--json"]));
    assert_eq!(said["kernels"], 0);
    assert_eq!(ccl::runtime::planfile::load(&file).unwrap().kernels, None);
}

#[test]
fn explain_says_what_the_target_changes() {
    let explain = |more: &[&str]| json(&ccl("explain --task v2a --dtype f16 --format json", more));
    let passes = |report: &Value, pass: &str| {
        let events = report["events"].as_array().unwrap();
        events.iter().filter(|e| e["pass"] == pass).count()
    };
    let (cpu, wgpu) = (explain(&[]), explain(&["--target", "wgpu"]));
    assert_eq!((passes(&cpu, "split"), passes(&cpu, "precision")), (0, 0));
    assert!(passes(&wgpu, "split") > 0 && passes(&wgpu, "precision") > 0);
    assert_eq!((&cpu["carried_kernels"], &cpu["target"]), (&0.into(), &"cpu".into()));
    assert!(wgpu["carried_kernels"].as_u64().unwrap() > 10 && wgpu["target"] == "wgpu");
    let bytes = |report: &Value| report["bytes"]["step"].as_u64().unwrap();
    assert!(bytes(&wgpu) < bytes(&cpu), "half precision moves less");
    let text = String::from_utf8(ccl("explain --task joint --target cuda", &[]).stdout).unwrap();
    assert!(text.contains("the plan carries"), "{text}");
}

#[test]
fn passes_for_a_gpu_hold_against_the_interpreter() {
    for words in ["--target cuda:sm_90a --dtype bf16", "--target wgpu --dtype f16", "--target wgpu --dtype f32"] {
        let run = ccl(&format!("explain --task joint --guidance three-pass --validate {words}"), &[]);
        let log = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success() && log.contains("validated every pass"), "{words}: {log}");
    }
}

#[test]
fn targets_that_cannot_be_are_refused() {
    let run = ccl("explain --task joint --target wgpu --dtype bf16", &[]);
    assert!(error(&run, 2).ends_with("target wgpu has no bf16: use --dtype f16"), "{}", error(&run, 2));
    for target in ["vulkan", "cuda:sm_", "cuda:sm_9", "cuda:90", "wgpu:0", ""] {
        let run = ccl("explain --task joint --target", &[]);
        assert_eq!(run.status.code(), Some(2));
        let run = ccl("explain --task joint", &[&format!("--target={target}")]);
        assert!(error(&run, 2).contains(&format!("--target {target}: there is no such target")), "{}", error(&run, 2));
    }
}
