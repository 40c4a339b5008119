//! Saved plans: the same bytes as without one, moved, refused when they no longer fit.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::tensors::{self, Tensors};
use crate::common::{Ccl, case, ccl, clip_of, copy_model, entries, inputs, temp_dir};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

/// Tasks and guidance forms to compare; every task, and every form where it has the most to do.
const FORMS: [(&str, &str); 12] = [
    ("t2v", "none"),
    ("t2v", "text"),
    ("t2a", "none"),
    ("t2av", "none"),
    ("a2v", "none"),
    ("a2v", "three-pass"),
    ("v2a", "none"),
    ("v2a", "two-pass"),
    ("joint", "none"),
    ("joint", "two-pass"),
    ("joint", "three-pass"),
    ("joint", "modality-drop"),
];

fn compile(model: &Path, data: &Path, task: &str, guidance: &str, plan: &Path) -> Ccl {
    let (clip, batch) = clip_of(data);
    let run = ccl("compile").with("--model", model).words(&format!("--task {task} --guidance {guidance}"));
    run.words(&format!("--clip {clip} --batch {batch}")).with("-o", plan)
}

/// The bytes that a command writes on the cpu, which plans are compiled for where no target is named.
fn output(command: Ccl, dir: &Path) -> Vec<u8> {
    let out = dir.join("out.safetensors");
    command.words("--backend cpu").with("-o", &out).ok();
    let bytes = fs::read(&out).expect("a result");
    fs::remove_file(out).expect("a result");
    bytes
}

#[test]
fn a_plan_computes_the_same_bytes_as_the_model() {
    let dir = temp_dir();
    let (dir, plan) = (dir.path(), dir.path().join("some.cclp"));
    for data in ["small", "image"].map(case) {
        for (task, guidance) in FORMS {
            compile(&data, &data, task, guidance, &plan).ok();
            for run in ["forward", "sample --steps 3 --sampler unipc --seed 5"] {
                let options = format!("--task {task} --guidance {guidance}");
                let of_model = output(ccl(run).words(&options).on(&data), dir);
                let of_plan = output(ccl(run).with("--plan", &plan).with("--inputs", inputs(&data)), dir);
                assert!(of_plan == of_model, "{run} {options} on {}", data.display());
                // Saying what the plan is for, once more, changes nothing.
                let both = ccl(run).words(&options).with("--plan", &plan).on(&data);
                assert!(output(both, dir) == of_model, "{run} {options} with both");
            }
        }
    }
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let (dir, data) = (temp_dir(), case("image"));
    let plans = ["a.cclp", "b.cclp"].map(|name| {
        let plan = dir.path().join(name);
        compile(&data, &data, "joint", "three-pass", &plan).ok();
        fs::read(plan).expect("a plan")
    });
    assert!(plans[0] == plans[1]);
}

#[test]
fn explain_tells_the_same_of_plan_and_model() {
    let (dir, data) = (temp_dir(), case("small"));
    let (clip, batch) = clip_of(&data);
    let plan = dir.path().join("some.cclp");
    for (task, guidance) in FORMS {
        compile(&data, &data, task, guidance, &plan).ok();
        let of_plan = ccl("explain --format json").with("--plan", &plan).ok();
        let options = format!("--task {task} --guidance {guidance} --clip {clip} --batch {batch}");
        let of_model = ccl("explain --format json").with("--model", &data).words(&options).ok();
        assert_eq!(of_plan.json(), of_model.json(), "{options}");
    }
}

#[test]
fn a_plan_from_the_configuration_alone_takes_weights_later() {
    let (dir, data) = (temp_dir(), case("small"));
    let bare = dir.path().join("bare");
    fs::create_dir(&bare).expect("a directory");
    fs::copy(data.join("config.json"), bare.join("config.json")).expect("a copy");
    let plan = dir.path().join("some.cclp");
    let said = compile(&bare, &data, "joint", "none", &plan).ok();
    assert!(said.stdout.contains("made without weights"), "{}", said.stdout);
    let forward = || ccl("forward").with("--plan", &plan).with("--inputs", inputs(&data));
    let want = output(ccl("forward --task joint").on(&data), dir.path());
    assert!(output(forward().with("--model", &data), dir.path()) == want);
    let out = dir.path().join("out.safetensors");
    forward().with("-o", &out).run().fails(1, &["some.cclp", "without weights", "--model DIR"]);
    // Weights of another configuration do not do.
    let other = forward().with("--model", case("shifted")).with("-o", &out).run();
    other.fails(1, &["some.cclp", "another configuration", "shifted"]);
    assert!(!out.exists());
}

