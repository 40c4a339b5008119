//! The `cuda` backend: compiled plans, the compiler's absence, the cache of kernels, budgets of memory.
//!
//! On a machine without an NVIDIA GPU it runs on softcuda, which interprets PTX: `./test.sh` builds it.

use std::fs;
use std::path::Path;

use crate::common::{Ccl, Run, case, ccl, clip_of, cuda, inputs, temp_dir, tensors};

/// A small task, so that an interpreter is done in seconds.
const SPEC: &str = "--task t2a --guidance none --dtype bf16";

/// What says that there is no compiler: a directory that must have it, and has not.
fn without_nvrtc(run: Ccl, cache: &Path) -> Ccl {
    run.env("CCL_NVRTC_DIR", "/nowhere").env("CCL_CACHE_DIR", &cache.to_string_lossy())
}

fn forward(data: &Path, out: &Path) -> Ccl {
    ccl(&format!("forward {SPEC} --backend cuda")).on(data).with("-o", out)
}

fn compile(data: &Path, out: &Path) -> Ccl {
    let (clip, batch) = clip_of(data);
    let run = ccl(&format!("compile {SPEC} --target cuda:sm_90a --batch {batch}"));
    run.with("--model", data).with("--clip", clip).with("-o", out)
}

fn of_plan(plan: &Path, data: &Path, out: &Path) -> Ccl {
    ccl("forward --backend cuda").with("--plan", plan).with("--inputs", inputs(data)).with("-o", out)
}

#[test]
fn a_compiled_plan_needs_no_compiler() {
    if cuda().is_none() {
        return;
    }
    let (dir, data) = (temp_dir(), case("small"));
    let [plan, out, cache] = ["plan.cclp", "out.safetensors", "cache"].map(|name| dir.path().join(name));
    let said = compile(&data, &plan).ok();
    assert!(said.stdout.contains("compiled for sm_90a by NVRTC"), "{}", said.stdout);
    let kernels = ccl::runtime::planfile::load(&plan).expect("a plan").kernels.expect("kernels");
    assert!(kernels.compiled.is_some() && kernels.kernels.iter().all(|k| k.code.is_some()));

    without_nvrtc(of_plan(&plan, &data, &out), &cache).ok();
    let of_compiled = tensors::read(&out);
    // It was not from the cache, and nothing was compiled into it.
    assert!(!cache.exists());
    // Planned for the device at hand, which may deal the work out in other parts.
    forward(&data, &out).ok();
    let name = "velocity.audio";
    let off = tensors::relative_l2(&of_compiled[name], &tensors::read(&out)[name]);
    assert!(off < 2e-2, "{off:e}");
}

#[test]
fn without_a_compiler_runs_say_what_to_do_and_plans_carry_texts() {
    let (dir, data) = (temp_dir(), case("small"));
    let [plan, out, cache] = ["plan.cclp", "out.safetensors", "cache"].map(|name| dir.path().join(name));
    let said = without_nvrtc(compile(&data, &plan), &cache).ok();
    let advice =
        ["NVRTC, which compiles CUDA kernels, was not found", "CCL_NVRTC_DIR", "ccl compile --target cuda:sm_90a"];
    assert!(advice.iter().all(|a| said.stderr.contains(a)) && said.stderr.lines().count() == 1, "{}", said.stderr);
    let kernels = ccl::runtime::planfile::load(&plan).expect("a plan").kernels.expect("kernels");
    assert!(kernels.compiled.is_none() && kernels.kernels.iter().all(|k| k.code.is_none() && !k.text.is_empty()));
    if cuda().is_some() {
        without_nvrtc(of_plan(&plan, &data, &out), &cache).run().fails(1, &advice);
        without_nvrtc(forward(&data, &out), &cache).run().fails(1, &advice);
        assert!(!out.exists());
    }
}

