//! Tables of runs that must fail, and what all of them promise.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::tensors::{self, Tensors};
use super::{Ccl, case, ccl, copy_model, entries, inputs, temp_dir};

/// Address space of a run: far more than the small models need, far less than lying files claim.
const MEMORY: u64 = 2 << 30;

/// A run that must fail.
pub struct Bad {
    what: String,
    command: Ccl,
    code: i32,
    says: Vec<String>,
}

/// Exit code 2: the command was used wrongly.
pub fn wrong_usage(command: Ccl, says: &[&str]) -> Bad {
    Bad { what: String::new(), command, code: 2, says: says.iter().map(|s| s.to_string()).collect() }
}

/// Exit code 1: the work failed.
pub fn failed(what: &str, command: Ccl, says: &[&str]) -> Bad {
    Bad { what: what.into(), code: 1, ..wrong_usage(command, says) }
}

/// A place for damaged files, and an output directory that must stay empty.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A new one.
    pub fn new() -> Self {
        let dir = temp_dir();
        fs::create_dir(dir.path().join("out")).expect("a directory");
        Self { dir }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where results would go.
    pub fn out(&self) -> PathBuf {
        self.path("out/out.safetensors")
    }

    /// A copy of a case's model with something done to it.
    pub fn model(&self, name: &str, of: &str, damage: impl FnOnce(&Path)) -> PathBuf {
        let to = self.path(name);
        copy_model(&case(of), &to);
        damage(&to);
        to
    }

    /// A copy of a case's model with a field of its configuration changed; `pointer` as in JSON pointers.
    pub fn config(&self, name: &str, pointer: &str, value: Value) -> PathBuf {
        self.model(name, "small", |dir| {
            let file = dir.join("config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            config.pointer_mut(parent).expect("a parent")[field] = value;
            fs::write(file, config.to_string()).expect("a written file");
        })
    }

    /// A copy of a case's weights with some tensors changed, in a model of its own.
    pub fn weights(&self, name: &str, change: impl FnOnce(&mut Tensors)) -> PathBuf {
        self.model(name, "small", |dir| {
            let file = dir.join("weights.safetensors");
            tensors::edit(&file, &file, change);
        })
    }

    /// A copy of a case's inputs with some tensors changed.
    pub fn inputs(&self, name: &str, of: &str, change: impl FnOnce(&mut Tensors)) -> PathBuf {
        let to = self.path(&format!("{name}.safetensors"));
        tensors::edit(&inputs(&case(of)), &to, change);
        to
    }

    /// `forward` of a model on the inputs of `small`.
    pub fn forward(&self, model: &Path) -> Ccl {
        self.forward_on(model, &inputs(&case("small")), "joint")
    }

    /// `forward` of a model on inputs.
    pub fn forward_on(&self, model: &Path, inputs: &Path, task: &str) -> Ccl {
        let run = ccl("forward --task").words(task).with("--model", model);
        run.with("--inputs", inputs).with("-o", self.out())
    }

    /// Runs every case and wants all of them to fail as they should: exit code, one line that says the parts, nothing
    /// written. Reports all that do not.
    pub fn check(&self, cases: Vec<Bad>) {
        let mut wrong = Vec::new();
        for Bad { what, command, code, says } in cases {
            let run = command.memory(MEMORY).run();
            println!(
                "{}: {}",
                if what.is_empty() { &run.line } else { &what },
                run.stderr.lines().last().unwrap_or("")
            );
            let says: Vec<&str> = says.iter().map(String::as_str).collect();
            if let Err(problem) = run.failure(code, &says) {
                wrong.push(format!("{what}: {problem}"));
            }
            if !run.stdout.is_empty() {
                wrong.push(format!("{what}: says on standard output {}", run.stdout));
            }
            let left = entries(&self.path("out"));
            if !left.is_empty() {
                wrong.push(format!("{what}: leaves {left:?}"));
                left.iter().for_each(|f| fs::remove_file(self.path("out").join(f)).expect("a file"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// The header entry of a tensor in a safetensors file.
pub fn entry(dtype: &str, shape: &[u64], offsets: [u64; 2]) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
}
