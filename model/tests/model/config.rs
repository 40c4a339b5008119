//! Configurations: what is read, and what each wrong field is told.

use ccl_ir::partition::Edge;
use ccl_model::{Config, WindowCenter};

const GOOD: &str = r#"{
    "video": {"dim": 64, "ffn_dim": 128, "heads": 2, "in_channels": 4, "out_channels": 4, "patch": [1, 2, 2]},
    "audio": {"dim": 32, "ffn_dim": 64, "heads": 1, "in_channels": 6, "out_channels": 6, "patch": [1]},
    "layers": 2, "text_dim": 24}"#;

/// `GOOD` with one part replaced must be refused; the message is one line with all these parts.
fn refused(base: &str, from: &str, to: &str, parts: &[&str]) {
    let text = base.replacen(from, to, 1);
    assert_ne!(text, base, "`{from}` is not in the configuration");
    let message = Config::from_json(&text).expect_err(to).to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{to}` gives `{message}`, without `{part}`");
    }
}

#[test]
fn defaults_and_cases() {
    let c = Config::from_json(GOOD).unwrap();
    assert_eq!((c.text_dim, c.freq_dim, c.eps, c.rope_theta, c.image_dim), (24, 256, 1e-6, 1e4, 0));
    assert_eq!((c.audio_context_tokens, c.video_context_tokens, c.window_frames), (8, 128, 3));
    assert_eq!((c.window_center, c.window_edge), (WindowCenter::Paper, Edge::Mask));
    assert_eq!((c.video.head_dim(), c.audio.head_dim()), (32, 32));
    let shifted = crate::common::case_config("cases/shifted");
    assert_eq!((shifted.window_center, shifted.window_edge), (WindowCenter::Proportional, Edge::Shift));
}

#[test]
fn what_is_written_is_read_back() {
    for case in ["cases/small", "cases/image", "cases/shifted", "cases/head128", "diffusers/wan-i2v"] {
        let config = crate::common::case_config(case);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(Config::from_json(&text).unwrap(), config);
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }
    let error = serde_json::from_str::<Config>(&GOOD.replace("\"layers\": 2", "\"layers\": 0")).unwrap_err();
    assert!(error.to_string().contains("`layers`"), "{error}");
}

#[test]
fn no_json() {
    for text in ["", "{", "nonsense", "{\"layers\": 1,}"] {
        let message = Config::from_json(text).unwrap_err().to_string();
        assert!(message.starts_with("not JSON: "), "{message}");
    }
    refused(GOOD, GOOD, "[1, 2]", &["must be an object", "[1,2]"]);
}

#[test]
fn wrong_fields() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("\"layers\"", "\"layrs\"", &["`layrs` is unknown", "layers", "window_edge"]),
        ("\"ffn_dim\": 128", "\"ffn\": 128", &["`video.ffn` is unknown", "ffn_dim", "patch"]),
        ("\"layers\": 2,", "", &["`layers` is missing"]),
        ("\"heads\": 2, ", "", &["`video.heads` is missing"]),
        ("\"dim\": 64", "\"dim\": \"wide\"", &["`video.dim`", "whole number", "wide"]),
        ("\"dim\": 64", "\"dim\": -64", &["`video.dim`", "whole number", "-64"]),
        ("\"dim\": 64", "\"dim\": 64.5", &["`video.dim`", "whole number", "64.5"]),
        ("\"dim\": 64", "\"dim\": 0", &["`video.dim`", "1 to 1048576", "is 0"]),
        ("\"dim\": 64", "\"dim\": 2097152", &["`video.dim`", "1 to 1048576", "2097152"]),
        ("\"dim\": 64", "\"dim\": 65", &["`video.dim`", "multiple of the 2 heads", "65"]),
        ("\"dim\": 64", "\"dim\": 62", &["`video.dim`", "31 channels", "even"]),
        ("\"ffn_dim\": 64", "\"ffn_dim\": 0", &["`audio.ffn_dim`"]),
        ("\"heads\": 1", "\"heads\": 0", &["`audio.heads`"]),
        ("\"in_channels\": 4", "\"in_channels\": 3", &["`video.in_channels`", "at least out_channels (4)"]),
        ("\"in_channels\": 6", "\"in_channels\": 7", &["`audio.in_channels`", "equal out_channels (6)"]),
        ("\"out_channels\": 4", "\"out_channels\": 0", &["`video.out_channels`"]),
        ("[1, 2, 2]", "[1, 2]", &["`video.patch`", "3 sizes", "has 2"]),
        ("[1, 2, 2]", "[1, 0, 2]", &["`video.patch`", "1 to 64", "is 0"]),
        ("[1]", "[1, 1]", &["`audio.patch`", "1 sizes", "has 2"]),
        ("[1]", "1", &["`audio.patch`", "list"]),
        ("\"layers\": 2", "\"layers\": 0", &["`layers`", "1 to 1000"]),
        ("\"layers\": 2", "\"layers\": 1001", &["`layers`", "1 to 1000", "1001"]),
        ("\"text_dim\": 24", "\"text_dim\": 0", &["`text_dim`"]),
        ("\"text_dim\": 24", "\"freq_dim\": 33", &["`freq_dim`", "even", "33"]),
        ("\"text_dim\": 24", "\"freq_dim\": 0", &["`freq_dim`", "1 to"]),
        ("\"text_dim\": 24", "\"eps\": 0.0", &["`eps`", "above zero"]),
        ("\"text_dim\": 24", "\"eps\": -1e-6", &["`eps`", "above zero"]),
        ("\"text_dim\": 24", "\"eps\": null", &["`eps`", "a number", "null"]),
        ("\"text_dim\": 24", "\"rope_theta\": 0", &["`rope_theta`", "above zero"]),
        ("\"text_dim\": 24", "\"image_dim\": 99999999", &["`image_dim`", "no image"]),
        ("\"text_dim\": 24", "\"audio_context_tokens\": 0", &["`audio_context_tokens`"]),
        ("\"text_dim\": 24", "\"video_context_tokens\": 0", &["`video_context_tokens`"]),
        ("\"text_dim\": 24", "\"window_frames\": 0", &["`window_frames`", "1 to"]),
        ("\"text_dim\": 24", "\"window_center\": \"middle\"", &["`window_center`", "\"proportional\"", "middle"]),
        ("\"text_dim\": 24", "\"window_edge\": 3", &["`window_edge`", "\"mask\"", "\"replicate\"", "3"]),
        ("\"layers\": 2", "\"a\\nb\": 2", &["`a\\nb` is unknown"]),
    ];
    for (from, to, parts) in cases {
        refused(GOOD, from, to, parts);
    }
    let huge = GOOD.replace("\"dim\": 64, \"ffn_dim\": 128", "\"dim\": 1048576, \"ffn_dim\": 1048576");
    refused(&huge, "\"layers\": 2", "\"layers\": 1000", &["`layers`", "parameters"]);
}

/// diffusers' file for Wan2.1 T2V 14B.
const DIFFUSERS: &str = r#"{"_class_name": "WanTransformer3DModel", "_diffusers_version": "0.33.0.dev0",
    "added_kv_proj_dim": null, "attention_head_dim": 128, "cross_attn_norm": true, "eps": 1e-06, "ffn_dim": 13824,
    "freq_dim": 256, "image_dim": null, "in_channels": 16, "num_attention_heads": 40, "num_layers": 40,
    "out_channels": 16, "patch_size": [1, 2, 2], "pos_embed_seq_len": null, "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 4096}"#;

/// Wan2.1's own for T2V 14B.
const WAN: &str = r#"{"_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 5120, "eps": 1e-06,
    "ffn_dim": 13824, "freq_dim": 256, "in_dim": 16, "model_type": "t2v", "num_heads": 40, "num_layers": 40,
    "out_dim": 16, "text_len": 512}"#;

#[test]
fn wan_configurations() {
    let config = Config::from_json(DIFFUSERS).unwrap();
    assert_eq!(config, Config::from_json(WAN).unwrap());
    assert_eq!((config.video.dim, config.video.ffn_dim, config.video.heads, config.layers), (5120, 13824, 40, 40));
    assert_eq!((config.audio.dim, config.audio.ffn_dim, config.audio.heads), (1536, 8960, 12));
    assert_eq!((config.audio.in_channels, &config.audio.patch[..]), (20, &[1][..]));
    // Without the class name, the model type gives it away.
    assert_eq!(config, Config::from_json(&WAN.replace("\"_class_name\": \"WanModel\", ", "")).unwrap());

    let i2v = WAN.replace("\"t2v\"", "\"i2v\"").replace("\"in_dim\": 16", "\"in_dim\": 36");
    let i2v = Config::from_json(&i2v).unwrap();
    assert_eq!((i2v.image_dim, i2v.condition_channels()), (1280, 20));
    let theirs = DIFFUSERS
        .replace("\"image_dim\": null", "\"image_dim\": 1280")
        .replace("\"added_kv_proj_dim\": null", "\"added_kv_proj_dim\": 5120")
        .replace("\"in_channels\": 16", "\"in_channels\": 36");
    assert_eq!(Config::from_json(&theirs).unwrap(), i2v);
}

#[test]
fn wan_configurations_that_ccl_cannot_honour() {
    let diffusers: &[(&str, &str, &[&str])] = &[
        ("\"rms_norm_across_heads\"", "\"layer_norm\"", &["`qk_norm`", "rms_norm_across_heads", "layer_norm"]),
        ("\"rms_norm_across_heads\"", "null", &["`qk_norm`", "null"]),
        ("\"cross_attn_norm\": true", "\"cross_attn_norm\": false", &["`cross_attn_norm`", "true", "false"]),
        ("\"pos_embed_seq_len\": null", "\"pos_embed_seq_len\": 514", &["`pos_embed_seq_len`", "null", "514"]),
        ("\"added_kv_proj_dim\": null", "\"added_kv_proj_dim\": 5120", &["`added_kv_proj_dim`", "image_dim"]),
        ("\"image_dim\": null", "\"image_dim\": 1280", &["`added_kv_proj_dim`", "5120"]),
        ("\"text_dim\"", "\"vace_layers\"", &["`vace_layers` is unknown", "text_dim"]),
        ("WanTransformer3DModel", "FluxTransformer2DModel", &["`_class_name`", "WanModel", "Flux"]),
        ("\"attention_head_dim\": 128", "\"attention_head_dim\": 27", &["`video.dim`", "even"]),
        ("\"num_layers\": 40", "\"num_layers\": \"all\"", &["`num_layers`", "whole number"]),
    ];
    diffusers.iter().for_each(|(from, to, parts)| refused(DIFFUSERS, from, to, parts));
    let wan: &[(&str, &str, &[&str])] = &[
        ("\"t2v\"", "\"flf2v\"", &["`model_type`", "\"t2v\" or \"i2v\"", "flf2v"]),
        ("\"text_len\": 512", "\"qk_norm\": false", &["`qk_norm`", "true"]),
        ("\"text_len\": 512", "\"cross_attn_norm\": false", &["`cross_attn_norm`", "true"]),
        ("\"text_len\": 512", "\"window_size\": [8, 8]", &["`window_size`", "[-1,-1]"]),
        ("\"text_len\": 512", "\"vace_layers\": [0, 5]", &["`vace_layers`", "null"]),
        ("\"num_heads\": 40", "\"num_heads\": 0", &["`video.heads`"]),
    ];
    wan.iter().for_each(|(from, to, parts)| refused(WAN, from, to, parts));
}
