//! `ccl data` and `ccl world`: datasets are made, checked and described; clips are asked for, sampled, watched, heard and measured.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::bad::{Place, failed, wrong_usage};
use crate::common::tensors::{self, Tensor};
use crate::common::{case, ccl, entries, temp_dir};

/// Makes a dataset of this many clips.
fn synth(dir: &Path, words: &str) -> PathBuf {
    let data = dir.join("data");
    ccl("data synth").words(words).with("-o", &data).ok();
    data
}

#[test]
fn a_dataset_is_made_checked_and_described() {
    let dir = temp_dir();
    let data = dir.path().join("data");
    let run = ccl("data synth --clips 50 --shard-size 20 --seed 3").with("-o", &data).ok();
    assert!(run.stdout.starts_with(&format!("wrote {}: 50 samples in 3 shards", data.display())), "{}", run.stdout);
    assert_eq!(entries(dir.path()), ["data"]);
    assert_eq!(entries(&data).len(), 4);
    let check = ccl("data check").arg(&data).ok();
    assert_eq!(check.stdout, "ok: 50 samples in 3 shards, every value finite\n");
    let json = ccl("data check --json").arg(&data).ok().json();
    assert_eq!((json["samples"].as_u64(), json["problems"].as_array().map(Vec::len)), (Some(50), Some(0)));
    let info = ccl("data info").arg(&data).ok().stdout;
    for part in ["50 samples in 3 shards", "video", "[4, 16, 8, 4]", "[8, 128]", "seed: 3", "world: \"bounce\""] {
        assert!(info.contains(part), "no {part} in\n{info}");
    }
    let json = ccl("data info --json").arg(&data).ok().json();
    assert_eq!(json["tensors"]["text"]["shape"], serde_json::json!([4, 32]));

    // The same again, byte for byte; more clips begin with the fewer.
    let again = dir.path().join("again");
    ccl("data synth --clips 70 --shard-size 20 --seed 3 --json").with("-o", &again).ok().json();
    for shard in ["shard-00000.safetensors", "shard-00001.safetensors"] {
        assert!(
            fs::read(data.join(shard)).expect("a shard") == fs::read(again.join(shard)).expect("a shard"),
            "{shard}"
        );
    }
    // Half the bytes and the odd rate.
    let half = dir.path().join("half");
    ccl("data synth --clips 3 --rate 121 --dtype bf16").with("-o", &half).ok();
    let json = ccl("data info --json").arg(&half).ok().json();
    assert_eq!(json["tensors"]["audio"], serde_json::json!({ "dtype": "BF16", "shape": [8, 121] }));
    ccl("data check").arg(&half).ok();
}

#[test]
fn what_is_broken_is_named() {
    let dir = temp_dir();
    let data = synth(dir.path(), "--clips 12 --shard-size 6");
    let shard = data.join("shard-00001.safetensors");
    let bytes = fs::read(&shard).expect("a shard");
    fs::write(&shard, &bytes[..bytes.len() - 9]).expect("a shorter file");
    let run = ccl("data check").arg(&data).run();
    run.fails(1, &["data: 2 problems, 1 of 12 samples are broken"]);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("shard-00001.safetensors: is cut short"), "{lines:?}");
    assert_eq!(lines[1], "shard-00001.safetensors: sample 11: truth.symbols cut off");
    let run = ccl("data check --json").arg(&data).run();
    assert_eq!((run.code, &run.json()["broken"]), (Some(1), &serde_json::json!([11])));
    // Whoever wants to use it is told too.
    let out = dir.path().join("in.safetensors");
    ccl("world prompt")
        .with("--from", &data)
        .with("-o", &out)
        .run()
        .fails(1, &["shard-00001.safetensors", "cut short"]);
    assert!(!out.exists());
}

