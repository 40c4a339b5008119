//! The shape of built graphs: what they read, what tasks leave of them, what is refused.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{config, resolve, weights};
use ccl_ir::{Binding, DType, Graph, Op};
use ccl_model::{Config, Guidance, Spec, StreamConfig, Task, answers, build, tensors};

fn spec(task: Task, guidance: Guidance) -> Spec {
    Spec { text_tokens: 7, image_tokens: 9, ..Spec::new(task, "3x4x6@12".parse().unwrap(), guidance) }
}

/// Inputs of a graph: type and binding by name.
fn inputs(graph: &Graph) -> BTreeMap<&str, String> {
    let inputs = graph.nodes().iter().filter_map(|n| match &n.op {
        Op::Input(i) => Some((i.name.as_str(), format!("{} @{}", i.ty, i.binding))),
        _ => None,
    });
    inputs.collect()
}

#[test]
fn only_flags_decide_the_task() {
    for guidance in Guidance::ALL {
        let joint = build(&config(), &spec(Task::Joint, guidance)).unwrap();
        for task in Task::ALL {
            let other = build(&config(), &spec(task, guidance)).unwrap();
            assert_eq!((other.nodes(), &other.outputs), (joint.nodes(), &joint.outputs), "{task} {guidance}");
            assert!(other.name.starts_with(&format!("{task} {guidance} 3x4x6@12")), "{}", other.name);
            let flags: BTreeSet<_> = answers(task, guidance).into_keys().collect();
            let asked = other.nodes().iter().filter_map(|n| match &n.op {
                Op::Route(r) => Some((r.flag.clone(), r.answer)),
                _ => None,
            });
            let asked: BTreeSet<_> = asked.inspect(|(_, answer)| assert!(answer.is_none())).map(|(f, _)| f).collect();
            assert_eq!(asked, flags, "{task} {guidance}");
        }
    }
}

#[test]
fn a_joint_graph_reads_every_tensor() {
    let config = config();
    let graph = build(&config, &spec(Task::Joint, Guidance::ThreePass)).unwrap();
    let list = tensors(&config);
    let want: BTreeMap<_, _> = list.iter().map(|t| (t.name.as_str(), &t.shape[..])).collect();
    assert_eq!(weights(&graph), want);
    let resolved = resolve(&graph, &answers(Task::Joint, Guidance::ThreePass));
    assert_eq!(weights(&resolved), want);
}

#[test]
fn tasks_leave_out_what_they_do_not_need() {
    let left = |task, guidance| {
        let graph = resolve(&build(&config(), &spec(task, guidance)).unwrap(), &answers(task, guidance));
        let outputs: Vec<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
        (weights(&graph).keys().map(|n| n.to_string()).collect::<BTreeSet<_>>(), outputs)
    };
    let (names, outputs) = left(Task::T2v, Guidance::TwoPass);
    assert_eq!(outputs, ["guided.video"]);
    assert!(names.iter().all(|n| n.starts_with("video.")));
    assert!(!names.iter().any(|n| n.contains(".cca.k.") || n.contains(".cca.v.") || n.contains("norm_other")));
    assert!(names.contains("video.blocks.1.cca.context_k.weight"));

    let (names, outputs) = left(Task::A2v, Guidance::None);
    assert_eq!(outputs, ["velocity.video"]);
    // The reference stream ends with the keys of the last block.
    assert!(names.contains("audio.blocks.1.cross_attn.o.weight") && names.contains("audio.blocks.0.ffn.2.weight"));
    assert!(names.contains("audio.blocks.0.cca.context") && !names.contains("audio.blocks.0.cca.k.weight"));
    let tail = |n: &String| {
        n.starts_with("audio.head") || n.starts_with("audio.blocks.1.ffn") || n.starts_with("audio.blocks.1.cca")
    };
    assert!(!names.iter().any(tail));

    let (names, _) = left(Task::T2av, Guidance::ModalityDrop);
    assert!(names.contains("video.blocks.0.cca.o.weight"), "the conditional pass has its attention");
}

#[test]
fn a_reference_stream_sees_nothing_of_the_step() {
    for task in [Task::A2v, Task::V2a] {
        let guidance = Guidance::TwoPass;
        let graph = resolve(&build(&config(), &spec(task, guidance)).unwrap(), &answers(task, guidance));
        let reference = task.reference().unwrap();
        let own = |at: &str| at.split('/').nth(1).is_some_and(|m| m.starts_with(&format!("{reference}.")));
        let mut seen = 0;
        for (node, binding) in graph.nodes().iter().zip(graph.bindings()).filter(|(n, _)| own(&n.at)) {
            assert!(binding <= Binding::Prologue, "{task}: {} at {} is computed in each step", node.op.name(), node.at);
            seen += 1;
        }
        assert!(seen > 50, "{task}: {seen}");
        assert!(inputs(&graph).contains_key(&format!("reference.{reference}")[..]));
        assert!(!inputs(&graph).contains_key(reference.name()));
    }
}

