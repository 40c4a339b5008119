//! What the tests of this crate share.
#![allow(dead_code, reason = "each test program uses its own part")]

use ccl_ir::plan::About;
use ccl_ir::{DType, Graph, Plan};
use ccl_model::{Config, Guidance, Spec, Task, answers, build};
use ccl_passes::{Options, compile};

/// The 14B model: Wan2.1's video stream and the default audio stream.
pub fn wan14b() -> Config {
    Config::from_json(
        r#"{"video": {"dim": 5120, "ffn_dim": 13824, "heads": 40, "in_channels": 16, "out_channels": 16, "patch": [1, 2, 2]},
            "audio": {"dim": 1536, "ffn_dim": 8960, "heads": 12, "in_channels": 20, "out_channels": 20, "patch": [1]},
            "layers": 40}"#,
    )
    .unwrap()
}

/// A model small enough for the interpreter.
pub fn small(extra: &str) -> Config {
    let text = format!(
        r#"{{"video": {{"dim": 24, "ffn_dim": 20, "heads": 2, "in_channels": 3, "out_channels": 3, "patch": [1, 2, 2]}},
            "audio": {{"dim": 16, "ffn_dim": 20, "heads": 1, "in_channels": 4, "out_channels": 4, "patch": [1]}},
            "layers": 2, "text_dim": 10, "freq_dim": 16, "audio_context_tokens": 3, "video_context_tokens": 5{extra}}}"#
    );
    Config::from_json(&text).unwrap()
}

/// What a plan is for; the compiler does not read it.
pub fn about() -> About {
    About::no_model("test", 1, DType::F32)
}

/// The unspecialised graph.
pub fn graph(config: &Config, task: Task, guidance: Guidance, clip: &str) -> Graph {
    let mut spec = Spec::new(task, clip.parse().unwrap(), guidance);
    spec.counted = true;
    build(config, &spec).unwrap()
}

/// A plan.
pub fn plan(config: &Config, task: Task, guidance: Guidance, clip: &str, options: &Options) -> Plan {
    let graph = graph(config, task, guidance, clip);
    compile(&graph, &answers(task, guidance), about(), options).unwrap()
}