#[test]
fn true_clips_measure_as_true() {
    let dir = temp_dir();
    for rate in [128, 121] {
        let place = dir.path().join(rate.to_string());
        fs::create_dir(&place).expect("a directory");
        let data = synth(&place, &format!("--clips 64 --rate {rate}"));
        let json = ccl("world measure --json").with("--data", &data).ok().json();
        for share in ["recall", "precision", "f1"] {
            assert_eq!(json["sync"][share], serde_json::json!({ "one": 1.0, "half": 1.0 }), "{rate}: {json}");
        }
        assert_eq!((json["timbre_match"].as_f64(), json["colour_ok"].as_f64()), (Some(1.0), Some(1.0)));
        assert_eq!((json["pitch_error"].as_f64(), json["clips"].as_u64()), (Some(0.0), Some(64)));
        let chance = json["chance"]["recall"]["one"].as_f64().expect("a number");
        assert!((0.35..0.6).contains(&chance), "{chance}");
        // From files: what was sampled in one, what was given in the other.
        let given = place.join("given.safetensors");
        ccl("world prompt --sample 5 --clips 3").with("--from", &data).with("-o", &given).ok();
        let sampled = place.join("sampled.safetensors");
        tensors::edit(&given, &sampled, |t| {
            let video = t.remove("video").expect("a video");
            t.clear();
            t.insert("sample.video".into(), video);
        });
        let text = ccl("world measure").with("--input", &sampled).with("--input", &given).ok().stdout;
        assert!(text.starts_with("3 clips, "), "{text}");
        let recall = text.lines().find(|l| l.starts_with("recall ")).expect("a line");
        assert_eq!(recall.split_whitespace().nth(1), Some("1.000"), "{text}");
        // The dataset gives what is missing.
        let with_data = ccl("world measure --sample 5").with("--input", &sampled).with("--data", &data).ok().stdout;
        assert_eq!(with_data, text);
        // Another clip's sound does not fit.
        let wrong = ccl("world measure --sample 6 --json").with("--input", &sampled).with("--data", &data).ok().json();
        assert!(wrong["sync"]["recall"]["half"].as_f64().expect("a number") < 0.9, "{wrong}");
    }
}

#[test]
fn a_prompt_becomes_inputs() {
    let dir = temp_dir();
    let out = dir.path().join("in.safetensors");
    let run = ccl("world prompt --colour blue --pitches 0,2,1 --clips 2").with("-o", &out).ok();
    assert!(
        run.stdout.contains("text [2, 4, 32]") && run.stdout.contains("negative_text [2, 4, 32]"),
        "{}",
        run.stdout
    );
    let made = tensors::read(&out);
    assert!(made["negative_text"].data.iter().all(|&x| x == 0.0));
    let (a, b) = made["text"].data.split_at(128);
    assert!(a == b && a.iter().any(|&x| x != 0.0));
    let prompt = ccl_world::Prompt::of_text(a).expect("a prompt");
    assert_eq!(prompt.to_string(), "blue ball, pitches 0,2,1");

    let data = synth(dir.path(), "--clips 9");
    let world = ccl_world::World::new(0, 128, 9).expect("a world");
    ccl("world prompt --sample 7").with("--from", &data).with("-o", &out).ok();
    let made = tensors::read(&out);
    assert_eq!(made.keys().collect::<Vec<_>>(), ["audio", "negative_text", "text", "video"]);
    let clip = world.clip(7);
    assert!(made["video"].data == clip.video && made["audio"].data == clip.audio && made["text"].data == clip.text);
}