#[test]
fn kernels_are_kept_from_run_to_run_and_damaged_ones_are_made_anew() {
    if cuda().is_none() {
        return;
    }
    let (dir, data) = (temp_dir(), case("small"));
    let [out, cache] = ["out.safetensors", "cache"].map(|name| dir.path().join(name));
    let run = |more: fn(Ccl) -> Ccl| -> (Vec<u8>, Run) {
        let run = more(forward(&data, &out).env("CCL_CACHE_DIR", &cache.to_string_lossy())).ok();
        (fs::read(&out).expect("a result"), run)
    };
    let (first, _) = run(|r| r);
    let kernels: Vec<_> =
        fs::read_dir(cache.join("kernels")).expect("a cache").map(|f| f.expect("a file").path()).collect();
    assert!(kernels.len() > 10);
    let damaged = fs::read(&kernels[0]).expect("a kernel");
    fs::write(&kernels[0], &damaged[..damaged.len() - 1]).expect("damage");
    let (again, said) = run(|r| r);
    assert!(again == first && said.stderr.contains("is damaged and is compiled anew"), "{}", said.stderr);
    assert!(fs::read(&kernels[0]).expect("a kernel") == damaged);
    assert_eq!(fs::read_dir(cache.join("kernels")).expect("a cache").count(), kernels.len());
}

#[test]
fn a_budget_of_memory_changes_no_byte() {
    if cuda().is_none() {
        return;
    }
    let (dir, data) = (temp_dir(), case("small"));
    let out = dir.path().join("out.safetensors");
    // Steps that are launched, recorded and replayed.
    let sample = |budget: &str| {
        let run = ccl(&format!("sample {SPEC} --steps 3 --backend cuda {budget}")).on(&data).with("-o", &out);
        run.ok();
        fs::read(&out).expect("a result")
    };
    let whole = sample("");
    let (clip, batch) = clip_of(&data);
    let bench = |budget: u64| {
        let run = ccl(&format!("bench step {SPEC} --backend cuda --batch {batch} --steps 1 --repeat 1 --json"));
        run.with("--model", &data).with("--clip", &clip).words(&format!("--memory-budget {budget}"))
    };
    let refused = bench(1000).run();
    refused.fails(2, &["--memory-budget", "are not enough for this plan: it takes at least"]);
    let (_, least) = refused.stderr.split_once("it takes at least ").expect("a size");
    let size: Vec<&str> = least.split([' ', ',']).take(2).collect();
    // One digit more than is said.
    let least = size[0].parse::<f64>().expect("a number") + 0.05;
    assert!(sample(&format!("--memory-budget {least:.3}{}", size[1])) == whole);
    assert!(sample("--memory-budget 1TiB") == whole);

    let bytes = (least * if size[1] == "MB" { 1e6 } else { 1e3 }) as u64;
    let run = bench(bytes).ok().json();
    assert!(run["resident_bytes"].as_u64().is_some_and(|b| b <= bytes), "{run}");
    assert!(run["copies"]["bytes"].as_u64().is_some_and(|b| b > 0), "{run}");
    assert!(run["copies"]["seconds"].as_f64().is_some_and(|s| s > 0.0) && run["copies"]["hidden"].is_number(), "{run}");
    assert!(bench(1 << 40).ok().json()["copies"].is_null());
}

#[test]
fn a_driver_that_records_nothing_changes_no_byte() {
    let Some(device) = cuda() else { return };
    if !device.software {
        eprintln!("NOT RUN: only a software driver can be told to refuse");
        return;
    }
    let (dir, data) = (temp_dir(), case("small"));
    let out = dir.path().join("out.safetensors");
    let sample = |more: fn(Ccl) -> Ccl| {
        let run = more(ccl(&format!("sample {SPEC} --steps 3 --backend cuda")).on(&data).with("-o", &out)).ok();
        (fs::read(&out).expect("a result"), run.stderr)
    };
    let (recorded, quiet) = sample(|r| r);
    let (one_by_one, said) = sample(|r| r.env("SOFTCUDA_CAPTURE", "refuse"));
    assert!(one_by_one == recorded);
    let warning = "not recorded, its calls run one by one";
    assert!(said.contains(warning) && !quiet.contains(warning), "{said}");
}

