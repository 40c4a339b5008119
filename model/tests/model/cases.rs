//! Numbers: the built graph against velocities of two references that share no code with it, the PyTorch reference of
//! CCL and diffusers' Wan2.1 transformer.

use std::collections::BTreeMap;

use crate::common::{case_config, read, resolve, shared};
use ccl_ir::interp::evaluate;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Real, Tensor};
use ccl_model::names::{canonical, detect};
use ccl_model::{Clip, Config, CrossAttention, Guidance, Init, Spec, Stream, Task, answers, build, tensors};

type Values<T> = BTreeMap<String, Tensor<T>>;

/// What a case's files hold.
struct Files {
    inputs: Values<f64>,
    expected: Values<f64>,
    /// Weights and inputs; a stream given for reference is the one in the inputs.
    values: Values<f64>,
    /// Audio tokens.
    audio: usize,
}

impl Files {
    fn of(case: &str) -> Self {
        let inputs = read(&format!("{case}/inputs.safetensors"));
        let expected = read(&format!("{case}/expected.safetensors"));
        let mut values = read(&format!("{case}/weights.safetensors"));
        values.extend(inputs.clone());
        for stream in Stream::ALL {
            values.insert(format!("reference.{stream}"), inputs[stream.name()].clone());
        }
        let audio = inputs["audio"].shape[2];
        Self { inputs, expected, values, audio }
    }
}

/// What the case's inputs are a clip of.
fn spec(inputs: &Values<f64>, task: Task, guidance: Guidance, audio: usize) -> Spec {
    let video = &inputs["video"].shape;
    let clip = Clip { frames: video[2], height: video[3], width: video[4], audio };
    Spec {
        batch: video[0],
        text_tokens: inputs["text"].shape[1],
        image_tokens: inputs.get("image").map_or(0, |t| t.shape[1]),
        ..Spec::new(task, clip, guidance)
    }
}

/// Evaluates a task's part of the graph and compares every output with the expected tensor of the same stream.
fn check<T: Real>(case: &str, spec: &Spec, values: &Values<f64>, expected: &Values<f64>, prefix: &str, bound: f64) {
    check_config::<T>(&case_config(case), case, spec, values, expected, prefix, bound);
}

fn check_config<T: Real>(
    config: &Config,
    case: &str,
    spec: &Spec,
    values: &Values<f64>,
    expected: &Values<f64>,
    prefix: &str,
    bound: f64,
) {
    let graph = build(config, spec).unwrap();
    let graph = resolve(&graph, &answers(spec.task, spec.guidance));
    let values: Values<T> = values.iter().map(|(k, v)| (k.clone(), v.convert())).collect();
    let got = evaluate(&graph, &values).unwrap();
    let wanted = Stream::ALL.into_iter().filter(|&m| spec.task.produces(m)).count();
    assert_eq!(got.len(), wanted, "{case} {}: {:?}", spec.task, got.keys());
    for (name, tensor) in &got {
        let stream = name.rsplit('.').next().unwrap();
        let want = &expected[&format!("{prefix}.{stream}")];
        assert_eq!(tensor.shape, want.shape, "{case} {prefix}.{stream}");
        let error = relative_l2(&tensor.data, &want.data);
        assert!(error < bound, "{case} {prefix}.{stream}: relative error {error:.2e} of {bound:.0e}");
    }
}

