//! Options that several commands share.

use std::path::PathBuf;

use ccl::planning::{Algebra, RuleSet};
use ccl_ir::DType;
use ccl_model::{Clip, Guidance, Task};
use ccl_passes::DeviceSpec;
use ccl_passes::algebra::{Class, rules};
use clap::{Args, ValueEnum};

/// What to plan for.
#[derive(Args, Clone, Debug)]
pub struct SpecArgs {
    /// What to produce: t2v t2a t2av a2v v2a joint
    #[arg(long, value_name = "TASK")]
    pub task: Option<Task>,
    /// Guidance: none text two-pass three-pass modality-drop [default: none]
    #[arg(long, value_name = "FORM")]
    pub guidance: Option<Guidance>,
    /// How matrices are stored; the CPU computes in f32 whatever they are [default: as in the checkpoint, else f32]
    #[arg(long, value_name = "f32|bf16|f16", value_parser = dtype)]
    pub dtype: Option<DType>,
    /// Text tokens that a plan has room for; shorter prompts use fewer [default: 512, or what the inputs have if more]
    #[arg(long, value_name = "N")]
    pub text_tokens: Option<usize>,
    /// Image tokens that a plan has room for, 0 for none [default: 257 where the model reads images]
    #[arg(long, value_name = "N")]
    pub image_tokens: Option<usize>,
    /// Run the reference interpreter before and after every compiler pass (on a small twin of a large model)
    #[arg(long)]
    pub validate: bool,
    #[command(flatten)]
    pub algebra: AlgebraArgs,
}

/// The compiler's algebra.
#[derive(Args, Clone, Debug, Default)]
pub struct AlgebraArgs {
    /// Rewrite rules: none; exact, which add every sum up in the same order; all, where they pay; always, paying or not (to test them)
    /// [default: all]
    #[arg(long, value_name = "none|exact|all|always", value_parser = rule_set)]
    pub rules: Option<RuleSet>,
    /// Leave a rule out, by its name in `ccl explain --events`; may be given several times
    #[arg(long, value_name = "NAME", value_parser = rule)]
    pub disable_rule: Vec<String>,
    /// Use a rule that rounds results, by name; may be given several times
    #[arg(long, value_name = "NAME", value_parser = lossy_rule)]
    pub enable_lossy_rule: Vec<String>,
    /// Prices to choose by: a TOML file (see `ccl bench calibrate`), or apple-m, cpu, h100, h200, rtx4090, wgpu [default: by target]
    #[arg(long, value_name = "F.toml", value_parser = device_spec)]
    pub device_spec: Option<DeviceSpec>,
}

impl AlgebraArgs {
    /// Whether any option was given.
    pub fn is_given(&self) -> bool {
        self.rules.is_some()
            || self.device_spec.is_some()
            || !self.disable_rule.is_empty()
            || !self.enable_lossy_rule.is_empty()
    }

    /// The options as part of a request.
    pub fn request(&self) -> Algebra {
        Algebra {
            rules: self.rules.unwrap_or_default(),
            without: self.disable_rule.clone(),
            with: self.enable_lossy_rule.clone(),
            spec: self.device_spec.clone(),
        }
    }
}

/// Reads `--rules`.
///
/// # Errors
/// When there is no such set.
fn rule_set(text: &str) -> Result<RuleSet, String> {
    Ok(match text {
        "none" => RuleSet::None,
        "exact" => RuleSet::Exact,
        "all" => RuleSet::All,
        "always" => RuleSet::Always,
        _ => return Err("known are none, exact, all and always".into()),
    })
}

/// Reads the name of a rule; dashes may stand for spaces.
///
/// # Errors
/// When there is no such rule.
fn rule(text: &str) -> Result<String, String> {
    let name = text.replace('-', " ");
    if rules::named(&name).is_some() {
        return Ok(name);
    }
    let names: Vec<&str> = rules::all().iter().map(|r| r.name).collect();
    Err(format!("there is no such rule; known are {}", names.join(", ")))
}

/// Reads the name of a lossy rule.
///
/// # Errors
/// When there is no such rule, or it is not lossy.
fn lossy_rule(text: &str) -> Result<String, String> {
    let name = rule(text)?;
    match rules::named(&name) {
        Some(r) if r.class == Class::Lossy => Ok(name),
        _ => Err("the rule rounds nothing: it is used without being asked for".into()),
    }
}