#[test]
fn kernels_that_begin_early_change_no_byte() {
    let Some(device) = cuda() else { return };
    if !device.software {
        eprintln!("NOT RUN: only a software driver says how kernels were launched");
        return;
    }
    let (dir, data) = (temp_dir(), case("small"));
    let [out, stats] = ["out.safetensors", "stats"].map(|name| dir.path().join(name));
    let sample = |more: fn(Ccl) -> Ccl| {
        let run = ccl(&format!("sample {SPEC} --steps 3 --backend cuda")).on(&data).with("-o", &out);
        let run = more(run.env("SOFTCUDA_STATS", &stats.to_string_lossy())).ok();
        // Nothing runs call by call.
        assert!(!run.stderr.contains("its calls run one by one"), "{}", run.stderr);
        let said = fs::read_to_string(&stats).expect("statistics");
        fs::remove_file(&stats).expect("a file");
        let early = said.lines().filter(|line| line.contains("\"early\":true")).count();
        (fs::read(&out).expect("a result"), early, said.lines().count())
    };
    let (whole, early, all) = sample(|r| r);
    // All but the first of each entry, and those behind a copy.
    assert!(5 * early > 4 * all, "{early} of {all}");
    let without = [|r: Ccl| r.env("CCL_OVERLAP", "0"), |r: Ccl| r.env("SOFTCUDA_OVERLAP", "refuse")];
    for refused in without {
        let (bytes, some, _) = sample(refused);
        assert!(bytes == whole && some == 0, "{some}");
    }
    // What is recorded is recorded again with each kernel behind the end of the last.
    for refused in [|r: Ccl| r.env("SOFTCUDA_OVERLAP", "capture"), |r: Ccl| r.env("SOFTCUDA_OVERLAP", "instantiate")] {
        let (bytes, some, _) = sample(refused);
        assert!(bytes == whole && some > 0 && some < early, "{some} of {early}");
    }
}

#[test]
fn a_compiler_newer_than_the_driver_is_not_taken() {
    let Some(device) = cuda() else { return };
    if !device.software {
        eprintln!("NOT RUN: only a software driver can be told its version");
        return;
    }
    let (dir, data) = (temp_dir(), case("small"));
    let [out, cache] = ["out.safetensors", "cache"].map(|name| dir.path().join(name));
    let run = forward(&data, &out).env("SOFTCUDA_VERSION", "12080").env("CCL_CACHE_DIR", &cache.to_string_lossy());
    run.run().fails(1, &["NVRTC 13.0 is newer than the driver, of CUDA 12"]);
    assert!(!out.exists());
}

#[test]
fn backends_that_keep_all_weights_refuse_a_budget() {
    let (dir, data) = (temp_dir(), case("small"));
    let forward = |backend: &str| {
        let run = ccl(&format!("forward --task t2a --backend {backend} --memory-budget 1GiB")).on(&data);
        run.with("-o", dir.path().join("out.safetensors")).run()
    };
    forward("cpu").fails(2, &["--memory-budget", "backend cpu", "--backend cuda"]);
    forward("wgpu").fails(2, &["--memory-budget", "backend wgpu", "--backend cuda"]);
    for size in ["", "GiB", "-1GB", "1XB", "nan", "1e30"] {
        let run = ccl("forward --task t2a").arg(format!("--memory-budget={size}")).on(&data);
        run.with("-o", dir.path().join("out.safetensors")).run().fails(2, &["--memory-budget", "24GiB"]);
    }
}

#[test]
fn a_software_driver_is_listed_as_such_and_never_chosen() {
    let Some(device) = cuda() else { return };
    let devices = ccl("devices --json").ok().json();
    let listed = devices.as_array().expect("a list").iter().find(|d| d["backend"] == "cuda").expect("it is there");
    assert_eq!(listed["kind"] == "software driver", device.software, "{listed}");
    if device.software {
        let (dir, data) = (temp_dir(), case("small"));
        let run = ccl("forward --task t2a --backend auto -v").on(&data).with("-o", dir.path().join("out.safetensors"));
        assert!(!run.ok().stderr.contains("cuda"));
    }
}
