//! What is compared.

use ccl_model::{CrossAttention, Guidance};

use crate::evaluation::Guiding;

/// A way to build, train and guide the model.
#[derive(Debug)]
pub struct Arm {
    /// Name in files and on the command line.
    pub key: &'static str,
    /// Title on the page.
    pub title: &'static str,
    /// What is special.
    pub about: &'static str,
    /// The model's cross attention.
    pub cross: CrossAttention,
    /// How samples are guided.
    pub guiding: Guiding,
}

/// The paper's ablation. The last three are one model, guided in three ways.
pub const ARMS: [Arm; 5] = [
    Arm {
        key: "plain",
        title: "1 plain",
        about: "dense cross attention, unscaled RoPE, a gate that is shut without the other stream, text guidance",
        cross: CrossAttention::Dense,
        guiding: Guiding::Form(Guidance::Text),
    },
    Arm {
        key: "tarp",
        title: "2 + TARP",
        about: "windows of the other stream's tokens around the own one, on one scale of time",
        cross: CrossAttention::Windowed,
        guiding: Guiding::Form(Guidance::Text),
    },
    Arm {
        key: "context",
        title: "3 + LCT, DCR",
        about: "learned context tokens beside the windows, and routes by task, in place of the gate",
        cross: CrossAttention::Context,
        guiding: Guiding::Form(Guidance::Text),
    },
    Arm {
        key: "ucg",
        title: "4 + UCG",
        about: "the same weights; the unconditional pass reads context tokens alone",
        cross: CrossAttention::Context,
        guiding: Guiding::Form(Guidance::TwoPass),
    },
    Arm {
        key: "still",
        title: "5 still input",
        about: "the same weights; the unconditional pass reads silence or a picture that stands still instead",
        cross: CrossAttention::Context,
        guiding: Guiding::Still,
    },
];
