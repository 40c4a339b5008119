//! What the command line's tests share: running the program, tensors in files, the cases, copies of models.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod bad;
pub mod page;
pub mod tensors;
pub mod training;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// The released sizes: 14B for video, 1.3B for audio; every other field has its default.
pub const WAN_14B: &str = r#"{
    "video": {"dim": 5120, "ffn_dim": 13824, "heads": 40, "in_channels": 16, "out_channels": 16, "patch": [1, 2, 2]},
    "audio": {"dim": 1536, "ffn_dim": 8960, "heads": 12, "in_channels": 20, "out_channels": 20, "patch": [1]},
    "layers": 40
}"#;

/// A case of `tests/cases`.
pub fn case(name: &str) -> PathBuf {
    root().join("tests/cases").join(name)
}

/// A checkpoint of `tests/diffusers`.
pub fn diffusers(name: &str) -> PathBuf {
    root().join("tests/diffusers").join(name)
}

/// The model of the README's first command.
pub fn tiny() -> PathBuf {
    root().join("examples/tiny")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs of a case.
pub fn inputs(case: &Path) -> PathBuf {
    case.join("inputs.safetensors")
}

/// Clip and batch of a case, as the command line writes them.
pub fn clip_of(case: &Path) -> (String, usize) {
    let inputs = tensors::read(&inputs(case));
    let (video, audio) = (&inputs["video"].shape, &inputs["audio"].shape);
    (format!("{}x{}x{}@{}", video[2], video[3], video[4], audio[2]), video[0])
}

/// An empty directory that goes away with the value.
pub fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Copies a model's configuration and weights, and nothing else, into a new directory `to`.
pub fn copy_model(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new directory");
    for name in ["config.json", "weights.safetensors"] {
        fs::copy(from.join(name), to.join(name)).expect("a copy of a model's file");
    }
}

/// Names of the entries of a directory, sorted.
pub fn entries(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        list.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A device of CUDA.
#[derive(Clone, Copy, Debug)]
pub struct Cuda {
    /// Whether it interprets kernels, slowly.
    pub software: bool,
}

/// The first device of CUDA; where there is none, a line on standard error says so, past the test harness, which keeps what tests that pass write.
pub fn cuda() -> Option<Cuda> {
    let devices = ccl("devices --json").ok().json();
    let found = devices.as_array().expect("a list").iter().find(|d| d["backend"] == "cuda");
    if found.is_none() {
        let _ = writeln!(std::io::stderr(), "NOT RUN on cuda: no device; ./test.sh builds a software one (softcuda)");
    }
    found.map(|d| Cuda { software: d["kind"] == "software driver" })
}

/// A command line in the making.
pub struct Ccl {
    args: Vec<OsString>,
    memory: Option<u64>,
    env: Vec<(&'static str, String)>,
}

/// `ccl` with these words, split at blanks.
pub fn ccl(words: &str) -> Ccl {
    Ccl { args: words.split_whitespace().map(OsString::from).collect(), memory: None, env: Vec::new() }
}

impl Ccl {
    /// More words, split at blanks.
    pub fn words(mut self, words: &str) -> Self {
        self.args.extend(words.split_whitespace().map(OsString::from));
        self
    }

    /// An option with a value that may have blanks.
    pub fn with(mut self, option: &str, value: impl Into<OsString>) -> Self {
        self.args.extend([option.into(), value.into()]);
        self
    }

    /// One more word, which may have blanks.
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.args.push(word.into());
        self
    }

    /// The weights' and inputs' options for a case.
    pub fn on(self, case: &Path) -> Self {
        self.with("--model", case).with("--inputs", inputs(case))
    }

    /// At most so many bytes of address space: an allocation of what a file claims fails.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// The process, not started.
    pub fn command(&self) -> Command {
        let program = assert_cmd::cargo::cargo_bin!("ccl");
        let mut command = match self.memory {
            None => Command::new(program),
            Some(bytes) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"ulimit -v "$0" && exec "$@""#]).arg((bytes / 1024).to_string()).arg(program);
                // Address space that the allocator and idle threads only reserve depends on the machine's cores.
                shell.env("MALLOC_ARENA_MAX", "2").env("RAYON_NUM_THREADS", "2");
                shell
            }
        };
        command.args(&self.args).env_remove("CCL_LOG").envs(self.env.iter().cloned());
        command
    }

    /// Runs it.
    pub fn run(&self) -> Run {
        let output = self.command().output().expect("the program starts");
        Run {
            line: self.args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text on stdout"),
            stderr: String::from_utf8(output.stderr).expect("text on stderr"),
        }
    }

    /// Runs it and wants success.
    #[track_caller]
    pub fn ok(&self) -> Run {
        let run = self.run();
        assert_eq!(run.code, Some(0), "ccl {}\n{}{}", run.line, run.stdout, run.stderr);
        run
    }
}

/// What a run left.
#[derive(Debug)]
pub struct Run {
    /// The arguments.
    pub line: String,
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("ccl {}: {e}\n{}", self.line, self.stdout))
    }

    /// What is wrong with this run as a failure with exit code `code` whose one error line has all of `parts`.
    pub fn failure(&self, code: i32, parts: &[&str]) -> Result<(), String> {
        let fail = |what: String| Err(format!("{what}\n  ccl {}\n  {:?}: {}", self.line, self.code, self.stderr));
        if self.code != Some(code) {
            return fail(format!("exit code {code} was wanted"));
        }
        let lines: Vec<&str> = self.stderr.lines().collect();
        let (last, before) = lines.split_last().unwrap_or((&"", &[]));
        if !last.starts_with("error: ") {
            return fail("the last line is no error".into());
        }
        let allowed = |l: &&str| ["warning: ", "memory: ", "step ", "training "].iter().any(|p| l.starts_with(p));
        if let Some(line) = before.iter().find(|l| !allowed(l)) {
            return fail(format!("an unexpected line before the error: {line}"));
        }
        let lower = self.stderr.to_lowercase();
        if ["panicked", "backtrace", "unwrap"].iter().any(|w| lower.contains(w)) {
            return fail("a panic".into());
        }
        match parts.iter().find(|p| !last.contains(**p)) {
            Some(part) => fail(format!("the error does not say `{part}`")),
            None => Ok(()),
        }
    }

    /// [`Run::failure`], or the test ends here.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        if let Err(what) = self.failure(code, parts) {
            panic!("{what}");
        }
    }
}
