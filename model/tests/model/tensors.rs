//! The list of tensors and the names that other checkpoints have for them.

use std::collections::BTreeMap;

use ccl_model::names::{Detected, Dialect, canonical, detect};
use ccl_model::{Config, Init, Stream, tensors};

/// The list of a configuration against one that was read off a checkpoint: lines of name and shape.
fn check(config: &Config, list: &str) {
    let want: BTreeMap<&str, &str> = list.lines().filter_map(|l| l.split_once(' ')).collect();
    let shape = |s: &[usize]| s.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let got: BTreeMap<String, String> = tensors(config).into_iter().map(|t| (t.name, shape(&t.shape))).collect();
    assert_eq!(got.len(), tensors(config).len(), "a name comes twice");
    let got: BTreeMap<&str, &str> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(got, want);
}

#[test]
fn the_list_is_the_checkpoints() {
    check(&crate::common::case_config("cases/small"), include_str!("../data/small.tensors.txt"));
    check(&crate::common::case_config("cases/image"), include_str!("../data/image.tensors.txt"));
}

#[test]
fn parameters_are_counted() {
    for case in ["small", "image", "shifted", "head128"] {
        let config = crate::common::case_config(&format!("cases/{case}"));
        let sum: usize = tensors(&config).iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(config.parameters(), sum as u64, "{case}");
    }
}

#[test]
fn fresh_tensors() {
    let config = crate::common::config();
    for t in tensors(&config) {
        let dim = config.stream(t.stream).dim;
        let last = t.name.rsplit('.').next().unwrap();
        let want = if t.name.contains(".cca.o.") || t.name.contains(".head.head.") || last == "bias" {
            Init::Zeros
        } else if last == "context" || t.name.contains("text_embedding") || t.name.contains("time_embedding") {
            Init::Normal { std: 0.02 }
        } else if last == "modulation" {
            Init::Normal { std: 1.0 / (dim as f64).sqrt() }
        } else if t.shape.len() == 1 {
            Init::Ones
        } else {
            let fan_in = t.shape[1..].iter().product();
            Init::XavierUniform { fan_in, fan_out: t.shape[0] }
        };
        assert_eq!(t.init, want, "{}", t.name);
        assert!(t.name.starts_with(t.stream.name()), "{}", t.name);
    }
}

fn found(list: &[(&str, usize)]) -> Result<Detected, String> {
    const SHAPE: [usize; 6] = [2; 6];
    detect(list.iter().map(|&(name, rank)| (name, &SHAPE[..rank])))
}

#[test]
fn dialects() {
    let single = |dialect, stream| Ok(Detected { dialect, stream: Some(stream) });
    let canonical = Ok(Detected { dialect: Dialect::Canonical, stream: None });
    assert_eq!(found(&[("video.head.head.weight", 2)]), canonical);
    assert_eq!(found(&[("model.audio.head.head.weight", 2)]), canonical);
    let wan = [("blocks.0.self_attn.q.weight", 2), ("patch_embedding.weight", 5)];
    assert_eq!(found(&wan), single(Dialect::Wan, Stream::Video));
    let comfy = [("model.diffusion_model.head.modulation", 3), ("model.diffusion_model.patch_embedding.weight", 3)];
    assert_eq!(found(&comfy), single(Dialect::Wan, Stream::Audio));
    let diffusers = [("patch_embedding.weight", 5), ("blocks.11.attn1.to_q.weight", 2)];
    assert_eq!(found(&diffusers), single(Dialect::Diffusers, Stream::Video));

    assert!(found(&[]).unwrap_err().contains("there are none"));
    assert!(found(&[("encoder.weight", 2)]).unwrap_err().contains("`encoder.weight`"));
    assert!(found(&wan[..1]).unwrap_err().contains("`patch_embedding.weight` is missing"));
    let flat = [("patch_embedding.weight", 2), ("proj_out.weight", 2)];
    assert!(found(&flat).unwrap_err().contains("rank 5 (video) or 3 (audio), has 2"));
}

#[test]
fn names_map() {
    for (dialect, theirs, ours) in [
        (Dialect::Canonical, "video.blocks.0.norm3.bias", Some("video.blocks.0.norm3.bias")),
        (Dialect::Canonical, "module.audio.blocks.0.norm3.bias", Some("audio.blocks.0.norm3.bias")),
        (Dialect::Canonical, "blocks.0.norm3.bias", None),
        (Dialect::Canonical, "videos.blocks.0.norm3.bias", None),
        (Dialect::Wan, "blocks.12.ffn.2.weight", Some("audio.blocks.12.ffn.2.weight")),
        (Dialect::Wan, "model.diffusion_model.img_emb.proj.1.bias", Some("audio.img_emb.proj.1.bias")),
        (Dialect::Wan, "vae.encoder.weight", None),
        (Dialect::Diffusers, "blocks.3.norm2.weight", Some("audio.blocks.3.norm3.weight")),
        (Dialect::Diffusers, "blocks.3.norm3.weight", None),
        (Dialect::Diffusers, "blocks.3.scale_shift_table", Some("audio.blocks.3.modulation")),
        (Dialect::Diffusers, "scale_shift_table", Some("audio.head.modulation")),
        (Dialect::Diffusers, "proj_out.weight", Some("audio.head.head.weight")),
        (Dialect::Diffusers, "blocks.3.attn2.to_out.0.bias", Some("audio.blocks.3.cross_attn.o.bias")),
        (Dialect::Diffusers, "blocks.3.attn2.norm_added_q.weight", None),
        (Dialect::Diffusers, "blocks.x.attn1.to_q.weight", None),
        (Dialect::Diffusers, "condition_embedder.time_proj.bias", Some("audio.time_projection.1.bias")),
    ] {
        assert_eq!(canonical(dialect, Stream::Audio, theirs).as_deref(), ours, "{dialect:?} {theirs}");
    }
}
