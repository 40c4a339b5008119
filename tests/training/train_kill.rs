//! Training that is killed again and again ends with the same bytes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::training::{Place, differences};
use crate::common::{Ccl, Run, entries};
use ccl::runtime::random::Stream;

/// Kills.
const KILLS: usize = 20;

/// Steps are cheap: most of the time goes into checkpoints, so that many a kill finds one half written.
const CONFIG: &str = r#"
data = { dir = "data", held_out = 4 }
ema = { decay = 0.9 }
[optimiser]
lr = 1e-2
accumulate = 2
[train]
steps = 200
batch = 2
log_every = 5
checkpoint_every = 2
validate_every = 40
keep_last = 2
"#;

fn last_step(out: &Path) -> Option<String> {
    if !out.is_dir() {
        return None;
    }
    entries(out).into_iter().rfind(|n| n.starts_with("step-"))
}

/// A run that says nothing.
fn quiet(run: &Ccl) -> std::process::Child {
    let nothing = std::process::Stdio::null;
    run.command().stderr(nothing()).stdout(nothing()).spawn().expect("a run")
}

#[test]
fn killed_twenty_times_it_ends_with_the_same_bytes() {
    let place = Place::new(CONFIG);
    let begin = Instant::now();
    place.train("whole").ok();
    let whole = begin.elapsed();
    // What a run takes to start and to make its first checkpoint.
    let begin = Instant::now();
    let mut first = quiet(&place.train("first"));
    while last_step(&place.path("first")).is_none() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = begin.elapsed();
    first.kill().expect("a kill");
    first.wait().expect("an end");
    let resume: Ccl = place.train("killed").words("--resume");
    let out = place.path("killed");
    // A run that is killed starts, and then lives for up to a third of the training.
    let mut random = vec![0.0; 4 * KILLS];
    Stream::new(11, "kills").uniform_at(0, &mut random);
    let (mut kills, mut halves, mut advanced) = (0, 0, 0);
    for r in random {
        let before = last_step(&out);
        let life = start.mul_f64(0.9) + whole.saturating_sub(start).mul_f64((f64::from(r) + 1.0) / 6.0);
        let mut child = quiet(&resume);
        std::thread::sleep(life);
        // SIGKILL: the program cannot clean up.
        child.kill().expect("a kill");
        let status = child.wait().expect("an end");
        if status.success() {
            // Quicker than thought: begin anew, or nothing would be left to kill.
            fs::remove_dir_all(&out).expect("a removed directory");
            continue;
        }
        kills += 1;
        halves += usize::from(out.is_dir() && entries(&out).iter().any(|n| n.ends_with(".part")));
        advanced += usize::from(last_step(&out) > before);
        if kills == KILLS {
            break;
        }
    }
    assert_eq!(kills, KILLS);
    println!(
        "whole {whole:.1?}; of {KILLS} kills {halves} left a checkpoint half written, {advanced} runs had made one"
    );
    assert!(advanced >= 3, "the runs did not live long enough to get on: {advanced}");
    resume.ok();
    assert_eq!(differences(&place.path("whole/step-000200"), &out.join("step-000200")), [""; 0]);
    let left: Vec<String> = entries(&out).into_iter().filter(|n| n.contains("step")).collect();
    assert_eq!(left, ["step-000198", "step-000200"], "nothing is left of what was cut short");
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let steps: Vec<u64> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON")["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=40).map(|i| 5 * i).collect::<Vec<_>>(), "every line once");
}

/// Ctrl-C is no loss at all: the step that is done is kept.
#[cfg(unix)]
#[test]
fn interrupted_it_keeps_the_last_step_and_goes_on_to_the_same_bytes() {
    let place = Place::new(&CONFIG.replace("checkpoint_every = 2", "checkpoint_every = 200"));
    place.train("whole").ok();
    let out = place.path("stopped");
    let child = place
        .train("stopped")
        .command()
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("a run");
    let begin = Instant::now();
    while !out.join("metrics.jsonl").is_file() && begin.elapsed().as_secs() < 60 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("a signal").success());
    let done = child.wait_with_output().expect("an end");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (stdout, stderr) = (text(done.stdout), text(done.stderr));
    let run = Run { line: "train".into(), code: done.status.code(), stdout, stderr };
    run.fails(1, &["stopped at step ", " of 200; ", "--resume"]);
    let kept = last_step(&out).expect("a checkpoint");
    assert!(kept.as_str() < "step-000200" && kept.as_str() >= "step-000005", "{kept}");
    place.train("stopped").words("--resume").ok();
    assert_eq!(differences(&place.path("whole/step-000200"), &out.join("step-000200")), [""; 0]);
}