#[test]
fn inputs_and_their_times() {
    let counted = Spec { counted: true, batch: 2, ..spec(Task::Joint, Guidance::ThreePass) };
    let graph = build(&config(), &counted).unwrap();
    let want = [
        ("audio", "f32[2,6,12] @step"),
        ("image", "f32[2,9,20] @prologue"),
        ("image_len", "i32[] @prologue"),
        ("negative_text", "f32[2,7,24] @prologue"),
        ("negative_text_len", "i32[] @prologue"),
        ("reference.audio", "f32[2,6,12] @prologue"),
        ("reference.video", "f32[2,4,3,4,6] @prologue"),
        ("scale.audio", "f32[] @prologue"),
        ("scale.video", "f32[] @prologue"),
        ("t", "f32[2] @step"),
        ("text", "f32[2,7,24] @prologue"),
        ("text_len", "i32[] @prologue"),
        ("text_scale.audio", "f32[] @prologue"),
        ("text_scale.video", "f32[] @prologue"),
        ("video", "f32[2,4,3,4,6] @step"),
        ("video_condition", "f32[2,5,3,4,6] @prologue"),
    ];
    assert_eq!(inputs(&graph), want.map(|(k, v)| (k, v.to_owned())).into());
    let counts = graph.nodes().iter().filter(|n| matches!(&n.op, Op::Attention(a) if a.counted)).count();
    assert_eq!(counts, 3 * 2 * 3, "three passes, two blocks: text in both streams and the image");

    let plain = Spec { image_tokens: 0, ..spec(Task::Joint, Guidance::None) };
    let graph = build(&config(), &plain).unwrap();
    let names: Vec<_> = inputs(&graph).into_keys().collect();
    assert_eq!(names, ["audio", "reference.audio", "reference.video", "t", "text", "video", "video_condition"]);
    assert!(!weights(&graph).keys().any(|n| n.contains("img")));
}

#[test]
fn only_matrices_are_stored_in_half_precision() {
    let half = Spec { weight_dtype: DType::Bf16, ..spec(Task::Joint, Guidance::None) };
    let graph = build(&config(), &half).unwrap();
    for node in graph.nodes() {
        match &node.op {
            Op::Weight(w) => {
                let matrix = w.ty.rank() >= 2 && w.name.ends_with(".weight");
                assert_eq!(w.ty.dtype, if matrix { DType::Bf16 } else { DType::F32 }, "{}", w.name);
            }
            Op::Reshape(_) => {}
            _ => assert!(node.types.iter().all(|t| t.dtype != DType::Bf16), "{} at {}", node.op.name(), node.at),
        }
    }
}

#[test]
fn layers_are_named_by_pass_and_module() {
    let config = config();
    let graph = build(&config, &spec(Task::Joint, Guidance::TwoPass)).unwrap();
    let at = |f: fn(&Op) -> bool| graph.nodes().iter().filter(|n| f(&n.op)).map(|n| n.at.clone()).collect::<Vec<_>>();
    let linears = at(|op| matches!(op, Op::Linear(_)));
    let distinct: BTreeSet<_> = linears.iter().cloned().collect();
    assert_eq!(distinct.len(), linears.len(), "a linear's path comes twice");
    let modules = tensors(&config).into_iter().filter(|t| t.shape.len() >= 2 && t.name.ends_with(".weight"));
    let modules: Vec<String> = modules.filter_map(|t| Some(t.name.strip_suffix(".weight")?.to_owned())).collect();
    let want = ["uncond", "cond"].iter().flat_map(|p| modules.iter().map(move |m| format!("{p}/{m}"))).collect();
    assert_eq!(distinct, want);
    assert!(at(|op| matches!(op, Op::RmsNorm(_))).contains(&"cond/video.blocks.1.cca.norm_q".to_owned()));
}

#[test]
fn settings_that_are_refused() {
    let good = spec(Task::Joint, Guidance::None);
    let no_image = Config { image_dim: 0, ..config() };
    for (config, spec, part) in [
        (config(), Spec { batch: 0, ..good.clone() }, "the batch must be 1 to 65536, is 0"),
        (config(), Spec { batch: 65_537, ..good.clone() }, "is 65537"),
        (config(), Spec { text_tokens: 0, ..good.clone() }, "text tokens"),
        (config(), Spec { image_tokens: 1 << 21, ..good.clone() }, "image tokens"),
        (no_image, good.clone(), "takes no image"),
        (config(), Spec { weight_dtype: DType::I32, ..good.clone() }, "cannot be stored as i32"),
        (config(), Spec { clip: "3x5x6@12".parse().unwrap(), ..good.clone() }, "rows (5)"),
        (Config { layers: 0, ..config() }, good.clone(), "`layers`"),
        (config(), Spec { batch: 65_536, clip: "4096x1024x1024@1".parse().unwrap(), ..good }, "too many elements"),
    ] {
        let message = build(&config, &spec).expect_err(part).to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn the_paper_size_builds() {
    let video =
        StreamConfig { dim: 5120, ffn_dim: 13824, heads: 40, in_channels: 16, out_channels: 16, patch: vec![1, 2, 2] };
    let audio = StreamConfig { dim: 1536, ffn_dim: 8960, heads: 12, in_channels: 20, out_channels: 20, patch: vec![1] };
    let config = Config::new(video, audio, 40);
    let spec = Spec::new(Task::V2a, "21x44x80@158".parse().unwrap(), Guidance::None);
    let graph = resolve(&build(&config, &spec).unwrap(), &answers(spec.task, spec.guidance));
    // SPEC 5: 50 steps take 41,664 TFLOP when nothing is computed ahead. That counts the tail of the reference stream,
    // which is not wanted and not here: q and o of its last cross-modal attention, and its last feed-forward.
    let tail = 2.0 * 18_480.0 * (2.0 * 5120.0 * 5120.0 + 2.0 * 5120.0 * 13824.0);
    let total = 50.0 * (graph.total_work().flops as f64 + tail) / 1e12;
    assert!((total / 41_664.0 - 1.0).abs() < 2e-4, "{total} TFLOP");
}
