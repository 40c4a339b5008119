//! `ccl train`: what it leaves, that it goes on where it was, and what it refuses.

use std::fs;

use crate::common::training::{Place, dataset, differences, files};
use crate::common::{Ccl, ccl, entries, tensors};
use serde_json::Value;

/// A short training with everything on.
const FULL: &str = r#"
data = { dir = "data", held_out = 4 }
tasks = { t2av = 0.1, a2v = 0.15, v2a = 0.15, joint = 0.6 }
time = { kind = "shifted", shift = 3.0 }
ema = { decay = 0.9 }
[optimiser]
lr = 1e-2
warmup = 4
schedule = "cosine"
decay_from = 0.5
decay_to = 0.1
accumulate = 2
groups = [{ names = "*.cca.*", lr = 2e-2 }]
[train]
steps = 12
batch = 2
log_every = 3
checkpoint_every = 4
validate_every = 6
keep_last = 2
"#;

#[test]
fn a_training_leaves_models_metrics_and_a_picture() {
    let place = Place::new(FULL);
    let run = place.train("run").ok();
    let out = place.path("run");
    assert!(run.stdout.starts_with(&format!("wrote {}: step 12, 12 steps", out.join("step-000012").display())));
    assert_eq!(entries(&out), [".lock", "loss.svg", "metrics.jsonl", "step-000008", "step-000012"]);
    let names = ["config.json", "ema", "model.safetensors", "optimiser.safetensors", "train.json"];
    assert_eq!(entries(&out.join("step-000012")), names);
    // Each parameter has the number of its own steps: those of the tasks that it has a gradient in.
    let moments = tensors::read(&out.join("step-000012/optimiser.safetensors"));
    let parameters = tensors::read(&out.join("step-000012/model.safetensors"));
    let counts: Vec<f32> = parameters.keys().map(|p| moments[&format!("adam.count.{p}")].data[0]).collect();
    assert!(counts.iter().all(|n| n.fract() == 0.0 && (0.0..=12.0).contains(n)), "{counts:?}");
    assert!(counts.contains(&12.0) && counts.iter().any(|n| *n < 12.0), "{counts:?}");
    assert_eq!(moments.len(), 3 * parameters.len(), "two moments and a count");
    let lines: Vec<&str> = run.stderr.lines().filter(|l| l.starts_with("step ")).collect();
    assert!(
        lines.iter().any(|l| l.contains("joint.video ") && l.contains(" tokens/s") && l.ends_with(" left")),
        "{lines:?}"
    );
    // Metrics: every third step and every validation.
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    assert_eq!(rows.iter().map(|r| r["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6, 9, 12]);
    for row in &rows {
        for field in ["seconds", "rate", "norm", "tokens_per_s"] {
            assert!(row[field].as_f64().is_some_and(|x| x > 0.0), "{field}: {row}");
        }
        assert_eq!(row["skipped"], 0);
        assert!(row.as_object().unwrap().keys().any(|k| k.ends_with(".video")), "{row}");
        assert_eq!(row.get("valid.joint.audio").is_some(), row["step"].as_u64().unwrap().is_multiple_of(6), "{row}");
    }
    assert!(rows[3]["valid_ema.v2a.audio"].as_f64().is_some_and(|x| x > 0.0));
    assert_ne!(rows[3]["valid_ema.joint.video"], rows[3]["valid.joint.video"]);
    assert!(rows[1]["rate"].as_f64() > rows[3]["rate"].as_f64());
    let svg = fs::read_to_string(out.join("loss.svg")).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.contains("valid.joint.video"));
    // A checkpoint is a model, its average another.
    let clip = place.path("clip.safetensors");
    let mut samples = Vec::new();
    for model in ["step-000012", "step-000012/ema"] {
        let sample = ccl("sample --task joint --clip 2x4x4@6 --steps 2 --backend cpu").with("--model", out.join(model));
        let inputs = place.path("inputs.safetensors");
        let text = tensors::Tensor::full(&[1, 2, 6], 0.5);
        tensors::write(&inputs, &[("text".to_owned(), text)].into(), safetensors::tensor::Dtype::F32);
        sample.with("--inputs", inputs).with("-o", &clip).ok();
        samples.push(fs::read(&clip).expect("a clip"));
    }
    assert_ne!(samples[0], samples[1]);
    // Nothing is left to do.
    let run = place.train("run").words("--resume").ok();
    assert!(run.stdout.contains("step 12, nothing was left to do"), "{}", run.stdout);
}

#[test]
fn a_training_goes_on_bit_for_bit_with_any_number_of_threads() {
    let place = Place::new(FULL);
    place.train("whole").ok();
    // Stopped in the middle: the schedule is the whole training's, so the steps must be, too; the process is what ends.
    let text = fs::read_to_string(place.config()).expect("a file");
    place.configure(&text.replace(crate::common::training::MODEL, "").replace("steps = 12", "steps = 12\nthreads = 2"));
    ccl("train --backend cpu").with("--config", place.config()).with("--out", place.path("two")).ok();
    assert_eq!(differences(&place.path("whole/step-000012"), &place.path("two/step-000012")), [""; 0]);
    for (from, threads) in [("step-000008", 2), ("step-000004", 1)] {
        let cut = place.path("cut");
        let _ = fs::remove_dir_all(&cut);
        place.train("cut").words("--set train.keep_last=0").ok();
        for later in entries(&cut).into_iter().filter(|n| n.starts_with("step-") && n.as_str() > from) {
            fs::remove_dir_all(cut.join(later)).expect("a removed checkpoint");
        }
        let resumed = ccl(&format!("train --backend cpu --threads {threads} --resume"))
            .with("--config", place.config())
            .with("--out", &cut)
            .ok();
        assert!(
            resumed.stderr.contains(&format!("on from step {}", from[5..].trim_start_matches('0'))),
            "{}",
            resumed.stderr
        );
        assert_eq!(differences(&place.path("whole/step-000012"), &cut.join("step-000012")), [""; 0], "{from}");
        // Metrics have no line twice.
        let steps = |dir: &str| -> Vec<u64> {
            let text = fs::read_to_string(place.path(dir).join("metrics.jsonl")).expect("metrics");
            text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["step"].as_u64().unwrap()).collect()
        };
        assert_eq!(steps("cut"), steps("whole"));
    }
}

#[test]
fn another_training_is_not_gone_on_with() {
    let place = Place::new(FULL);
    place.train("run").ok();
    place.train("run").run().fails(1, &["step-000012", "a training is there already", "--resume"]);
    let refused = [
        ("train.batch=4", "train.batch was 2, is 4 now"),
        ("train.seed=9", "train.seed was 0, is 9 now"),
        ("train.steps=20", "train.steps was 12, is 20 now"),
        ("optimiser.lr=0.5", "optimiser.lr was 0.01, is 0.5 now"),
        ("tasks.joint=0.5", "tasks.joint was 0.6, is 0.5 now"),
        ("time.shift=2.0", "time.shift was 3.0, is 2.0 now"),
        ("ema.decay=0.5", "ema.decay was 0.9, is 0.5 now"),
        ("model.config.layers=2", "model.layers was 1, is 2 now"),
    ];
    for (set, says) in refused {
        place.train("run").words("--resume").with("--set", set).run().fails(1, &["other settings", says, "--out"]);
    }
    dataset(&place.path("other"), 20, 2.0);
    place.train("run").words("--resume").with("--data", place.path("other")).run().fails(1, &["data was "]);
    // What does not change the course may change, and where the data lies.
    fs::rename(place.path("data"), place.path("moved")).expect("a move");
    let other = place.train("run").words("--resume --set train.log_every=1").with("--data", place.path("moved"));
    other.ok();
}

/// Stage one trains a stream by itself, stage two both with a fresh cross attention.
#[test]
fn two_stages() {
    let place = Place::new("");
    let stage = |task: &str| {
        format!(
            "data = {{ dir = \"data\" }}\ntasks = {{ {task} = 1 }}\ntrain = {{ steps = 3, batch = 2 }}\nema = {{ decay = 0 }}\noptimiser = {{ lr = 1e-2, warmup = 0 }}"
        )
    };
    for (task, out) in [("t2a", "audio"), ("t2v", "video")] {
        place.configure(&stage(task));
        place.train(out).ok();
    }
    let model = |dir: &str| tensors::read(&place.path(dir).join("model.safetensors"));
    let (audio, video) = (model("audio/step-000003"), model("video/step-000003"));
    // The stream that no task generates stays as it began, and there are no averages where none are wanted.
    place.train("fresh").words("--set optimiser.lr=0 --set optimiser.weight_decay=0 --set train.steps=1").ok();
    assert_eq!(audio["video.head.modulation"], model("fresh/step-000001")["video.head.modulation"]);
    assert!(!entries(&place.path("audio/step-000003")).contains(&"ema".to_owned()));
    let both = "data = { dir = \"data\" }\ntrain = { steps = 1, batch = 2, seed = 4 }\n\
                optimiser = { lr = 0, weight_decay = 0, freeze = [\"*\"] }\n";
    place.configure(both);
    place.train("none").run().fails(1, &["optimiser.freeze leaves no parameter"]);
    place.configure(&both.replace("\"*\"", "\"video.patch_embedding.*\""));
    let init = |m: &str| format!("model.init_{m}={}", toml_string(&place.path(m).join("step-000003")));
    place.train("joint").with("--set", init("video")).with("--set", init("audio")).ok();
    let joint = model("joint/step-000001");
    for (name, tensor) in &joint {
        let from = if name.starts_with("video.") { &video[name] } else { &audio[name] };
        if name.contains(".cca.o.") {
            assert!(tensor.data.iter().all(|&x| x == 0.0), "{name}");
        } else if name.contains(".cca.") && name.ends_with("context") {
            assert_ne!(tensor, from, "{name}");
        } else if !name.contains(".cca.") {
            assert_eq!(tensor, from, "{name}");
        }
    }
    // On from a whole model.
    place.configure(&stage("joint").replace("lr = 1e-2", "lr = 0, weight_decay = 0"));
    let text = fs::read_to_string(place.config()).expect("a file").replace("[model.config]", "[unused]");
    let text = text.split("[unused]").next().expect("a part").to_owned() + "[model]\ninit = \"joint/step-000001\"\n";
    fs::write(place.config(), text).expect("a file");
    place.train("on").ok();
    assert_eq!(model("on/step-000003"), joint);
}

fn toml_string(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display())
}

