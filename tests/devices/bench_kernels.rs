//! `ccl bench kernels` and `ccl bench tune`: options, fields of their JSON, files of tiles, and the comparison's table.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{ccl, cuda, temp_dir, tensors};
use serde_json::{Value, json};

/// Measures on one backend, as briefly as can be.
fn kernels(words: &str) -> crate::common::Ccl {
    ccl("bench kernels --time 1").words(words)
}

#[test]
fn wrong_options_are_refused_in_one_line() {
    let dir = temp_dir();
    let (missing, damaged) = (dir.path().join("missing.json"), dir.path().join("damaged.json"));
    fs::write(&damaged, "{\"format\": 1").expect("a file");
    kernels("--set large").run().fails(2, &["--set", "small, paper and tiny"]);
    kernels("--rotate much").run().fails(2, &["--rotate", "24GiB"]);
    kernels("--backend cpu --filter nothing-like-this").run().fails(2, &["--filter", "set small", "adam-w-12288"]);
    kernels("--backend cpu --only adam-w").run().fails(2, &["--only adam-w", "set small", "adam-w-12288"]);
    kernels("--backend cpu --only adam-w-12288 --filter adam").run().fails(2, &["--only", "--filter"]);
    kernels("--backend wgpu --set tiny --dtype bf16").run().fails(2, &["--dtype bf16", "stores f32, f16"]);
    ccl("bench tune --backend cpu").run().fails(2, &["--backend cpu", "use cuda or wgpu"]);
    ccl("bench tune --backend wgpu --set large").run().fails(2, &["--set", "small, paper and tiny"]);
    ccl("bench tune --backend wgpu --set tiny --model here").run().fails(2, &["--set", "--model"]);
    ccl("bench tune --backend wgpu --task joint").run().fails(2, &["--task", "--model DIR"]);
    let compile = |target: &str, file: &Path| {
        let run = ccl("compile --task joint --clip 4x6x4@21").words(&format!("--target {target}"));
        run.with("--model", crate::common::case("small")).with("--tuned", file).with("-o", dir.path().join("p.cclp"))
    };
    compile("cpu", &damaged).run().fails(2, &["--tuned", "--target wgpu or cuda:sm_90a"]);
    compile("wgpu", &damaged).run().fails(1, &["damaged.json", "no file of `ccl bench tune`"]);
    compile("cuda:sm_90a", &missing).run().fails(1, &["missing.json", "cannot read"]);
    compile("cuda:sm_90a", &damaged).run().fails(1, &["damaged.json", "no file of `ccl bench tune`"]);
}