/// Reads `--device-spec`: a shipped specification by name, or a file.
///
/// # Errors
/// When the file cannot be read, or says something else.
pub fn device_spec(text: &str) -> Result<DeviceSpec, String> {
    if let Some(spec) = DeviceSpec::shipped(text) {
        return Ok(spec);
    }
    let content = std::fs::read_to_string(text).map_err(|e| format!("cannot read: {e}"))?;
    DeviceSpec::parse(&content).map_err(|e| e.lines().collect::<Vec<_>>().join(" "))
}

/// Clip and batch where no inputs say them.
#[derive(Args, Clone, Debug)]
pub struct ClipArgs {
    /// Latent sizes of the clip, frames x height x width @ audio, e.g. 21x44x80@158
    #[arg(long, value_name = "TxHxW@L")]
    pub clip: Option<Clip>,
    /// Clips at once
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    pub batch: Option<usize>,
}

/// Where to run.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Where to run: auto takes cuda, then a hardware wgpu adapter, then cpu; reference is the slow oracle
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendName,
    /// Threads of the cpu backend [default: all cores]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// How much of a device's memory a plan may take.
#[derive(Args, Clone, Debug, Default)]
pub struct BudgetArgs {
    /// Memory that the plan may take on the device (cuda): weights that do not fit stay on the host and come while earlier blocks compute,
    /// e.g. 24GiB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory_budget: Option<u64>,
}

/// Reads a number of bytes: `24GiB`, `24 GB`, `500MB`, `1000000`.
///
/// # Errors
/// When it is none.
pub fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].to_ascii_lowercase());
    let power = |base: f64| {
        ["", "k", "m", "g", "t"]
            .iter()
            .position(|p| unit.trim_end_matches("ib").trim_end_matches('b') == *p)
            .map(|i| base.powi(i as i32))
    };
    let factor = if unit.ends_with("ib") { power(1024.0) } else { power(1000.0) };
    let bytes = number.parse::<f64>().ok().zip(factor).map(|(n, factor)| n * factor);
    match bytes.filter(|b| (1.0..1e18).contains(b)) {
        Some(bytes) => Ok(bytes as u64),
        None => Err("give a size such as 24GiB, 500MB or 1000000".into()),
    }
}

/// Backends by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// The best that is there.
    Auto,
    /// Native kernels on the host.
    Cpu,
    /// Any GPU through wgpu.
    Wgpu,
    /// NVIDIA GPUs.
    Cuda,
    /// The operators' reference evaluation: slow, for comparison.
    Reference,
}

/// A model, or a plan that was made from one.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct SourceArgs {
    /// Model directory: config.json and *.safetensors
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// A compiled plan; with --model too, the weights are read from that directory
    #[arg(long, value_name = "F.cclp")]
    pub plan: Option<PathBuf>,
}

/// Strength of the guidance; defaults are SPEC's per form and stream.
#[derive(Args, Clone, Debug, Default)]
pub struct ScaleArgs {
    /// Guidance scale of the video stream
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub scale_video: Option<f64>,
    /// Guidance scale of the audio stream
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub scale_audio: Option<f64>,
    /// Text guidance scale of the video stream (three-pass)
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub text_scale_video: Option<f64>,
    /// Text guidance scale of the audio stream (three-pass)
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub text_scale_audio: Option<f64>,
}

impl ScaleArgs {
    /// The value given for a scale input such as `text_scale.audio`.
    pub fn given(&self, input: &str) -> Option<f64> {
        match input {
            "scale.video" => self.scale_video,
            "scale.audio" => self.scale_audio,
            "text_scale.video" => self.text_scale_video,
            "text_scale.audio" => self.text_scale_audio,
            _ => None,
        }
    }

    /// The options that were given, as `(option, input)`.
    pub fn all_given(&self) -> Vec<(&'static str, &'static str)> {
        [
            ("--scale-video", "scale.video"),
            ("--scale-audio", "scale.audio"),
            ("--text-scale-video", "text_scale.video"),
            ("--text-scale-audio", "text_scale.audio"),
        ]
        .into_iter()
        .filter(|(_, input)| self.given(input).is_some())
        .collect()
    }
}

/// Reads `--dtype`.
///
/// # Errors
/// When there is no such type.
pub fn dtype(text: &str) -> Result<DType, String> {
    DType::from_name(text).filter(|d| d.is_float()).ok_or_else(|| "known are f32, bf16 and f16".into())
}