#[test]
fn a_training_that_goes_nowhere_stops_and_keeps_what_was_good() {
    // A rate that no model survives.
    let place = Place::new(
        "data = { dir = \"data\" }\ntasks = { joint = 1 }\noptimiser = { lr = 1e30, warmup = 0 }\n\
         train = { steps = 60, batch = 2, checkpoint_every = 1, keep_last = 0 }\n",
    );
    let run = place.train("bad").run();
    let last = entries(&place.path("bad")).into_iter().rfind(|n| n.starts_with("step-")).expect("a checkpoint");
    run.fails(1, &["5 updates in a row were left out", "lower optimiser.lr", &format!("{last} is whole")]);
    let left_out = |l: &&str| l.starts_with("warning: ") && l.contains("the update is left out");
    assert_eq!(run.stderr.lines().filter(left_out).count(), 4, "{}", run.stderr);
    // The last one is from before the updates were left out, and whole.
    for tensor in tensors::read(&place.path("bad").join(&last).join("model.safetensors")).values() {
        assert!(tensor.data.iter().all(|x| x.is_finite()));
    }
    place.train("bad").words("--resume").run().fails(1, &["5 updates in a row"]);
}

/// The system refuses to write files beyond a size, as it does when a disk is full.
#[test]
fn a_full_disk_loses_nothing() {
    let place = Place::new(FULL);
    place.train("run").words("--set train.steps=12 --set train.keep_last=0").ok();
    let run = place.path("run");
    for later in ["step-000012", "step-000008"] {
        fs::remove_dir_all(run.join(later)).expect("a removed checkpoint");
    }
    let before = files(&run.join("step-000004"));
    let full = place.train("run").words("--resume").command();
    let mut shell = std::process::Command::new("sh");
    // 4 blocks of 512 bytes; the signal would end the program, a full disk does not.
    shell.args(["-c", r#"trap "" XFSZ; ulimit -f 4; exec "$@""#, "sh"]).arg(full.get_program()).args(full.get_args());
    let output = shell.output().expect("a run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let warnings: Vec<&str> =
        stderr.lines().filter(|l| l.starts_with("warning: ") && l.contains("cannot write")).collect();
    assert!(warnings.iter().any(|w| w.contains("step-000008") && w.contains("training goes on")), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("step-000012: cannot write"), "{stderr}");
    assert_eq!(files(&run.join("step-000004")), before);
    let left: Vec<String> = entries(&run).into_iter().filter(|n| n.contains("step-")).collect();
    assert_eq!(left, ["step-000004"], "nothing half is left");
    // With room again it ends as if nothing had been.
    place.train("run").words("--resume").ok();
    place.train("whole").ok();
    assert_eq!(differences(&run.join("step-000012"), &place.path("whole/step-000012")), [""; 0]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let place = Place::new(FULL);
    place.train("run").words("--set train.keep_last=0").ok();
    let run = place.path("run");
    let file = run.join("step-000012/optimiser.safetensors");
    let mut bytes = fs::read(&file).expect("a file");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&file, bytes).expect("damage");
    let resumed = place.train("run").words("--resume").ok();
    assert!(
        resumed.stderr.starts_with("warning: ") && resumed.stderr.contains("step-000012: is damaged"),
        "{}",
        resumed.stderr
    );
    assert!(resumed.stderr.contains("on from step 8"), "{}", resumed.stderr);
    place.train("whole").ok();
    assert_eq!(differences(&run.join("step-000012"), &place.path("whole/step-000012")), [""; 0]);
}

/// Clips of the bounce world need no files, and the configuration of the example is one that can be used.
#[test]
fn the_worlds_recipe_can_be_trained() {
    let place = Place::new("");
    let recipe = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/world/train.toml");
    let smaller = "--set data.world.clips=24 --set data.held_out=4 --set train.batch=4 --set train.validate_every=2 \
                   --set train.steps=2 --set model.config.layers=1";
    let train =
        ccl("train --backend cpu --json").words(smaller).with("--config", recipe).with("--out", place.path("run"));
    let json = train.ok().json();
    assert_eq!(json["steps_run"], 2);
    let text = fs::read_to_string(place.path("run/metrics.jsonl")).expect("metrics");
    assert!(text.contains("valid_ema.v2a.audio"), "{text}");
}

/// Samples for validation may come from a dataset of their own.
#[test]
fn validation_on_other_data() {
    let place = Place::new(
        "data = { dir = \"data\", validation = \"other\" }\ntrain = { steps = 2, batch = 2, validate_every = 1 }\n",
    );
    dataset(&place.path("other"), 4, 2.0);
    place.train("run").ok();
    let text = fs::read_to_string(place.path("run/metrics.jsonl")).expect("metrics");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    assert_eq!(rows.len(), 2);
    // Latents of twice the size: the velocity's error is larger than that of training.
    assert!(rows[1]["valid.joint.video"].as_f64() > Some(2.5), "{text}");
    place
        .train("none")
        .words("--set train.batch=5")
        .run()
        .fails(1, &["a validation needs at least a batch of 5 samples"]);
}

#[test]
fn a_training_step_is_measured() {
    let place = Place::new(FULL);
    place.train("run").words("--set train.steps=1").ok();
    let dir = place.path("run/step-000001");
    let bench = "bench train --backend cpu --task joint --clip 2x4x4@6 --batch 2 --text-tokens 2 --steps 2 --repeat 3";
    let json = ccl(bench).words("--json --trace").with("--model", &dir).ok().json();
    for field in ["step_s", "peak_bytes", "flops"] {
        assert!(json[field].as_f64().is_some_and(|x| x > 0.0), "{field}: {json}");
    }
    assert!(json["trace"].as_array().is_some_and(|t| t.iter().any(|s| s["op"] == "adam_w")), "{json}");
    fs::remove_file(dir.join("model.safetensors")).expect("a removed file");
    let text = ccl(bench).words("--random-weights").with("--model", &dir).ok().stdout;
    assert!(text.starts_with("step "), "{text}");
}

/// A training on a GPU takes the same course as on the cpu, in single precision within rounding; in half precision nearly, from the same checkpoints.
#[test]
fn a_training_on_a_gpu_takes_the_same_course() {
    let place = Place::new(&FULL.replace("accumulate = 2", "accumulate = 1").replace("steps = 12", "steps = 6"));
    let losses = |out: &str| -> Vec<(String, f64)> {
        let text = fs::read_to_string(place.path(out).join("metrics.jsonl")).expect("metrics");
        let row: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        let all = row.as_object().expect("an object").iter();
        let losses = all.filter(|(n, _)| n.contains('.')).map(|(n, v)| (n.clone(), v.as_f64().expect("a number")));
        losses.collect()
    };
    let on = |out: &str, more: &str| -> Ccl {
        let run = ccl("train").words(more).with("--config", place.config());
        run.with("--out", place.path(out))
    };
    on("cpu", "--backend cpu").ok();
    on("wgpu", "--backend wgpu").ok();
    on("half", "--backend wgpu --set train.precision=f16").ok();
    let want = losses("cpu");
    assert!(want.len() > 6, "{want:?}");
    for (out, bound) in [("wgpu", 1e-4), ("half", 2e-2)] {
        let got = losses(out);
        assert_eq!(got.len(), want.len());
        for ((name, g), (_, w)) in got.iter().zip(&want) {
            assert!((g - w).abs() < bound * w, "{out} {name}: {g}, on the cpu {w}");
        }
    }
    let record = |out: &str| -> Value {
        let path = place.path(out).join("step-000006/train.json");
        serde_json::from_str(&fs::read_to_string(path).expect("a record")).expect("JSON")
    };
    assert!(record("half")["scaling"]["factor"].as_f64() > Some(1.0) && record("wgpu").get("scaling").is_none());
    // Precision belongs to a training.
    on("half", "--backend wgpu --resume").run().fails(1, &["train.precision was \"f16\", is absent now"]);
}
