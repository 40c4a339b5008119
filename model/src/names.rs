//! Names of tensors in checkpoints and what they are canonically (SPEC 7).
//!
//! Canonical names are Wan2.1's original ones under `video.` and `audio.`. Files of a single stream, original or
//! diffusers', map to them; prefixes that wrap a whole model (`model.diffusion_model.` and the like) are stripped.

use crate::error::shown;
use crate::stream::Stream;

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ours: `video.blocks.0.self_attn.q.weight`.
    Canonical,
    /// Wan2.1's own, one stream: `blocks.0.self_attn.q.weight`.
    Wan,
    /// diffusers' `WanTransformer3DModel`, one stream: `blocks.0.attn1.to_q.weight`.
    Diffusers,
}

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detected {
    /// Whose names it uses.
    pub dialect: Dialect,
    /// The stream of a single-stream file; `None` for canonical names, which say it themselves.
    pub stream: Option<Stream>,
}

/// Prefixes that wrap a whole model, longest first.
const WRAPPERS: [&str; 4] = ["model.diffusion_model.", "diffusion_model.", "model.", "module."];

/// First parts of the names in Wan2.1's own files.
const WAN_ROOTS: [&str; 7] =
    ["patch_embedding", "text_embedding", "time_embedding", "time_projection", "img_emb", "blocks", "head"];

/// diffusers' modules outside the blocks and their original names.
const TOP: [(&str, &str); 11] = [
    ("patch_embedding", "patch_embedding"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("proj_out", "head.head"),
];

/// diffusers' modules of a block and their original names. diffusers numbers the norms in the order of use, Wan2.1
/// does not: its `norm3` is diffusers' `norm2`, the one with weights.
const BLOCK: [(&str, &str); 18] = [
    ("attn1.to_q", "self_attn.q"),
    ("attn1.to_k", "self_attn.k"),
    ("attn1.to_v", "self_attn.v"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn1.norm_q", "self_attn.norm_q"),
    ("attn1.norm_k", "self_attn.norm_k"),
    ("attn2.to_q", "cross_attn.q"),
    ("attn2.to_k", "cross_attn.k"),
    ("attn2.to_v", "cross_attn.v"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn2.norm_q", "cross_attn.norm_q"),
    ("attn2.norm_k", "cross_attn.norm_k"),
    ("attn2.add_k_proj", "cross_attn.k_img"),
    ("attn2.add_v_proj", "cross_attn.v_img"),
    ("attn2.norm_added_k", "cross_attn.norm_k_img"),
    ("norm2", "norm3"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
];

/// The name without a prefix that wraps a whole model.
fn unwrapped(name: &str) -> &str {
    WRAPPERS.iter().find_map(|w| name.strip_prefix(w)).unwrap_or(name)
}

/// Reads the dialect off a checkpoint's tensors, given as (name, shape).
///
/// The stream of a single-stream file follows from the rank of its patch embedding: 5 for video, 3 for audio.
///
/// # Errors
/// When no name is one of a CCL or Wan2.1 checkpoint, or a single-stream file has no patch embedding to tell its
/// stream by; the message says what is missing.
pub fn detect<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<Detected, String> {
    let (mut dialect, mut rank, mut first) = (None, None, None);
    for (name, shape) in tensors {
        first.get_or_insert(name);
        let bare = unwrapped(name);
        if bare.starts_with("video.") || bare.starts_with("audio.") {
            return Ok(Detected { dialect: Dialect::Canonical, stream: None });
        }
        if bare == "patch_embedding.weight" {
            rank = Some(shape.len());
        }
        // `patch_embedding` is common to both; everything else tells them apart.
        let block = in_block(bare).map_or("", |(_, rest)| rest);
        if bare.starts_with("condition_embedder.") || bare.starts_with("proj_out.") || block.starts_with("attn") {
            dialect = Some(Dialect::Diffusers);
        } else if bare.starts_with("text_embedding.") || bare.starts_with("head.") || block.starts_with("self_attn.") {
            dialect = dialect.or(Some(Dialect::Wan));
        }
    }
    let Some(dialect) = dialect else {
        let seen = first.map_or("there are none".to_owned(), |n| format!("the first is `{}`", shown(n)));
        return Err(format!("these are no tensors of a CCL or Wan2.1 checkpoint ({seen})"));
    };
    match rank {
        Some(5) => Ok(Detected { dialect, stream: Some(Stream::Video) }),
        Some(3) => Ok(Detected { dialect, stream: Some(Stream::Audio) }),
        Some(n) => Err(format!("`patch_embedding.weight` must have rank 5 (video) or 3 (audio), has {n}")),
        None => Err("`patch_embedding.weight` is missing: its rank tells which stream a checkpoint holds".into()),
    }
}

/// The canonical name of a tensor; `None` where the dialect has no such tensor. `stream` is the one of a
/// single-stream file and is not looked at for canonical names.
pub fn canonical(dialect: Dialect, stream: Stream, name: &str) -> Option<String> {
    let bare = unwrapped(name);
    match dialect {
        Dialect::Canonical => {
            let known = Stream::ALL.iter().any(|m| bare.strip_prefix(m.name()).is_some_and(|r| r.starts_with('.')));
            known.then(|| bare.to_owned())
        }
        Dialect::Wan => {
            let root = bare.split('.').next().unwrap_or(bare);
            WAN_ROOTS.contains(&root).then(|| format!("{stream}.{bare}"))
        }
        Dialect::Diffusers => from_diffusers(bare).map(|n| format!("{stream}.{n}")),
    }
}

fn from_diffusers(name: &str) -> Option<String> {
    if name == "scale_shift_table" {
        return Some("head.modulation".into());
    }
    if let Some((block, rest)) = in_block(name) {
        if rest == "scale_shift_table" {
            return Some(format!("{block}.modulation"));
        }
        let (module, kind) = parameter(rest)?;
        return Some(format!("{block}.{}.{kind}", find(&BLOCK, module)?));
    }
    let (module, kind) = parameter(name)?;
    Some(format!("{}.{kind}", find(&TOP, module)?))
}

/// Splits `blocks.N.rest` behind the number.
fn in_block(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("blocks.")?;
    let digits = rest.find('.')?;
    let number = digits > 0 && rest[..digits].bytes().all(|b| b.is_ascii_digit());
    number.then(|| (&name[.."blocks.".len() + digits], &rest[digits + 1..]))
}

/// Splits a name into the module and `weight` or `bias`.
fn parameter(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
}

fn find(table: &[(&str, &'static str)], module: &str) -> Option<&'static str> {
    table.iter().find(|(theirs, _)| *theirs == module).map(|(_, ours)| *ours)
}
