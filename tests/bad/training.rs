//! Training configurations that are wrong: one line that names the field, nothing written.

use std::fs;

use crate::common::bad::{Bad, failed, wrong_usage};
use crate::common::training::{self, MODEL};
use crate::common::{Ccl, ccl, copy_model};

/// A training in a new directory that would be fine.
struct Fine(training::Place);

impl Fine {
    fn new() -> Self {
        Self(training::Place::new("data = { dir = \"data\" }\ntrain = { steps = 1, batch = 2 }"))
    }

    fn with(&self, words: &str) -> Ccl {
        ccl("train --backend cpu --threads 1").with("--config", self.0.config()).words(words)
    }

    fn set(&self, change: &str) -> Ccl {
        self.with("").with("--set", change)
    }

    /// A run with another configuration file.
    fn file(&self, name: &str, text: &str) -> Ccl {
        let path = self.0.path(name);
        fs::write(&path, text).expect("a written file");
        ccl("train --backend cpu --threads 1").with("--config", path)
    }
}

#[test]
fn fields() {
    let fine = Fine::new();
    let set = |change: &str, says: &[&str]| failed(change, fine.set(change), says);
    let mut cases = vec![
        set("train.stepz=1", &["train.toml", "unknown field `stepz`", "in `train`"]),
        set("optimizer.lr=1", &["unknown field `optimizer`", "`optimiser`"]),
        set("train.steps=many", &["train.steps", "invalid type"]),
        set("train.steps=0", &["train.steps must be at least 1"]),
        set("train.batch=0", &["train.batch must be at least 1"]),
        set("train.checkpoint_every=0", &["train.checkpoint_every must be at least 1"]),
        set("train.max_skipped=0", &["train.max_skipped must be at least 1"]),
        set("train.precision=bf16", &["train.precision", "bf16", "f32"]),
        set("train.backend=tpu", &["train.backend", "tpu", "auto, cpu, wgpu, cuda"]),
        set("train.prompt_drop=1.5", &["train.prompt_drop must be 0 to 1"]),
        set("train.validate_every=5", &["train.validate_every needs samples", "data.held_out"]),
        set("optimiser.lr=-1.0", &["optimiser.lr must be 0 to"]),
        set("optimiser.lr=nan", &["optimiser.lr must be"]),
        set("optimiser.betas=[0.9, 1.0]", &["optimiser.betas must be"]),
        set("optimiser.betas=[0.9]", &["optimiser.betas"]),
        set("optimiser.schedule=linear", &["optimiser.schedule", "linear", "`constant`"]),
        set("optimiser.decay_from=0.5", &["decay_from", "cosine"]),
        set("optimiser.accumulate=0", &["optimiser.accumulate must be at least 1"]),
        set("optimiser.freeze=[\"*.nothing\"]", &["optimiser.freeze", "`*.nothing`", "names are like"]),
        set("optimiser.groups=[{names = \"cca\"}]", &["optimiser.groups", "`cca`"]),
        set("ema.decay=1.0", &["ema.decay must be"]),
        set("tasks={song = 1}", &["tasks", "song", "`joint`"]),
        set("tasks={joint = 0}", &["tasks: no task has a weight above 0"]),
        set("tasks={joint = -1}", &["tasks.joint must be a weight"]),
        set("time={kind = \"normal\"}", &["time", "normal", "`logit-normal`"]),
        set("time={kind = \"shifted\", shift = 0}", &["time.shift must be"]),
        set("time={kind = \"shifted\"}", &["time", "shift"]),
        set("data.held_out=20", &["data.held_out is 20, but there are 20 samples"]),
        set("data.world={clips = 4}", &["data.dir and data.world exclude each other"]),
        set("data.clip=4x4", &["data.clip", "TxHxW@L"]),
        set("data.clip=2x4x4@7", &["data.clip is 2x4x4@7, but the data is 2x4x4@6"]),
        set("model.config.text_dim=7", &["`text` of the data has shape [2, 6], the model wants [2, 7]"]),
        set("model.config.layers=0", &["model.config", "layers", "must be 1 to"]),
        set("model.init=nowhere", &["nowhere"]),
        set("model.config=nowhere.json", &["nowhere.json", "cannot read"]),
    ];
    let usage = |words: &str, says: &[&str]| wrong_usage(fine.with(words), says);
    cases.extend([
        usage("--set train.steps", &["--set train.steps", "FIELD=VALUE"]),
        usage("--set train.steps.x=1", &["--set", "`steps` has no fields"]),
        usage("--threads 0", &["--threads"]),
        usage("--steps 5", &["--steps"]),
    ]);
    check(&fine, cases);
}

#[test]
fn files() {
    let fine = Fine::new();
    let file = |name: &str, text: &str, says: &[&str]| failed(name, fine.file(name, text), says);
    let data = "data = { dir = \"data\" }\n";
    fs::create_dir(fine.0.path("empty")).expect("a directory");
    training::dataset(&fine.0.path("broken"), 3, 1.0);
    fs::write(fine.0.path("broken/shard-00000.safetensors"), "x").expect("damage");
    copy_model(&crate::common::case("small"), &fine.0.path("small"));
    let cases = vec![
        file("syntax.toml", "[train]\nsteps = = 1\n", &["syntax.toml: line 2"]),
        file("no-model.toml", data, &["no-model.toml", "missing field `model`"]),
        file("no-data.toml", MODEL, &["no-data.toml", "missing field `data`"]),
        file("no-config.toml", &format!("{data}[model]\n"), &["model.config is missing"]),
        file("no-source.toml", &format!("data = {{}}\n{MODEL}"), &["data.dir is missing"]),
        file("no-dataset.toml", &format!("data = {{ dir = \"empty\" }}\n{MODEL}"), &["empty", "is no dataset"]),
        file("broken.toml", &format!("data = {{ dir = \"broken\" }}\n{MODEL}"), &["broken"]),
        file("missing.toml", &format!("data = {{ dir = \"missing\" }}\n{MODEL}"), &["missing"]),
        file("other.toml", &format!("{data}model = {{ init = \"small\" }}\n"), &["of the data has shape"]),
        file(
            "both.toml",
            &format!("{data}model = {{ init = \"small\", init_audio = \"small\" }}\n"),
            &["model.init stands alone"],
        ),
        file(
            "sizes.toml",
            &format!("{data}{}", MODEL.replace("[model.config]", "[model]\ninit_video = \"small\"\n[model.config]")),
            &["small", "its video stream has other sizes"],
        ),
        failed("no file", ccl("train").with("--config", fine.0.path("nowhere.toml")), &["nowhere.toml", "cannot read"]),
        failed("in use as a file", fine.with("").with("--out", fine.0.config()), &["train.toml"]),
    ];
    check(&fine, cases);
}

/// All fail as they should, and nothing is left where results would be.
fn check(fine: &Fine, cases: Vec<Bad>) {
    crate::common::bad::Place::new().check(cases);
    let run = fine.0.path("run");
    let left = if run.is_dir() { crate::common::entries(&run) } else { Vec::new() };
    assert!(left.iter().all(|n| n == ".lock"), "{left:?}");
    fine.with("").ok();
}