#[test]
fn a_clip_is_written_to_watch_and_to_hear() {
    let dir = temp_dir();
    let data = synth(dir.path(), "--clips 4 --rate 121");
    let given = dir.path().join("in.safetensors");
    ccl("world prompt --clips 4").with("--from", &data).with("-o", &given).ok();
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    let nothing = dir.path().join("nothing");
    fs::create_dir(&nothing).expect("a directory");

    // Without ffmpeg: one note, no failure.
    let decode = ccl("world decode --index 2").with("--input", &given).with("-o", out.join("clip"));
    let run = decode.command().env("PATH", &nothing).output().expect("a run");
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{stderr}");
    assert!(stderr.lines().count() == 1 && stderr.contains("clip.mp4") && stderr.contains("no ffmpeg"), "{stderr}");
    assert!(stdout.contains("clip.png") && stdout.contains("clip.gif") && stdout.contains("clip.wav"), "{stdout}");
    assert_eq!(entries(&out), ["clip.gif", "clip.png", "clip.wav"]);
    let read = |name: &str| fs::read(out.join(name)).expect("a file");
    assert!(read("clip.gif").starts_with(b"GIF89a") && read("clip.png").starts_with(b"\x89PNG"));
    // Four seconds of 16-bit samples.
    assert!(read("clip.wav").starts_with(b"RIFF") && read("clip.wav").len() == 44 + 4 * 16_000 * 2);

    // The same bytes again, and other ones for another clip.
    let before = read("clip.gif");
    let run = |index: usize| {
        ccl(&format!("world decode --index {index}")).with("--input", &given).with("-o", out.join("clip")).ok()
    };
    run(2);
    assert!(read("clip.gif") == before);
    run(1);
    assert!(read("clip.gif") != before);

    // One stream alone.
    let sampled = dir.path().join("sampled.safetensors");
    tensors::edit(&given, &sampled, |t| {
        let audio = t.remove("audio").expect("an audio");
        t.clear();
        t.insert("sample.audio".into(), audio);
    });
    let json = ccl("world decode --json").with("--input", &sampled).with("-o", out.join("a")).ok().json();
    assert_eq!(json["files"].as_array().map(Vec::len), Some(2));
    assert!(entries(&out).contains(&"a.wav".into()) && !entries(&out).contains(&"a.gif".into()));
}

/// Stands in for ffmpeg: says what it was given.
#[cfg(unix)]
#[test]
fn every_picture_and_the_sound_go_into_the_video_file() {
    use std::os::unix::fs::PermissionsExt;

    let dir = temp_dir();
    let given = dir.path().join("in.safetensors");
    let data = synth(dir.path(), "--clips 1");
    ccl("world prompt").with("--from", &data).with("-o", &given).ok();
    let program = dir.path().join("ffmpeg");
    let install = |script: &str| {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    };
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let decode = || {
        let run = ccl("world decode").with("--input", &given).with("-o", dir.path().join("clip"));
        run.command().env("PATH", &path).output().expect("a run")
    };
    install(r#"for out; do :; done; count=$(wc -c); echo "$count $*" > "$out""#);
    let run = decode();
    assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = fs::read_to_string(dir.path().join("clip.mp4")).expect("a file");
    let (count, args) = said.trim().split_once(' ').expect("words");
    let size = args.split_once("-s ").and_then(|(_, rest)| rest.split_once(' ')).expect("a size").0;
    let (width, height) = size.split_once('x').expect("two numbers");
    let picture = width.parse::<usize>().expect("a width") * height.parse::<usize>().expect("a height") * 3;
    assert_eq!(count.parse(), Ok(100 * picture), "100 pictures of {size}");
    assert!(args.contains("-r 25 ") && args.contains("sound.wav") && !args.contains("-shortest"), "{args}");

    install("cat > /dev/null; echo it is broken >&2; exit 3");
    fs::remove_file(dir.path().join("clip.mp4")).expect("a file");
    let run = decode();
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.code() == Some(1) && stderr.contains("clip.mp4: ffmpeg failed: it is broken"), "{stderr}");
    assert!(!dir.path().join("clip.mp4").exists());
    // One that does not even listen.
    install("exit 1");
    let run = decode();
    assert_eq!(run.status.code(), Some(1));
}

