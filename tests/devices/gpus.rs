//! Runs on GPUs: the same plans as `compile --target` makes, the same bytes, and devices that are absent, too small or silent.
//!
//! wgpu runs on any Vulkan driver; the suite installs a software one where there is none.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Ccl, Run, case, ccl, clip_of, inputs, temp_dir};
use ccl::model::{Config, Guidance, Task};
use ccl::planning::{Request, plan};
use ccl::runtime::{Backend, CpuBackend, GpuBackend};
use serde_json::Value;

/// The bytes that a command writes.
fn output(command: Ccl, dir: &Path) -> Vec<u8> {
    let out = dir.join("out.safetensors");
    command.with("-o", &out).ok();
    fs::read(&out).expect("a result")
}

/// Runs a command with variables set.
fn with(variables: &[(&str, &str)], command: &Ccl) -> Run {
    let output = command.command().envs(variables.iter().copied()).output().expect("the program starts");
    Run {
        line: format!("{variables:?}"),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_run_of_a_model_is_planned_as_compile_plans_for_the_target() {
    let (dir, data) = (temp_dir(), case("small"));
    let (clip, batch) = clip_of(&data);
    let spec = "--task joint --guidance two-pass --dtype f16";
    let plan = dir.path().join("plan.cclp");
    let compiled = |target: &str| {
        let run = ccl(&format!("compile {spec} --target {target} --batch {batch}")).with("--model", &data);
        run.with("--clip", &clip).with("-o", &plan).words("--json").ok().json()
    };
    for run in ["forward", "sample --steps 2"] {
        let model = ccl(run).words(&format!("{spec} --backend wgpu")).on(&data);
        let of_model = output(model, dir.path());
        let of_plan = || {
            output(ccl(run).words("--backend wgpu").with("--plan", &plan).with("--inputs", inputs(&data)), dir.path())
        };
        compiled("wgpu");
        assert!(of_plan() == of_model, "{run}");
        // A plan for the cpu keeps its tokens in f32.
        compiled("cpu");
        assert!(of_plan() != of_model, "{run}");
    }
    let bench = |backend: &str| {
        let run = ccl(&format!("bench step {spec} --steps 1 --repeat 1 --json --backend {backend} --batch {batch}"));
        run.with("--model", &data).with("--clip", &clip).ok().json()["planned_bytes"].clone()
    };
    let planned = ["wgpu", "cpu"].map(|target| compiled(target)["peak_bytes"].clone());
    assert_eq!(["wgpu", "cpu"].map(bench), planned);
    assert_ne!(planned[0], planned[1]);
}

#[test]
fn keys_are_split_by_the_parallelism_of_the_device() {
    let gpu = GpuBackend::wgpu(0).unwrap_or_else(|e| panic!("{e}"));
    let target = gpu.target().expect("a GPU has one").clone();
    let parallelism = target.parallelism;
    let text = fs::read_to_string(case("small").join("config.json")).expect("a configuration");
    let config = Config::from_json(&text).expect("a configuration");
    // Frames of many tokens: enough keys to deal out.
    let mut request = Request::new(&config, Task::V2a, Guidance::None, "2x32x32@9".parse().expect("a clip"));
    request.gpu = Some(target);
    let planned = plan(&config, &request).unwrap_or_else(|e| panic!("{e}"));
    let events = planned.report.events.iter().filter(|e| e.pass == "split");
    let said: Vec<&str> = events.map(|e| e.reason.as_str()).collect();
    assert!(!said.is_empty() && said.iter().all(|s| s.contains(&format!("parallelism of {parallelism}"))), "{said:?}");
    let cpu = CpuBackend::new(Some(1)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(cpu.target(), None);
}

#[test]
fn one_device_gives_the_same_bytes_again() {
    let (dir, data) = (temp_dir(), case("small"));
    for dtype in ["f32", "f16"] {
        let spec = format!("sample --task joint --guidance three-pass --steps 2 --dtype {dtype} --backend wgpu");
        let run = || output(ccl(&spec).on(&data), dir.path());
        assert!(run() == run(), "{dtype}");
    }
}

#[test]
fn a_machine_without_a_driver_says_so() {
    // Vulkan's loader finds no driver where these name none.
    let none = [("VK_ICD_FILENAMES", "/nowhere.json"), ("VK_DRIVER_FILES", "/nowhere.json")];
    let (dir, data) = (temp_dir(), case("small"));
    let forward = |backend: &str| {
        let run = ccl(&format!("forward --task joint --backend {backend}")).on(&data);
        run.with("-o", dir.path().join("out.safetensors"))
    };
    with(&none, &forward("wgpu")).fails(1, &["backend wgpu", "no adapter", "mesa-vulkan-drivers"]);
    let auto = with(&none, &forward("auto"));
    assert_eq!(auto.code, Some(0), "{auto:?}");
    let devices = with(&none, &ccl("devices"));
    assert!(devices.code == Some(0) && devices.stdout.contains("cpu: "), "{devices:?}");
    assert!(devices.stdout.contains("no adapter") || devices.stderr.contains("no adapter"), "{devices:?}");
}

/// The 14B model's sizes.
const LARGE: &str = r#"{"video": {"dim": 5120, "ffn_dim": 13824, "heads": 40, "in_channels": 16, "out_channels": 16, "patch": [1, 2, 2]},
    "audio": {"dim": 1536, "ffn_dim": 8960, "heads": 12, "in_channels": 20, "out_channels": 20, "patch": [1]}, "layers": 40}"#;

#[test]
fn a_plan_that_is_too_large_is_refused_before_anything_is_loaded() {
    let dir = temp_dir();
    fs::write(dir.path().join("config.json"), LARGE).expect("a file");
    let begin = Instant::now();
    // Beyond a device's buffers, and beyond what kernels count to.
    for (clip, batch) in [("21x44x80@158", 16), ("2101x88x160@15758", 64)] {
        let run = ccl(&format!("bench step --random-weights --task joint --clip {clip} --batch {batch} --dtype f16"));
        run.words("--backend wgpu").with("--model", dir.path()).run().fails(1, &["take a smaller clip or batch"]);
    }
    assert!(begin.elapsed() < Duration::from_secs(120));
}

#[test]
fn a_device_that_does_not_answer_ends_the_run() {
    let (dir, data) = (temp_dir(), case("small"));
    let run = ccl("forward --task joint --backend wgpu").on(&data).with("-o", dir.path().join("out.safetensors"));
    let begin = Instant::now();
    let run = with(&[("CCL_GPU_TIMEOUT", "0.000001")], &run);
    run.fails(1, &["has not answered", "CCL_GPU_TIMEOUT"]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(!dir.path().join("out.safetensors").exists());
}

#[test]
fn devices_lists_what_a_gpu_can_do() {
    let devices = ccl("devices --json").ok().json();
    let list = devices.as_array().expect("a list");
    let gpu = list.iter().find(|d| d["backend"] == "wgpu").unwrap_or_else(|| panic!("no wgpu device: {devices}"));
    let types: Vec<&str> = gpu["element_types"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(types.contains(&"f32") && !gpu["limits"].as_array().expect("a list").is_empty(), "{gpu}");
}