/// All expected outputs of one case, in f64 and f32.
fn case(name: &str) {
    let case = format!("cases/{name}");
    let Files { inputs, expected, mut values, audio } = Files::of(&case);
    let mut run = |task, guidance, scale: f64, prefix: &str| {
        for stream in Stream::ALL {
            values.insert(format!("scale.{stream}"), Tensor::filled([], scale));
            values.insert(format!("text_scale.{stream}"), Tensor::filled([], 4.0));
        }
        let spec = spec(&inputs, task, guidance, audio);
        check::<f64>(&case, &spec, &values, &expected, prefix, 1e-6);
        check::<f32>(&case, &spec, &values, &expected, prefix, 1e-4);
    };
    for task in Task::ALL {
        run(task, Guidance::None, 1.0, &format!("velocity.{task}"));
    }
    run(Task::Joint, Guidance::TwoPass, 3.0, "guided2");
    run(Task::Joint, Guidance::ThreePass, 2.5, "guided3");
    // Text guidance at scale 1 is the conditional pass, dropping the modality at scale 1 as well.
    run(Task::Joint, Guidance::Text, 1.0, "velocity.joint");
    run(Task::A2v, Guidance::ModalityDrop, 1.0, "velocity.a2v");
    // With context keys only, cond and ctx are one route: two-pass at scale 1 is the conditional pass.
    run(Task::T2v, Guidance::TwoPass, 1.0, "velocity.t2v");
}

#[test]
fn small() {
    case("small");
}

#[test]
fn image() {
    case("image");
}

#[test]
fn shifted() {
    case("shifted");
}

#[test]
fn head128() {
    case("head128");
}

/// The plainer cross attentions that CCA is compared with, against a model in PyTorch's single precision.
#[test]
fn arms() {
    let case = "cases/arms";
    let Files { inputs, expected, values, audio } = Files::of(case);
    for (form, name) in [(CrossAttention::Windowed, "windowed"), (CrossAttention::Dense, "dense")] {
        let config = Config { cross_attention: form, ..case_config(case) };
        for task in Task::ALL {
            let spec = spec(&inputs, task, Guidance::None, audio);
            check_config::<f64>(&config, case, &spec, &values, &expected, &format!("{name}.{task}"), 1e-5);
        }
    }
}

/// A Wan2.1 checkpoint as the video stream of a fresh CCL model.
fn backbone(name: &str) {
    let case = format!("diffusers/{name}");
    let config = case_config(&case);
    let inputs = read(&format!("{case}/inputs.safetensors"));
    let mut foreign = Values::new();
    for entry in std::fs::read_dir(shared(&case)).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file.starts_with("diffusion_pytorch_model") && file.ends_with(".safetensors") {
            foreign.extend(read(&format!("{case}/{file}")));
        }
    }
    let found = detect(foreign.iter().map(|(name, t)| (name.as_str(), &t.shape[..]))).unwrap();
    assert_eq!(found.stream, Some(Stream::Video));
    let mut given: Values<f64> = foreign
        .into_iter()
        .map(|(name, t)| (canonical(found.dialect, Stream::Video, &name).unwrap_or_else(|| panic!("{name}")), t))
        .collect();

    let mut values = inputs.clone();
    for t in tensors(&config) {
        let value = given.remove(&t.name).unwrap_or_else(|| {
            // Only the CCA and the audio stream are not in the file.
            assert!(t.name.contains(".cca.") || t.stream == Stream::Audio, "{} is missing", t.name);
            let fill = match t.init {
                Init::Zeros => 0.0,
                Init::Ones => 1.0,
                Init::Normal { std } => std,
                Init::XavierUniform { fan_in, fan_out } => (6.0 / (fan_in + fan_out) as f64).sqrt(),
            };
            Tensor::filled(t.shape.clone(), fill)
        });
        assert_eq!(value.shape, t.shape, "{}", t.name);
        if t.stream == Stream::Video {
            values.insert(t.name, value);
        }
    }
    assert!(given.is_empty(), "surplus: {:?}", given.keys());
    let expected = read(&format!("{case}/expected.safetensors"));
    let spec = spec(&inputs, Task::T2v, Guidance::None, 10);
    check::<f64>(&case, &spec, &values, &expected, "velocity.t2v", 1e-5);
}

#[test]
fn diffusers_text_to_video() {
    backbone("wan-t2v");
}

#[test]
fn diffusers_image_to_video() {
    backbone("wan-i2v");
}

#[test]
fn wan_original() {
    backbone("wan-original");
}
