//! Guidance: which passes of the denoiser a step takes and how they are combined (SPEC 6), and how a task answers
//! the routes of those passes (SPEC 5).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, shown};
use crate::stream::Stream;
use crate::task::Task;

/// How the passes of a step are combined. `s` is the input `scale.<stream>`, `s_text` is `text_scale.<stream>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guidance {
    /// One pass with the prompt.
    None,
    /// `uncond + s (cond - uncond)`: the task's route in both passes, only the prompt differs.
    Text,
    /// The same formula, but the unconditional pass reads context tokens only: guides text and modality at once.
    TwoPass,
    /// `uncond + s_text (text - uncond) + s (modal - uncond)`: text and modality are guided apart.
    ThreePass,
    /// Two passes, the unconditional one without the cross-modal attention's output (equation 2 of the paper).
    ModalityDrop,
}

/// Which prompt a pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prompt {
    /// The input `text`.
    Positive,
    /// The input `negative_text`.
    Negative,
}

impl Prompt {
    /// Name of the input with the prompt's features.
    pub const fn input(self) -> &'static str {
        match self {
            Prompt::Positive => "text",
            Prompt::Negative => "negative_text",
        }
    }
}

/// Which keys the cross-modal attention of a pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// What the task's route says.
    Cond,
    /// Context tokens only.
    Context,
    /// The attention's output is dropped.
    Drop,
}

/// One evaluation of the denoiser in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    /// Name: the first part of the paths of the pass's nodes and of its route flags.
    pub name: &'static str,
    /// Its prompt.
    pub prompt: Prompt,
    /// Its route.
    pub mode: Mode,
}

const fn pass(name: &'static str, prompt: Prompt, mode: Mode) -> Pass {
    Pass { name, prompt, mode }
}

impl Guidance {
    /// All forms.
    pub const ALL: [Guidance; 5] =
        [Guidance::None, Guidance::Text, Guidance::TwoPass, Guidance::ThreePass, Guidance::ModalityDrop];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Guidance::None => "none",
            Guidance::Text => "text",
            Guidance::TwoPass => "two-pass",
            Guidance::ThreePass => "three-pass",
            Guidance::ModalityDrop => "modality-drop",
        }
    }

    /// The passes of a step.
    pub const fn passes(self) -> &'static [Pass] {
        use Mode::{Cond, Context, Drop};
        use Prompt::{Negative, Positive};
        const COND: Pass = pass("cond", Positive, Cond);
        const NONE: &[Pass] = &[COND];
        const TEXT: &[Pass] = &[pass("uncond", Negative, Cond), COND];
        const TWO: &[Pass] = &[pass("uncond", Negative, Context), COND];
        const DROP: &[Pass] = &[pass("uncond", Negative, Drop), COND];
        const THREE: &[Pass] =
            &[pass("uncond", Negative, Context), pass("text", Positive, Context), pass("modal", Negative, Cond)];
        match self {
            Guidance::None => NONE,
            Guidance::Text => TEXT,
            Guidance::TwoPass => TWO,
            Guidance::ThreePass => THREE,
            Guidance::ModalityDrop => DROP,
        }
    }

    /// Default of `scale.<stream>`; `None` where the form does not use it.
    ///
    /// 4 for video and 3 for audio where one scale carries the prompt (SPEC 6 says so for two-pass; text and
    /// modality-drop take the same, so that the forms compare at equal strength), 2.5 for three-pass.
    pub const fn default_scale(self, stream: Stream) -> Option<f64> {
        match (self, stream) {
            (Guidance::None, _) => None,
            (Guidance::ThreePass, _) => Some(2.5),
            (_, Stream::Video) => Some(4.0),
            (_, Stream::Audio) => Some(3.0),
        }
    }

    /// Default of `text_scale.<stream>`: 4 for video, 3 for audio; `None` where the form does not use it.
    pub const fn default_text_scale(self, stream: Stream) -> Option<f64> {
        match (self, stream) {
            (Guidance::ThreePass, Stream::Video) => Some(4.0),
            (Guidance::ThreePass, Stream::Audio) => Some(3.0),
            _ => None,
        }
    }

    /// The graph inputs with scales that this form reads, with their defaults.
    pub fn scale_inputs(self) -> Vec<(String, f64)> {
        let of = |prefix: &'static str, default: fn(Guidance, Stream) -> Option<f64>| {
            Stream::ALL.into_iter().filter_map(move |m| Some((format!("{prefix}.{m}"), default(self, m)?)))
        };
        of("scale", Guidance::default_scale).chain(of("text_scale", Guidance::default_text_scale)).collect()
    }

    /// First part of the output names: `velocity` without guidance, else `guided`.
    pub const fn output(self) -> &'static str {
        match self {
            Guidance::None => "velocity",
            _ => "guided",
        }
    }
}

impl fmt::Display for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Guidance {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        Guidance::ALL.into_iter().find(|g| g.name() == text).ok_or_else(|| ModelError::Unknown {
            what: "guidance",
            name: shown(text),
            known: Guidance::ALL.map(Guidance::name).join(" "),
        })
    }
}

/// Route flag: whether a stream's cross-modal attention sees the other stream in a pass.
pub(crate) fn sees_flag(pass: &str, reader: Stream) -> String {
    format!("{pass}.{reader}_sees_{}", reader.other())
}

/// Route flag: whether the cross-modal attention's output is used in a pass.
pub(crate) fn cross_flag(pass: &str) -> String {
    format!("{pass}.cross")
}

/// A task's answers to all routes of a graph built with this guidance: `video` and `audio` (the stream is generated),
/// and for each pass `P` `P.video_sees_audio`, `P.audio_sees_video` and `P.cross`.
pub fn answers(task: Task, guidance: Guidance) -> BTreeMap<String, bool> {
    let mut out: BTreeMap<_, _> = Stream::ALL.into_iter().map(|m| (m.name().to_owned(), task.produces(m))).collect();
    for pass in guidance.passes() {
        for reader in Stream::ALL {
            out.insert(sees_flag(pass.name, reader), pass.mode == Mode::Cond && task.sees_other(reader));
        }
        out.insert(cross_flag(pass.name), pass.mode != Mode::Drop);
    }
    out
}