#[test]
fn the_document_says_what_was_measured_and_by_what() {
    let cpu = kernels("--backend cpu --threads 1 --filter adam-w-12288 --json").ok().json();
    for (field, want) in [("backend", "cpu"), ("set", "small"), ("dtype", "f32"), ("clock", "host")] {
        assert_eq!(cpu[field], want, "{cpu}");
    }
    assert_eq!((&cpu["rotate_bytes"], &cpu["kernels"][0]["copies"]), (&json!(0), &json!(1)));
    check_lines(&cpu);
    // Of two ids of which one begins the other only that which is named.
    let one = kernels("--backend cpu --set tiny --threads 1 --only audio.projection --only video.gate_residual --json");
    let one = one.ok().json();
    let mut ids: Vec<&str> = lines(&one).iter().filter_map(|k| k["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["audio.projection", "video.gate_residual"]);

    let dir = temp_dir();
    let file = dir.path().join("kernels.json");
    let run =
        kernels("--backend wgpu --set tiny --dtype f16 --filter audio.projection --rotate 64kB").with("-o", &file);
    assert!(run.ok().stdout.contains("rotated through copies of 64.0 kB"));
    let gpu: Value = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");
    assert_eq!((&gpu["clock"], &gpu["dtype"]), (&json!("device"), &json!("f16")));
    check_lines(&gpu);
    let ids: Vec<&str> = lines(&gpu).iter().filter_map(|k| k["id"].as_str()).collect();
    assert_eq!(ids, ["projection", "projection.gate", "projection.dx", "projection.dw"].map(|i| format!("audio.{i}")));
    for line in lines(&gpu) {
        assert!(line["copies"].as_u64() > Some(1), "{line}");
    }
}

/// Kernels for tensor cores, by sixteen bytes and in place give what plain ones give, and where there are no plainer ones that is said.
#[test]
fn results_are_compared_with_those_of_plain_kernels() {
    kernels("--backend wgpu --set tiny --only audio.projection --check")
        .run()
        .fails(2, &["--check", "use --backend cuda"]);
    let Some(device) = cuda() else { return };
    let ids = ["projection.gate", "self_attention.gradient", "norm_modulate", "cca.mix", "adam_w"];
    let only: Vec<String> = ids.iter().map(|id| format!("--only audio.{id}")).collect();
    let words = format!("--backend cuda --set tiny --dtype bf16 --check --json {}", only.join(" "));
    let found = kernels(&words).ok().json();
    assert_eq!(lines(&found).len(), ids.len(), "{found}");
    for line in lines(&found) {
        let off = line["off"].as_f64().expect("a number");
        // Weights of attention are rounded by the one kernel and not by the other.
        assert!((0.0..2e-2).contains(&off) && (off > 0.0 || line["op"] != "attention_grad"), "{line}");
    }
    if device.software {
        // A library that computes something else, chosen as if it had been measured.
        let dir = temp_dir();
        let tile = json!({"tile": "library", "seconds": 1e-6});
        let problem =
            json!({"problem": "1x22x32x32 tn", "op": "linear", "at": "a test", "expected_s": null, "tiles": [tile]});
        let file = json!({
            "format": 1, "device": found["device"], "architecture": "sm_90a", "date": "2026-01-01", "compiler": "a test", "problems": [problem]
        });
        fs::create_dir_all(dir.path().join("tuned")).expect("a directory");
        fs::write(dir.path().join("tuned/softcuda-ptx-interpreter.json"), file.to_string()).expect("a file");
        let of = |words: &str| {
            let words = format!("--backend cuda --set tiny --dtype bf16 --only audio.projection {words}");
            kernels(&words).env("CCL_CACHE_DIR", &dir.path().to_string_lossy())
        };
        let right = of("--json").ok().json();
        assert_eq!(lines(&right)[0]["library"], true, "{right}");
        assert!(of("--check").ok().stdout.contains("audio.projection"));
        of("--check").env("SOFTCUDA_BLAS", "wrong").run().fails(1, &["audio.projection", "its result is off by"]);
        of("").env("SOFTCUDA_BLAS", "wrong").ok();
    }
}

fn lines(document: &Value) -> &Vec<Value> {
    document["kernels"].as_array().expect("a list")
}

fn check_lines(document: &Value) {
    for field in ["peak_flops", "peak_bandwidth"] {
        assert!(document[field].as_f64() > Some(0.0), "{field}: {document}");
    }
    for line in lines(document) {
        for field in ["seconds", "gb_per_s", "roofline", "bytes", "runs"] {
            assert!(line[field].as_f64() > Some(0.0), "{field}: {line}");
        }
        assert!(line["range_s"][0].as_f64() <= line["seconds"].as_f64(), "{line}");
        assert!(["id", "name", "op"].iter().all(|f| line[f].is_string()), "{line}");
    }
}

/// Tunes products of wgpu's, and sees the file read by later runs, and built into a plan.
#[test]
fn tiles_of_wgpu_are_measured_kept_and_taken() {
    let dir = temp_dir();
    let (cache, plan) = (dir.path().join("cache"), dir.path().join("plan.cclp"));
    let small = crate::common::case("small");
    let spec = "--task t2a --clip 4x6x4@21 --batch 2 --text-tokens 7 --dtype f32";
    let tune = |filter: &str| {
        let run = ccl(&format!("bench tune --backend wgpu --time 1 {filter} {spec} --json")).with("--model", &small);
        run.env("CCL_CACHE_DIR", &cache.to_string_lossy())
    };
    tune("--filter no-such-problem").run().fails(2, &["--filter"]);
    assert!(!cache.join("tuned").exists());
    let found = tune("--filter x32x32").ok().json();
    let problems = found["problems"].as_array().expect("a list");
    let (problem, tiles) = (&problems[0]["problem"], problems[0]["tiles"].as_array().expect("a list"));
    let problem = problem.as_str().expect("a name");
    assert!(problem.starts_with("plain ") && tiles.len() == 8, "{found}");
    assert!(tiles.iter().all(|t| t["seconds"].as_f64() > Some(0.0)), "{found}");
    let file = Path::new(found["file"].as_str().expect("a file"));
    assert!(file.starts_with(cache.join("tuned")) && file.to_string_lossy().ends_with("-wgpu.json"));

    // Another tile than the one that is taken otherwise, as if it had been the fastest.
    let mut other: Value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON");
    let wide = json!({"plain_product": {"side": 128, "depth": 16, "micro": 8}});
    other["problems"][0]["tiles"] = json!([{"tile": wide, "seconds": 1e-9}]);
    fs::write(file, other.to_string()).expect("a file");
    let forward = |what: &str, words: &str| {
        let run = ccl(&format!("forward --backend wgpu {words}")).with("--inputs", small.join("inputs.safetensors"));
        let run = run.env("CCL_CACHE_DIR", &cache.to_string_lossy()).words("-v");
        run.with("-o", dir.path().join(what))
    };
    let said = forward("tuned", "--task t2a").with("--model", &small).ok().stderr;
    assert!(said.contains("as measured on"), "{said}");
    fs::write(dir.path().join("F.json"), other.to_string()).expect("a file");
    fs::remove_file(file).expect("no file any more");
    let said = forward("plain", "--task t2a").with("--model", &small).ok().stderr;
    assert!(!said.contains("as measured on"), "{said}");

    let compile = ccl(&format!("compile --target wgpu {spec}")).with("--model", &small);
    compile.with("--tuned", dir.path().join("F.json")).with("-o", &plan).ok();
    let carried = ccl::runtime::planfile::load(&plan).expect("a plan").kernels.expect("kernels");
    assert_eq!(carried.choices["tiles"][problem], wide);
    assert!(carried.kernels.iter().any(|k| k.blueprint["kernel"]["product"]["tile"] == wide["plain_product"]));
    forward("carried", "").with("--plan", &plan).with("--model", &small).ok();

    let plain = tensors::read(&dir.path().join("plain"));
    for what in ["tuned", "carried"] {
        for (name, got) in tensors::read(&dir.path().join(what)) {
            let error = tensors::relative_l2(&got, &plain[&name]);
            assert!(error < 1e-6, "{what} {name}: {error:e}");
        }
    }

    // On CUDA this file is another kind of kernel's.
    let run = ccl(&format!("compile --target cuda:sm_90a {spec}")).with("--model", &small);
    let said = run.with("--tuned", dir.path().join("F.json")).with("-o", dir.path().join("other.cclp")).ok().stderr;
    assert!(said.contains("was measured for wgpu"), "{said}");
}

/// Tunes one product, and sees the file read, refused and built into a plan.
#[test]
fn tiles_are_measured_kept_and_taken() {
    let Some(device) = cuda() else { return };
    let dir = temp_dir();
    let model = dir.path().join("model");
    fs::create_dir_all(&model).expect("a directory");
    let config = json!({
        "video": {"dim": 64, "ffn_dim": 96, "heads": 2, "in_channels": 4, "out_channels": 4, "patch": [1, 2, 2]},
        "audio": {"dim": 32, "ffn_dim": 48, "heads": 2, "in_channels": 4, "out_channels": 4, "patch": [1]},
        "layers": 1, "text_dim": 32, "freq_dim": 16, "audio_context_tokens": 2, "video_context_tokens": 4
    });
    fs::write(model.join("config.json"), config.to_string()).expect("a file");
    let spec = "--task t2a --clip 2x4x4@8 --text-tokens 8 --dtype bf16";
    let cache = dir.path().join("cache");
    let of = |run: crate::common::Ccl| run.env("CCL_CACHE_DIR", &cache.to_string_lossy());
    let tune =
        ccl(&format!("bench tune --backend cuda --time 1 --filter 1x8x48x32 {spec} --json")).with("--model", &model);
    let found = of(tune).ok().json();
    let problems = found["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{found}");
    let tiles = problems[0]["tiles"].as_array().expect("a list");
    assert!(tiles.len() > 3 && tiles[0]["seconds"].as_f64() > Some(0.0), "{found}");
    // The library is tried as well, named, and chosen beside a tile.
    let is_library = |t: &&Value| t["tile"] == "library";
    let library = tiles.iter().find(is_library).expect("the library");
    assert!(library["seconds"].as_f64() > Some(0.0), "{found}");
    let ours = tiles.iter().find(|t| !is_library(t)).expect("a tile");
    let file = Path::new(found["file"].as_str().expect("a file"));
    assert!(file.starts_with(cache.join("tuned")));
    let text = fs::read_to_string(file).expect("a file");
    assert!(text.contains("\"library\": \"cuBLASLt "), "{text}");

    // What computes something else is not taken, however fast.
    if device.software {
        // The library has to be the fastest: one that multiplies nothing is by far with so many tokens, where other work disturbs it too.
        let many = spec.replace("--text-tokens 8", "--text-tokens 256");
        let wrong = of(ccl(&format!("bench tune --backend cuda --time 1 --filter 1x256x32x32 {many} --json"))
            .with("--model", &model));
        let run = wrong.env("SOFTCUDA_BLAS", "wrong").with("-o", dir.path().join("wrong.json")).ok();
        let found = run.json();
        let last = found["problems"][0]["tiles"].as_array().and_then(|tiles| tiles.last().cloned()).expect("tiles");
        assert!(last["tile"] == "library" && last["seconds"].is_null(), "{found}");
        assert!(last["problem"].as_str().is_some_and(|why| why.contains("its result is off by")), "{found}");
        assert!(run.stderr.contains("a tile is not taken"), "{}", run.stderr);
    }

    // What takes the device with it, or does not end, is left out, and measuring goes on; what was measured before is not measured again.
    if device.software {
        // Of three problems two have the two tiles in question.
        let told = [
            ("SOFTCUDA_FAULT", "1x8x32x", 4, "was lost"),
            ("SOFTCUDA_HANG", "1x8x48x32", 2, "it had not ended after 5 s"),
        ];
        for (variable, filter, count, why) in told {
            let tune = ccl(&format!("bench tune --backend cuda --time 1 --patience 5 --filter {filter} {spec} --json"));
            let run = of(tune.with("--model", &model)).env(variable, "setmaxnreg.dec.sync.aligned.u32 24;");
            let run = run.with("-o", dir.path().join("without.json")).ok();
            let found = run.json();
            let problems = found["problems"].as_array().expect("a list");
            let all: BTreeSet<String> = problems.iter().map(|p| p["problem"].to_string()).collect();
            assert_eq!(all.len(), problems.len(), "{found}");
            let tiles = problems.iter().flat_map(|p| p["tiles"].as_array().expect("a list"));
            let (mut turns, mut others) = (0, 0);
            for tile in tiles {
                if tile["tile"]["product"]["turns"] == true {
                    assert!(tile["seconds"].is_null(), "{tile}");
                    assert!(tile["problem"].as_str().is_some_and(|text| text.contains(why)), "{tile}");
                    turns += 1;
                } else {
                    others += usize::from(tile["seconds"].is_number());
                }
            }
            // Each took one process with it, and was not tried again for the other problem.
            assert!(turns == count && others > 10, "{found}");
            assert_eq!(run.stderr.matches("a tile is left out, and measuring goes on").count(), 2, "{}", run.stderr);
        }
    }

    // A plan for the device has the tile, and says so.
    let plan = dir.path().join("plan.cclp");
    let compile = |file: &Path| {
        let run = ccl(&format!("compile --target cuda:sm_90a {spec}")).with("--model", &model).with("--tuned", file);
        of(run).with("-o", &plan).ok();
        ccl::runtime::planfile::load(&plan).expect("a plan").kernels.expect("kernels").choices
    };
    let chosen = compile(file);
    let name = &problems[0]["problem"];
    assert_eq!(chosen["tiles"][name.as_str().expect("a name")], ours["tile"]);
    let fastest = is_library(&&tiles[0]);
    assert_eq!(chosen["library"].as_array().is_some_and(|all| all.contains(name)), fastest, "{chosen}");
    let said = ccl("explain").with("--plan", &plan).ok().stdout;
    assert_eq!(said.contains("cuBLASLt's where it is there"), fastest, "{said}");
    // Another tile gives other kernels: the last one that runs.
    let mut other: Value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON");
    other["problems"][0]["tiles"].as_array_mut().expect("a list").reverse();
    let turned = dir.path().join("turned.json");
    fs::write(&turned, other.to_string()).expect("a file");
    assert_ne!(compile(&turned), chosen);
    let step = || ccl("bench step --steps 1 --repeat 1 --random-weights --backend cuda").with("--model", &model);
    let run = of(step().with("--plan", &plan)).words("--json").ok();
    assert!(run.json()["first_step_s"].as_f64() > Some(0.0));

    // A damaged file is one warning.
    fs::write(file, "{}").expect("a file");
    let run = of(step().words(spec)).ok();
    let warnings: Vec<&str> = run.stderr.lines().filter(|l| l.starts_with("warning")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("going on without it"), "{}", run.stderr);
}

/// The table and the bounds need no PyTorch where its times were measured before.
#[test]
fn the_comparison_says_which_bounds_hold() {
    let dir = temp_dir();
    let write = |name: &str, value: Value| {
        let path = dir.path().join(name);
        fs::write(&path, value.to_string()).expect("a file");
        path
    };
    let line = |id: &str, seconds: f64| json!({"id": id, "seconds": seconds});
    let kernels = [
        line("video.cca", 1.0),
        line("video.self_attention", 3.0),
        line("video.projection", 1.0),
        line("audio.cca.mix", 1.0),
    ];
    let ours = write("ours.json", json!({"device": "a GPU", "dtype": "bf16", "clock": "device", "kernels": kernels}));
    let form = |id: &str, forms: Value, best: &str| {
        let seconds = forms[best].clone();
        json!({"id": id, "forms": forms, "best": best, "best_s": seconds})
    };
    let theirs = [
        form("video.cca", json!({"gathered": 4.0, "flex": 2.5}), "flex"),
        form("video.self_attention", json!({"cudnn": 1.5, "flash": 1.2}), "flash"),
        form("video.projection", json!({"cublas": 0.9}), "cublas"),
    ];
    // What was measured in turns counts, on both sides.
    let turns = json!({"video.projection": {"form": "cublas", "ours_s": 1.4, "theirs_s": 1.0}});
    let theirs = write("theirs.json", json!({"device": "a GPU", "torch": "2", "kernels": theirs, "turns": turns}));
    let picture = dir.path().join("ratios.svg");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu/compare.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).arg("--ccl").arg(&ours).arg("--theirs").arg(&theirs).arg("--svg").arg(&picture);
    let output = command.output().expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for want in [
        "holds          partitioned attention",
        "does not hold  self-attention",
        "video.self_attention: 2.00 of cudnn",
        "does not hold  plain products",
        "video.projection: 1.40 of cublas",
        "1.40  cublas, in turns",
        "not measured   fused chains",
        "not measured   a denoising step",
    ] {
        assert!(said.contains(want), "{want}\n{said}");
    }
    let picture = fs::read_to_string(picture).expect("a picture");
    assert!(picture.starts_with("<svg ") && picture.matches("<rect ").count() == 4, "{picture}");
    fs::write(&ours, "{").expect("a file");
    let output = command.output().expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.lines().count() == 1 && said.contains("ours.json"), "{said}");
}
