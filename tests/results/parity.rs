//! `ccl verify`: what the engine computes agrees with the references of `tests/cases` and `tests/diffusers`.

use std::path::{Path, PathBuf};

use crate::common::tensors::{self, Tensor};
use crate::common::{Ccl, Run, case, ccl, clip_of, copy_model, cuda, diffusers, inputs, temp_dir};
use safetensors::tensor::Dtype;

/// Every directory with expected results, and how many of those the program computes: velocities, guided results and samples, and beside them losses and
/// gradients.
fn all_cases() -> Vec<(PathBuf, usize, usize)> {
    let ours =
        [("small", 327), ("image", 0), ("shifted", 189), ("head128", 6)].map(|(c, trained)| (case(c), 14, trained));
    let theirs = ["wan-t2v", "wan-i2v", "wan-original"].map(|c| (diffusers(c), 1, 0));
    ours.into_iter().chain(theirs).collect()
}

fn verify(case: &Path, options: &str) -> Ccl {
    ccl("verify --json").on(case).with("--expected", case.join("expected.safetensors")).words(options)
}

/// The differences that a run of `verify` reports, all of them numbers.
fn differences(run: &Run) -> Vec<(String, f64)> {
    let verdict = run.json();
    let compared = verdict["compared"].as_array().expect("a list").iter();
    let pair = |c: &serde_json::Value| {
        let error = c["relative_l2"].as_f64().unwrap_or_else(|| panic!("no number: {c}"));
        (c["name"].as_str().expect("a name").to_string(), error)
    };
    compared.map(pair).collect()
}

#[test]
fn every_case_agrees_on_every_backend() {
    // wgpu runs on any Vulkan driver; the suite installs a software one where there is none.
    for backend in ["cpu", "reference", "wgpu"].into_iter().chain(real_cuda()) {
        for (case, count, trained) in all_cases() {
            let run = verify(&case, &format!("--backend {backend} --threads 2")).ok();
            assert_eq!(run.json()["ok"], true, "{}", run.stdout);
            let found = differences(&run);
            assert_eq!(found.len(), count + trained, "{} on {backend}: {found:?}", case.display());
            for (name, error) in found {
                // The contract asks for 1e-4; f32 arithmetic gives far better, and drift should be seen.
                assert!(error < 2e-5, "{} on {backend}: {name} differs by {error:e}", case.display());
            }
        }
    }
}

/// Tokens, weights and kernels in half precision: samples of six steps too.
#[test]
fn half_precision_on_gpus_stays_close() {
    // The contract's bounds; what is seen is better, and drift should be seen too.
    let runs = [("wgpu", "f16", 5e-3, 4e-3)].into_iter();
    let on_cuda = [("cuda", "f16", 5e-3, 4e-3), ("cuda", "bf16", 2e-2, 2e-2)];
    for (backend, dtype, tolerance, usual) in runs.chain(real_cuda().into_iter().flat_map(|_| on_cuda)) {
        for (case, count, _) in all_cases() {
            let run = verify(&case, &format!("--backend {backend} --dtype {dtype} --tolerance {tolerance}")).ok();
            let found = differences(&run);
            assert_eq!(found.len(), count, "{} on {backend}: {found:?}", case.display());
            let worst = found.iter().fold(0.0, |worst: f64, (_, e)| worst.max(*e));
            println!("{} on {backend} in {dtype}: {worst:.1e}", case.display());
            assert!((1e-5..usual).contains(&worst), "{} on {backend} in {dtype}: {found:?}", case.display());
        }
    }
}

#[test]
fn every_level_of_vector_instructions_agrees() {
    // A level that the machine lacks is one below.
    let levels: &[&str] = if cfg!(target_arch = "x86_64") { &["scalar", "avx2", "avx512"] } else { &["scalar"] };
    let case = case("head128");
    for level in levels {
        let run = verify(&case, "--backend cpu --threads 2").env("CCL_SIMD", level).ok();
        for (name, error) in differences(&run) {
            assert!(error < 2e-5, "{name} differs by {error:e} with {level}");
        }
    }
    verify(&case, "--backend cpu").env("CCL_SIMD", "mmx").run().fails(2, &["CCL_SIMD", "mmx", "scalar"]);
}

/// `cuda` where the machine has an NVIDIA GPU.
fn real_cuda() -> Option<&'static str> {
    cuda().filter(|device| !device.software).map(|_| "cuda")
}

/// A software driver interprets every kernel: a part of the cases, of every kind of result.
#[test]
fn a_part_of_the_cases_agrees_on_a_software_driver_of_cuda() {
    if !cuda().is_some_and(|device| device.software) {
        return;
    }
    let dir = temp_dir();
    let parts: [(&str, &str, f64, &dyn Fn(&str) -> bool); 3] = [
        ("small", "", 2e-5, &|name| {
            name.starts_with("velocity.joint") || name.starts_with("sample.") || name == "loss.joint"
        }),
        ("head128", "", 2e-5, &|name| name.starts_with("guided3.") || name.starts_with("loss.")),
        ("small", "--dtype bf16", 2e-2, &|name| name.starts_with("guided2.") || name.starts_with("velocity.v2a")),
    ];
    for (name, options, tolerance, part) in parts {
        let expected = dir.path().join("expected.safetensors");
        tensors::edit(&case(name).join("expected.safetensors"), &expected, |t| t.retain(|name, _| part(name)));
        let run = ccl("verify --json --backend cuda").on(&case(name)).with("--expected", &expected).words(options);
        let found = differences(&run.words(&format!("--tolerance {tolerance}")).ok());
        assert!(found.len() >= 2, "{name} {options}: {found:?}");
    }
}

