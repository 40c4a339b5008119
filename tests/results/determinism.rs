//! The same bytes run after run and for any number of threads.

use std::fs;
use std::path::Path;

use crate::common::{Ccl, case, ccl, inputs, temp_dir};

/// The bytes that a command writes.
fn output(command: Ccl, dir: &Path) -> Vec<u8> {
    let out = dir.join("out.safetensors");
    command.with("-o", &out).ok();
    fs::read(out).expect("a result")
}

#[test]
fn threads_and_repetition_do_not_change_a_bit() {
    let dir = temp_dir();
    let runs = [
        "forward --task joint --guidance two-pass",
        "forward --task a2v",
        "sample --task joint --guidance two-pass --steps 6 --sampler euler",
        "sample --task joint --guidance two-pass --steps 6 --sampler unipc",
    ];
    for data in ["head128", "small"].map(case) {
        for run in runs {
            let on = |threads: usize| output(ccl(run).on(&data).words(&format!("--threads {threads}")), dir.path());
            let first = on(1);
            for threads in [1, 2, 3, 8] {
                assert!(on(threads) == first, "{run} on {} with {threads} threads", data.display());
            }
            let default = output(ccl(run).on(&data), dir.path());
            assert!(default == first, "{run} on {} with the default threads", data.display());
        }
    }
}

#[test]
fn half_precision_is_deterministic_too() {
    let (dir, data) = (temp_dir(), case("head128"));
    for dtype in ["bf16", "f16"] {
        let run = format!("forward --task joint --guidance three-pass --dtype {dtype}");
        let on = |threads: usize| output(ccl(&run).on(&data).words(&format!("--threads {threads}")), dir.path());
        let first = on(1);
        assert!(on(2) == first && on(3) == first, "{dtype}");
    }
}

#[test]
fn the_seed_is_the_noise() {
    let (dir, data) = (temp_dir(), case("small"));
    // Inputs without noise, so that the seed says it.
    let given = dir.path().join("inputs.safetensors");
    crate::common::tensors::edit(&inputs(&data), &given, |t| t.retain(|name, _| !name.starts_with("noise.")));
    let sample = |seed: &str, task: &str| {
        let run = ccl(&format!("sample --task {task} --steps 2 {seed}")).with("--model", &data);
        output(run.with("--inputs", &given), dir.path())
    };
    let first = sample("--seed 7", "joint");
    assert!(sample("--seed 7", "joint") == first, "the same seed, another result");
    assert!(sample("--seed 8", "joint") != first, "another seed, the same result");
    assert!(sample("", "joint") == sample("--seed 0", "joint"), "the default seed is 0");
    // Noise that is given hides the seed.
    let given = inputs(&data);
    let fixed = |seed: u32| {
        let run = ccl(&format!("sample --task t2v --steps 2 --seed {seed}")).with("--model", &data);
        output(run.with("--inputs", &given), dir.path())
    };
    assert!(fixed(1) == fixed(2));
}
