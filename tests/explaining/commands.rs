//! The commands as the README shows them: they say what they do, where the result is, and what their options are.

use crate::common::tensors;
use crate::common::{case, ccl, entries, inputs, temp_dir, tiny};

#[test]
fn sampling_says_how_far_it_is_and_where_the_result_is() {
    let dir = temp_dir();
    let out = dir.path().join("clip.safetensors");
    let streams = [
        ("joint", vec!["audio", "video"]),
        ("a2v", vec!["video"]),
        ("v2a", vec!["audio"]),
        ("t2v", vec!["video"]),
        ("t2a", vec!["audio"]),
        ("t2av", vec!["audio", "video"]),
    ];
    for (task, streams) in streams {
        let sample = ccl(&format!("sample --task {task} --clip 5x8x8@29 --steps 10")).on(&tiny()).with("-o", &out);
        let run = sample.ok();
        let wrote = format!("wrote {}: sample.", out.display());
        assert!(run.stdout.starts_with(&wrote), "{task}: {}", run.stdout);
        let (memory, steps) = run.stderr.split_once('\n').expect("lines");
        assert!(memory.starts_with("memory: "), "{task}: {memory}");
        assert!(steps.starts_with("step 1/10: "), "{task}: {steps}");
        assert!(steps.lines().all(|l| l.starts_with("step ") && l.ends_with(" s left")), "{task}: {steps}");
        assert_eq!(steps.lines().count(), 10, "{task}: {steps}");
        assert!(!run.stderr.contains('\u{1b}'), "colours are for terminals");

        let result = tensors::read(&out);
        let names: Vec<String> = streams.iter().map(|m| format!("sample.{m}")).collect();
        assert!(result.keys().eq(&names), "{task}: {:?}", result.keys());
        assert!(result.values().flat_map(|t| &t.data).all(|x| x.is_finite()));
        for (name, tensor) in &result {
            let shape: &[usize] = if name == "sample.video" { &[1, 4, 5, 8, 8] } else { &[1, 6, 29] };
            assert_eq!(tensor.shape, shape, "{task}");
        }
        let json =
            ccl("--json").words(&format!("sample --task {task} --steps 2")).on(&tiny()).with("-o", &out).ok().json();
        assert_eq!(json["output"], out.to_string_lossy().as_ref());
        assert_eq!(json["tensors"].as_object().map(|t| t.len()), Some(names.len()));
    }
    assert_eq!(entries(dir.path()), ["clip.safetensors"], "nothing else is left");
}

/// Every option that other programs may rely on.
const OPTIONS: [(&str, &str); 19] = [
    ("devices", "--json"),
    ("compile", "--json --model --task --clip --batch --guidance --dtype --target --tuned --output"),
    (
        "explain",
        "--json --model --plan --task --clip --batch --guidance --dtype --target --format --diff --trace --output",
    ),
    (
        "forward",
        "--json --model --plan --inputs --task --guidance --scale-video --scale-audio --text-scale-video \
         --text-scale-audio --backend --dtype --output",
    ),
    (
        "sample",
        "--json --model --plan --inputs --task --clip --steps --shift --sampler --guidance --scale-video --scale-audio \
         --text-scale-video --text-scale-audio --backend --dtype --seed --output",
    ),
    ("grad", "--json --model --inputs --task --backend --output"),
    ("train", "--json --config --resume --out --data --set --seed --backend --threads"),
    ("verify", "--json --model --inputs --expected --tolerance --backend --dtype"),
    (
        "bench step",
        "--json --model --random-weights --task --clip --guidance --steps --repeat --backend --dtype --seed --trace",
    ),
    (
        "bench kernels",
        "--json --filter --set --dtype --time --budget --rotate --device-spec --backend --threads --output",
    ),
    ("bench tune", "--json --backend --model --task --clip --dtype --guidance --time --budget --filter --output"),
    ("bench train", "--json --model --random-weights --task --clip --batch --steps --repeat --backend --seed --trace"),
    ("world eval", "--json --model --task --clips --rate --steps --shift --guidance --scale --seed --backend"),
    ("data synth", "--json --output --clips --rate --seed --shard-size --dtype"),
    ("data check", "--json"),
    ("data info", "--json"),
    ("world prompt", "--json --colour --pitches --from --sample --clips --output"),
    ("world decode", "--json --input --index --output"),
    ("world measure", "--json --input --data --sample --clips"),
];