#[test]
fn wrong_options_and_files_are_one_line() {
    let p = Place::new();
    let data = p.path("data");
    ccl("data synth --clips 3").with("-o", &data).ok();
    let good = p.path("good.safetensors");
    ccl("world prompt").with("--from", &data).with("-o", &good).ok();
    let synth = |words: &str| ccl("data synth").words(words).with("-o", p.path("out/data"));
    let prompt = |words: &str| ccl("world prompt").words(words).with("-o", p.out());
    let edited = |name: &str, change: &dyn Fn(&mut tensors::Tensors)| {
        let to = p.path(name);
        tensors::edit(&good, &to, change);
        to
    };
    let decode = |file: &Path| ccl("world decode").with("--input", file).with("-o", p.path("out/clip"));
    let measure = |file: &Path| ccl("world measure").with("--input", file);
    let flat = edited("flat.safetensors", &|t| drop(t.insert("video".into(), Tensor::full(&[1, 4, 16, 8, 5], 0.5))));
    let short = edited("short.safetensors", &|t| drop(t.insert("audio".into(), Tensor::full(&[1, 8, 3], 0.5))));
    let batch = edited("batch.safetensors", &|t| drop(t.insert("audio".into(), Tensor::full(&[2, 8, 128], 0.5))));
    let nan = edited("nan.safetensors", &|t| t.get_mut("video").expect("a video").data[5] = f32::NAN);
    let no_video = edited("no-video.safetensors", &|t| drop(t.remove("video")));
    let no_words = edited("no-words.safetensors", &|t| t.get_mut("text").expect("a text").data.fill(0.0));
    let none = edited("none.safetensors", &|t| t.retain(|name, _| name.contains("text")));
    let other = case("small").join("inputs.safetensors");
    p.check(vec![
        wrong_usage(synth("--clips 0"), &["--clips", "0"]),
        wrong_usage(synth("--clips -1"), &["--clips", "-1"]),
        wrong_usage(synth("--clips 99999999999999"), &["--clips", "99999999999999"]),
        wrong_usage(synth("--rate 100"), &["--rate", "128 or 121", "100"]),
        wrong_usage(synth("--shard-size 0"), &["--shard-size"]),
        wrong_usage(synth("--dtype i32"), &["--dtype", "i32"]),
        wrong_usage(ccl("data synth"), &["--output"]),
        wrong_usage(ccl("data dance"), &["dance"]),
        failed("again", ccl("data synth --clips 1").with("-o", &data), &["data", "not empty"]),
        failed("nowhere", ccl("data synth --clips 1").with("-o", p.path("no/data")), &["no/data", "does not exist"]),
        failed("no dataset", ccl("data check").arg(p.path("out")), &["out", "is no dataset", "index.json"]),
        failed("no directory", ccl("data info").arg(&good), &["good.safetensors", "is no directory"]),
        failed("nothing", ccl("data info").arg(p.path("nothing")), &["nothing", "cannot read"]),
        wrong_usage(prompt(""), &["--colour"]),
        wrong_usage(prompt("--colour red"), &["--pitches"]),
        wrong_usage(prompt("--colour pink --pitches 0,1,2"), &["--colour", "pink", "yellow"]),
        wrong_usage(prompt("--colour red --pitches 0,1"), &["--pitches", "0,1", "0,2,1"]),
        wrong_usage(prompt("--colour red --pitches 0,1,4"), &["--pitches", "0,1,4"]),
        wrong_usage(prompt("--colour red --pitches 0,1,2 --clips 0"), &["--clips"]),
        wrong_usage(prompt("--colour red --pitches 0,1,2").with("--from", &data), &["--from"]),
        wrong_usage(prompt("--sample 3").with("--from", &data), &["data", "3 samples", "from 3 on"]),
        wrong_usage(decode(&good).words("--index 1"), &["--index 1", "good.safetensors", "1 clip"]),
        failed("other shape", decode(&flat), &["flat.safetensors", "`video`", "[1, 4, 16, 8, 5]"]),
        failed("few tokens", decode(&short), &["short.safetensors", "`audio`", "[1, 8, 3]"]),
        failed("another world", decode(&other), &["inputs.safetensors", "`video`"]),
        failed("two batches", decode(&batch), &["batch.safetensors", "`audio` has a batch of 2"]),
        failed("nan", decode(&nan), &["nan.safetensors", "`video`", "element 5", "finite"]),
        failed("nothing", decode(&none), &["none.safetensors", "no latent to decode"]),
        failed(
            "nowhere",
            ccl("world decode").with("--input", &good).with("-o", p.path("no/clip")),
            &["no/clip", "does not exist"],
        ),
        wrong_usage(ccl("world measure"), &["--input"]),
        failed("no video", measure(&no_video), &["no-video.safetensors", "no video to measure", "v2a"]),
        failed("no words", measure(&no_words), &["no-words.safetensors", "`text`", "near none"]),
        wrong_usage(measure(&good).with("--data", &data).words("--sample 3"), &["data", "3 samples"]),
        wrong_usage(ccl("world measure --clips 0").with("--data", &data), &["--clips"]),
    ]);
}