#[test]
fn half_precision_weights_stay_close_and_take_half_the_memory() {
    let case = case("head128");
    let (clip, batch) = clip_of(&case);
    let weight_bytes = |dtype: &str| {
        let run = ccl("explain --task joint --json").with("--model", &case).with("--clip", &clip);
        let run = run.words(&format!("--batch {batch} --dtype {dtype}")).ok();
        run.json()["weight_bytes"].as_u64().expect("a number")
    };
    let full = weight_bytes("f32");
    for dtype in ["bf16", "f16"] {
        let run = verify(&case, &format!("--dtype {dtype} --tolerance 2e-2")).ok();
        let found = differences(&run);
        assert_eq!(found.len(), 14);
        // Not the f32 results by accident.
        assert!(found.iter().all(|(_, e)| *e > 1e-5), "{dtype}: {found:?}");
        // Vectors stay in f32: a little more than half.
        let share = weight_bytes(dtype) as f64 / full as f64;
        assert!((0.5..0.53).contains(&share), "{dtype}: {share}");
        // Beyond its own tolerance it fails.
        verify(&case, &format!("--dtype {dtype} --tolerance 1e-5")).run().fails(1, &["differ by more than 1e-5"]);
    }
}

#[test]
fn weights_stored_in_bf16_are_their_f32_values() {
    let (dir, small) = (temp_dir(), case("small"));
    let (narrow, wide) = (dir.path().join("narrow"), dir.path().join("wide"));
    copy_model(&small, &narrow);
    copy_model(&small, &wide);
    let mut weights = tensors::read(&small.join("weights.safetensors"));
    tensors::write(&narrow.join("weights.safetensors"), &weights, Dtype::BF16);
    tensors::round_to_bf16(&mut weights);
    tensors::write(&wide.join("weights.safetensors"), &weights, Dtype::F32);

    let forward = |model: &Path, options: &str| {
        let out = dir.path().join("out.safetensors");
        // By the same program: the algebra prices matrices by their type, and may take another.
        let run = ccl("forward --task joint --guidance two-pass --rules none").with("--model", model).words(options);
        let run = run.with("--inputs", inputs(&small)).with("-o", &out).ok();
        (std::fs::read(out).expect("a result"), run.stderr)
    };
    let (want, wide_memory) = forward(&wide, "");
    // As stored, and widened before use.
    let (got, narrow_memory) = forward(&narrow, "");
    assert!(got == want, "bf16 storage changes the result");
    assert_ne!(narrow_memory, wide_memory, "the memory line should show the smaller weights");
    let (got, widened_memory) = forward(&narrow, "--dtype f32");
    assert!(got == want, "widening bf16 to f32 changes the result");
    assert_eq!(widened_memory, wide_memory);
}

#[test]
fn a_wrong_expectation_is_found() {
    let (dir, small) = (temp_dir(), case("small"));
    let expected = dir.path().join("expected.safetensors");
    let against = |expected: &Path| ccl("verify --json").on(&small).with("--expected", expected);

    // One number of one result.
    tensors::edit(&small.join("expected.safetensors"), &expected, |t| {
        t.retain(|name, _| name.starts_with("velocity."));
        t.get_mut("velocity.joint.audio").expect("a result").data[17] += 0.1;
    });
    let run = against(&expected).run();
    run.fails(1, &["1 of 8 results differ"]);
    let wrong: Vec<String> = differences(&run).into_iter().filter(|(_, e)| *e > 1e-4).map(|(name, _)| name).collect();
    assert_eq!((wrong, &run.json()["ok"]), (vec!["velocity.joint.audio".to_string()], &false.into()));

    let only = |tensor: Tensor| {
        tensors::edit(&small.join("expected.safetensors"), &expected, |t| {
            t.retain(|name, _| name == "velocity.t2a.audio");
            t.insert("velocity.t2a.audio".into(), tensor);
        });
        against(&expected).run()
    };
    let run = only(Tensor::full(&[2, 6, 20], 0.0));
    run.fails(1, &["1 of 1 results differ"]);
    assert!(run.json()["compared"][0]["relative_l2"].is_null());
    // NaN agrees with nothing.
    only(Tensor::full(&[2, 6, 21], f32::NAN)).fails(1, &["expected.safetensors", "velocity.t2a.audio", "NaN"]);
}

#[test]
fn nothing_to_compare_is_a_failure() {
    let (dir, small) = (temp_dir(), case("small"));
    let expected = dir.path().join("expected.safetensors");
    tensors::edit(&small.join("expected.safetensors"), &expected, |t| {
        t.clear();
        t.insert("something.else".into(), Tensor::full(&[2], 0.0));
    });
    let run = ccl("verify --json").on(&small).with("--expected", &expected).run();
    run.fails(1, &["expected.safetensors", "no result that can be computed"]);
    assert_eq!(run.json()["not_computed"].as_array().map(Vec::len), Some(1));
}