#[test]
fn help_names_every_command_and_option() {
    let all = ccl("--help").ok();
    assert_eq!(all.stderr, "");
    for (command, options) in OPTIONS {
        let first = command.split(' ').next().expect("a word");
        assert!(all.stdout.contains(&format!("  {first} ")), "no `{first}` in\n{}", all.stdout);
        let help = ccl(command).words("--help").ok();
        assert_eq!(help.stderr, "");
        for option in options.split_whitespace() {
            let named = help.stdout.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(|w| w == option);
            assert!(named, "no {option} in the help of {command}:\n{}", help.stdout);
        }
    }
    let version = ccl("--version").ok().stdout;
    assert_eq!(version.trim(), concat!("ccl ", env!("CARGO_PKG_VERSION")));
    // No command at all: the help, but no success.
    let none = ccl("").run();
    assert_eq!((none.code, none.stdout.as_str()), (Some(2), ""));
    assert!(none.stderr.contains("Usage: ccl"));
}

/// The command that the long help begins with must work where it says.
#[test]
fn the_first_command_of_the_help_works() {
    let help = ccl("--help").ok().stdout;
    let line = help.lines().find_map(|l| l.trim().strip_prefix("ccl sample ")).expect("a command to start with");
    let dir = temp_dir();
    let out = dir.path().join("out.safetensors");
    let sample = ccl("sample").words(&line.replace("-o out.safetensors", "--steps 2")).with("-o", &out);
    let run = sample.command().current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("a run");
    assert!(run.status.success(), "{line}: {}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(entries(dir.path()), ["out.safetensors"]);
}

#[test]
fn devices_say_what_is_there() {
    let text = ccl("devices").ok().stdout;
    assert!(text.starts_with("cpu: ") && text.contains("element types: ") && text.contains("threads: "), "{text}");
    let json = ccl("devices --json").ok().json();
    let cpu = &json[0];
    assert_eq!(cpu["backend"], "cpu");
    assert!(cpu["element_types"].as_array().is_some_and(|t| t.len() >= 3), "{cpu}");
    assert!(cpu["threads"].as_u64().is_some_and(|n| n > 0), "{cpu}");
}

#[test]
fn a_step_is_measured() {
    let dir = temp_dir();
    std::fs::copy(case("small").join("config.json"), dir.path().join("config.json")).expect("a copy");
    let words =
        "bench step --random-weights --task joint --guidance two-pass --clip 4x6x4@21 --steps 2 --repeat 3 --trace";
    let json = ccl(words).words("--json").with("--model", dir.path()).ok().json();
    for field in ["step_s", "prologue_s", "peak_bytes", "flops"] {
        assert!(json[field].as_f64().is_some_and(|x| x > 0.0), "{field}: {json}");
    }
    assert!(json["trace"].as_array().is_some_and(|t| t.iter().any(|s| s["op"] == "linear")), "{json}");
    // The work is the plan's.
    let plan =
        ccl("explain --task joint --guidance two-pass --clip 4x6x4@21 --json").with("--model", dir.path()).ok().json();
    assert_eq!(json["flops"], plan["flops"]["step"]);
    let text = ccl(words).with("--model", dir.path()).ok().stdout;
    assert!(text.contains("step ") && text.contains("GFLOP/s"), "{text}");
}

#[test]
fn every_pass_is_validated_on_request() {
    for (task, guidance) in [("joint", "three-pass"), ("v2a", "two-pass"), ("a2v", "none")] {
        let words = format!("explain --validate --task {task} --guidance {guidance} --clip 4x6x4@21");
        let run = ccl(&words).with("--model", case("small")).ok();
        assert!(run.stderr.starts_with("validated every pass"), "{}", run.stderr);
    }
}

#[test]
fn warnings_are_one_line_each() {
    let dir = temp_dir();
    let out = dir.path().join("out.safetensors");
    let wan = crate::common::diffusers("wan-t2v");
    let run = ccl("forward --task t2v").with("--model", &wan).with("--inputs", inputs(&wan)).with("-o", &out).ok();
    let warnings: Vec<&str> = run.stderr.lines().filter(|l| l.starts_with("warning: ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("start fresh"), "{}", run.stderr);
    // A clip whose windows drift (SPEC 3) is warned of, with how far.
    let run = ccl("explain --task joint --clip 20x6x4@39").with("--model", case("small")).ok();
    assert!(run.stderr.starts_with("warning: audio windows are up to"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1);
    // More on request.
    let run = ccl("explain -v --task joint --clip 4x6x4@21").with("--model", case("small")).ok();
    assert!(run.stderr.contains("info: planned"), "{}", run.stderr);
}
