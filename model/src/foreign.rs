//! Configurations of Wan2.1 video models, diffusers' and original.
//!
//! They describe the video stream; the audio stream is a default. What such a file asks for and CCL does not have is
//! refused by name: silently ignoring it would give wrong pictures.

use serde_json::Value;

use crate::config::{Config, StreamConfig};
use crate::error::{ModelError, shown};
use crate::fields::Fields;

/// Reads a Wan2.1 configuration; `None` where the document is not one.
pub(crate) fn read(value: &Value) -> Option<Result<Config, ModelError>> {
    let class = value.get("_class_name");
    match class.and_then(Value::as_str) {
        Some("WanTransformer3DModel") => Some(diffusers(value)),
        Some("WanModel") => Some(original(value)),
        _ if class.is_some() => {
            let name = class.map(|c| shown(&c.to_string())).unwrap_or_default();
            let problem = format!("must be \"WanTransformer3DModel\" or \"WanModel\", is {name}");
            Some(Err(ModelError::field("_class_name", problem)))
        }
        _ => value.get("model_type").map(|_| original(value)),
    }
}

/// The audio stream where the file has none (SPEC 1).
fn audio() -> StreamConfig {
    StreamConfig { dim: 1536, ffn_dim: 8960, heads: 12, in_channels: 20, out_channels: 20, patch: vec![1] }
}

/// Fields that say where a file came from and nothing about the model.
const NOTES: [&str; 3] = ["_class_name", "_diffusers_version", "_name_or_path"];

/// `transformer/config.json` of diffusers' `WanTransformer3DModel`; absent fields have its defaults.
fn diffusers(value: &Value) -> Result<Config, ModelError> {
    const KNOWN: [&str; 17] = [
        "patch_size",
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "text_dim",
        "freq_dim",
        "ffn_dim",
        "num_layers",
        "cross_attn_norm",
        "qk_norm",
        "eps",
        "image_dim",
        "added_kv_proj_dim",
        "rope_max_seq_len",
        "pos_embed_seq_len",
        "quantization_config",
    ];
    let f = Fields::new("", value, &[&NOTES[..], &KNOWN[..]].concat())?;
    let heads = f.size("num_attention_heads", Some(40))?;
    let head_dim = f.size("attention_head_dim", Some(128))?;
    let dim = heads.checked_mul(head_dim).ok_or_else(|| ModelError::field("num_attention_heads", "is too large"))?;
    only(&f, "cross_attn_norm", &Value::Bool(true))?;
    only(&f, "qk_norm", &Value::from("rms_norm_across_heads"))?;
    for absent in ["pos_embed_seq_len", "quantization_config"] {
        if let Some(v) = f.some(absent) {
            return Err(f.wrong(absent, "null: CCL has no such thing", v));
        }
    }
    let image_dim = f.optional_size("image_dim")?.unwrap_or(0);
    match f.optional_size("added_kv_proj_dim")? {
        None if image_dim == 0 => {}
        Some(n) if image_dim != 0 && n == dim => {}
        got => {
            let want = if image_dim == 0 { "null: image_dim is null".to_owned() } else { format!("{dim}") };
            let got = got.map_or(Value::Null, Value::from);
            return Err(f.wrong("added_kv_proj_dim", &want, &got));
        }
    }
    let in_channels = f.size("in_channels", Some(16))?;
    let out_channels = match f.get("out_channels") {
        Some(Value::Null) => in_channels,
        _ => f.size("out_channels", Some(16))?,
    };
    let video = StreamConfig {
        dim,
        ffn_dim: f.size("ffn_dim", Some(13824))?,
        heads,
        in_channels,
        out_channels,
        patch: f.sizes("patch_size", Some(&[1, 2, 2]))?,
    };
    let base = Config::new(video, audio(), f.size("num_layers", Some(40))?);
    Ok(Config {
        text_dim: f.size("text_dim", Some(base.text_dim))?,
        freq_dim: f.size("freq_dim", Some(base.freq_dim))?,
        eps: f.number("eps", base.eps)?,
        image_dim,
        ..base
    })
}

/// `config.json` of Wan2.1's own `WanModel`; absent fields have its defaults.
fn original(value: &Value) -> Result<Config, ModelError> {
    const KNOWN: [&str; 16] = [
        "model_type",
        "patch_size",
        "text_len",
        "in_dim",
        "dim",
        "ffn_dim",
        "freq_dim",
        "text_dim",
        "out_dim",
        "num_heads",
        "num_layers",
        "window_size",
        "qk_norm",
        "cross_attn_norm",
        "eps",
        "vace_layers",
    ];
    let f = Fields::new("", value, &[&NOTES[..], &KNOWN[..]].concat())?;
    // The width of CLIP's image features is not in the file: it is 1280 for all image-to-video models.
    let image_dim = f.word("model_type", &[("t2v", 0), ("i2v", 1280)], 0)?;
    only(&f, "cross_attn_norm", &Value::Bool(true))?;
    only(&f, "qk_norm", &Value::Bool(true))?;
    only(&f, "window_size", &Value::from(vec![-1, -1]))?;
    if let Some(v) = f.some("vace_layers") {
        return Err(f.wrong("vace_layers", "null: CCL has no such thing", v));
    }
    let video = StreamConfig {
        dim: f.size("dim", Some(2048))?,
        ffn_dim: f.size("ffn_dim", Some(8192))?,
        heads: f.size("num_heads", Some(16))?,
        in_channels: f.size("in_dim", Some(16))?,
        out_channels: f.size("out_dim", Some(16))?,
        patch: f.sizes("patch_size", Some(&[1, 2, 2]))?,
    };
    let base = Config::new(video, audio(), f.size("num_layers", Some(32))?);
    Ok(Config {
        text_dim: f.size("text_dim", Some(base.text_dim))?,
        freq_dim: f.size("freq_dim", Some(base.freq_dim))?,
        eps: f.number("eps", base.eps)?,
        image_dim,
        ..base
    })
}

/// A field that may be absent or have one value.
fn only(f: &Fields<'_>, name: &str, want: &Value) -> Result<(), ModelError> {
    match f.get(name) {
        Some(v) if v != want => Err(f.wrong(name, &format!("{want}: CCL has nothing else"), v)),
        _ => Ok(()),
    }
}