#[test]
fn a_plan_moves_with_its_model() {
    let (dir, data) = (temp_dir(), case("small"));
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    copy_model(&data, &old.join("model"));
    fs::create_dir(old.join("plans")).expect("a directory");
    compile(&old.join("model"), &data, "v2a", "none", &old.join("plans/some.cclp")).ok();
    fs::rename(&old, &new).expect("a move");
    let run = || ccl("forward").with("--plan", new.join("plans/some.cclp")).with("--inputs", inputs(&data));
    let want = output(ccl("forward --task v2a").on(&data), dir.path());
    assert!(output(run(), dir.path()) == want);
    // The plan alone, moved away from its model, no longer finds it and says so.
    fs::rename(new.join("plans/some.cclp"), dir.path().join("some.cclp")).expect("a move");
    let lost = ccl("forward").with("--plan", dir.path().join("some.cclp")).with("--inputs", inputs(&data));
    let out = dir.path().join("out.safetensors");
    lost.with("-o", &out).run().fails(1, &["some.cclp", "no longer in", "--model DIR"]);
}

#[test]
fn changed_weights_are_refused() {
    let (dir, data) = (temp_dir(), case("small"));
    let (model, plan) = (dir.path().join("model"), dir.path().join("some.cclp"));
    copy_model(&data, &model);
    compile(&model, &data, "t2a", "none", &plan).ok();
    let weights = model.join("weights.safetensors");
    tensors::edit(&data.join("weights.safetensors"), &weights, |t| {
        t.get_mut("audio.head.head.bias").expect("a weight").data[0] += 1.0;
    });
    let out = dir.path().join("out.safetensors");
    let run = || ccl("forward").with("--plan", &plan).with("--inputs", inputs(&data)).with("-o", &out);
    run().run().fails(1, &["some.cclp", "have changed", "compile it again"]);
    assert_eq!(entries(dir.path()), ["model", "some.cclp"]);
    // Naming the directory says that they are meant.
    run().with("--model", &model).ok();
}

#[test]
fn damaged_plans_are_refused() {
    let (dir, data) = (temp_dir(), case("small"));
    let good = dir.path().join("good.cclp");
    compile(&data, &data, "t2a", "none", &good).ok();
    let bytes = fs::read(&good).expect("a plan");
    let edit = |at: usize, byte: u8| {
        let mut copy = bytes.clone();
        copy[at] ^= byte;
        copy
    };
    let longer = [bytes.as_slice(), b"x"].concat();
    let huge = [&bytes[..12], &u64::MAX.to_le_bytes(), &bytes[20..]].concat();
    let middle = bytes.len() / 2;
    let damaged: [(&str, Vec<u8>, &str); 11] = [
        ("empty", Vec::new(), "cut off"),
        ("three bytes", bytes[..3].to_vec(), "cut off"),
        ("half a header", bytes[..30].to_vec(), "cut off"),
        ("a header", bytes[..52].to_vec(), "cut off"),
        ("half", bytes[..middle].to_vec(), "cut off"),
        ("one byte less", bytes[..bytes.len() - 1].to_vec(), "cut off"),
        ("one byte more", longer, "1 bytes too many"),
        ("a huge length", huge, "cut off"),
        ("another file", edit(0, 1), "is no plan"),
        ("another version", edit(8, 2), "plan format 3"),
        ("one bit", edit(middle, 4), "damaged"),
    ];
    let plan = dir.path().join("bad.cclp");
    let out = dir.path().join("out.safetensors");
    for (what, bytes, says) in damaged {
        fs::write(&plan, bytes).expect("a written plan");
        let commands = [
            ccl("forward").with("--inputs", inputs(&data)).with("-o", &out),
            ccl("sample --steps 2").with("--inputs", inputs(&data)).with("-o", &out),
            ccl("explain"),
        ];
        for command in commands {
            let run = command.with("--plan", &plan).memory(2 << 30).run();
            run.failure(1, &["bad.cclp", says]).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        assert_eq!(entries(dir.path()), ["bad.cclp", "good.cclp"], "{what}");
    }
}

/// Plans whose hash is right but whose contents are not: nothing in them is believed.
#[test]
fn lying_plans_are_refused() {
    let (dir, data) = (temp_dir(), case("small"));
    let (good, plan, out) =
        (dir.path().join("good.cclp"), dir.path().join("bad.cclp"), dir.path().join("out.safetensors"));
    compile(&data, &data, "t2a", "none", &good).ok();
    let bytes = fs::read(&good).expect("a plan");
    let body: Value = serde_json::from_slice(&bytes[52..]).expect("JSON behind the header");
    let lies: [(&str, Value, &str); 8] = [
        ("/scratch_bytes", json!(1u64 << 60), "more than any machine has"),
        ("/scratch_bytes", json!(64), "its region has 64"),
        ("/persistent_bytes", json!(1u64 << 45), "TB"),
        ("/buffers/0/bytes", json!(1u64 << 40), "buffer 0"),
        ("/buffers/0/offset", json!(7), "not aligned"),
        ("/inputs/0/name", json!("a\nb"), "missing"),
        ("/entries", json!({"step": [7]}), "no plan"),
        ("/weights", json!([]), "weight"),
    ];
    for (pointer, lie, says) in lies {
        let mut body = body.clone();
        *body.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = lie;
        let body = body.to_string();
        let mut file =
            [&bytes[..12], &(body.len() as u64).to_le_bytes(), blake3::hash(body.as_bytes()).as_bytes()].concat();
        file.extend_from_slice(body.as_bytes());
        fs::write(&plan, file).expect("a written plan");
        let run = ccl("forward").with("--plan", &plan).with("--inputs", inputs(&data)).with("-o", &out);
        run.memory(2 << 30).run().failure(1, &[says]).unwrap_or_else(|e| panic!("{pointer}: {e}"));
        assert!(!out.exists(), "{pointer}");
    }
}

/// A plan has room for 64 noise levels; a longer run brings them in pieces. The loop written out, one `forward` a step with
/// the level as `t`, must agree.
#[test]
fn more_steps_than_the_plan_has_room_for() {
    let (dir, data) = (temp_dir(), case("shifted"));
    let (dir, plan) = (dir.path(), dir.path().join("some.cclp"));
    let (steps, shift) = (70, 5.0);
    compile(&data, &data, "t2a", "none", &plan).ok();
    let sample = ccl(&format!("sample --steps {steps} --shift {shift}")).with("--inputs", inputs(&data));
    let out = dir.join("out.safetensors");
    let of_plan = sample.with("--plan", &plan).with("-o", &out);
    of_plan.ok();
    let (got, bytes) = (tensors::read(&out), fs::read(&out).expect("a result"));
    let of_model = ccl(&format!("sample --task t2a --steps {steps} --shift {shift}")).on(&data);
    assert!(output(of_model, dir) == bytes);

    let given = tensors::read(&inputs(&data));
    let level = |k: usize| {
        let u = 1.0 - k as f64 / f64::from(steps);
        shift * u / (1.0 + (shift - 1.0) * u)
    };
    let mut state: Vec<f64> = given["noise.audio"].data.iter().map(|&x| f64::from(x)).collect();
    for k in 0..steps as usize {
        let step = write_step(dir, &given, &state, level(k) as f32);
        ccl("forward").with("--plan", &plan).with("--inputs", &step).with("-o", &out).ok();
        let velocity = &tensors::read(&out)["velocity.audio"];
        let dt = level(k + 1) - level(k);
        state.iter_mut().zip(&velocity.data).for_each(|(x, &v)| *x += dt * f64::from(v));
    }
    let mut want = given["noise.audio"].clone();
    want.data = state.iter().map(|&x| x as f32).collect();
    let error = tensors::relative_l2(&got["sample.audio"], &want);
    assert!(error < 1e-5, "{error:e}");
}

/// The inputs of one step of the loop.
fn write_step(dir: &Path, given: &Tensors, state: &[f64], t: f32) -> PathBuf {
    let mut step = given.clone();
    step.get_mut("audio").expect("an input").data = state.iter().map(|&x| x as f32).collect();
    step.get_mut("t").expect("an input").data.fill(t);
    let path = dir.join("step.safetensors");
    tensors::write(&path, &step, Dtype::F32);
    path
}
