//! Every tensor of a checkpoint: name, shape and how a fresh one is initialised (SPEC 7, 4).

use ccl_ir::TensorType;

use crate::config::Config;
use crate::stream::Stream;

/// How a tensor that no checkpoint gives is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal around zero.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `±sqrt(6 / (fan_in + fan_out))`.
    XavierUniform {
        /// Numbers that one output sums.
        fan_in: usize,
        /// Outputs.
        fan_out: usize,
    },
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Canonical name.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// The stream that it belongs to.
    pub stream: Stream,
    /// How a fresh one is filled: as Wan2.1 does it, and a fresh CCA so that it changes nothing (SPEC 4).
    pub init: Init,
}

/// Standard deviation of fresh embeddings and context tokens.
const EMBEDDING: Init = Init::Normal { std: 0.02 };

/// Every tensor of a model, stream by stream in the order of the forward pass.
pub fn tensors(config: &Config) -> Vec<TensorSpec> {
    let mut out = Vec::new();
    for stream in Stream::ALL {
        let mut list = List { config, stream, out: &mut out };
        list.embeddings();
        (0..config.layers).for_each(|n| list.block(n));
        list.head();
    }
    out
}

/// Number of parameters; `None` where it passes 64 bits or a tensor is larger than the IR allows.
pub(crate) fn parameters(config: &Config) -> Option<u64> {
    let (mut once, mut block) = (Vec::new(), Vec::new());
    for stream in Stream::ALL {
        let mut list = List { config, stream, out: &mut once };
        list.embeddings();
        list.head();
        List { config, stream, out: &mut block }.block(0);
    }
    let sum = |list: &[TensorSpec]| {
        list.iter().try_fold(0u64, |n, t| n.checked_add(TensorType::f32(t.shape.clone()).checked_elements()?))
    };
    sum(&block)?.checked_mul(config.layers as u64)?.checked_add(sum(&once)?)
}

/// A list of one stream's tensors in the making.
struct List<'a> {
    config: &'a Config,
    stream: Stream,
    out: &'a mut Vec<TensorSpec>,
}

impl List<'_> {
    fn push(&mut self, name: String, shape: impl Into<Vec<usize>>, init: Init) {
        let name = format!("{}.{name}", self.stream);
        self.out.push(TensorSpec { name, shape: shape.into(), stream: self.stream, init });
    }

    fn linear_as(&mut self, name: &str, outputs: usize, inputs: usize, init: Init) {
        self.push(format!("{name}.weight"), [outputs, inputs], init);
        self.push(format!("{name}.bias"), [outputs], Init::Zeros);
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.linear_as(name, outputs, inputs, Init::XavierUniform { fan_in: inputs, fan_out: outputs });
    }

    fn layer_norm(&mut self, name: &str, dim: usize) {
        self.push(format!("{name}.weight"), [dim], Init::Ones);
        self.push(format!("{name}.bias"), [dim], Init::Zeros);
    }

    fn modulation(&mut self, name: String, rows: usize, dim: usize) {
        self.push(name, [1, rows, dim], Init::Normal { std: 1.0 / (dim as f64).sqrt() });
    }

    /// Width of the image features where this stream takes them.
    fn image_dim(&self) -> Option<usize> {
        (self.stream == Stream::Video && self.config.image_dim > 0).then_some(self.config.image_dim)
    }

    fn embeddings(&mut self) {
        let s = self.config.stream(self.stream);
        let d = s.dim;
        let mut shape = vec![d, s.in_channels];
        shape.extend(&s.patch);
        let fan_in = s.in_channels.saturating_mul(s.patch_volume());
        self.push("patch_embedding.weight".into(), shape, Init::XavierUniform { fan_in, fan_out: d });
        self.push("patch_embedding.bias".into(), [d], Init::Zeros);
        self.linear_as("text_embedding.0", d, self.config.text_dim, EMBEDDING);
        self.linear_as("text_embedding.2", d, d, EMBEDDING);
        self.linear_as("time_embedding.0", d, self.config.freq_dim, EMBEDDING);
        self.linear_as("time_embedding.2", d, d, EMBEDDING);
        self.linear("time_projection.1", 6 * d, d);
        if let Some(image) = self.image_dim() {
            self.layer_norm("img_emb.proj.0", image);
            self.linear("img_emb.proj.1", image, image);
            self.linear("img_emb.proj.3", d, image);
            self.layer_norm("img_emb.proj.4", d);
        }
    }

    fn block(&mut self, n: usize) {
        let s = self.config.stream(self.stream);
        let (d, ffn, d_other) = (s.dim, s.ffn_dim, self.config.stream(self.stream.other()).dim);
        let b = format!("blocks.{n}");
        self.modulation(format!("{b}.modulation"), 6, d);
        for a in ["self_attn", "cross_attn"] {
            for x in ["q", "k", "v", "o"] {
                self.linear(&format!("{b}.{a}.{x}"), d, d);
            }
            for x in ["norm_q", "norm_k"] {
                self.push(format!("{b}.{a}.{x}.weight"), [d], Init::Ones);
            }
        }
        if self.image_dim().is_some() {
            self.linear(&format!("{b}.cross_attn.k_img"), d, d);
            self.linear(&format!("{b}.cross_attn.v_img"), d, d);
            self.push(format!("{b}.cross_attn.norm_k_img.weight"), [d], Init::Ones);
        }
        self.layer_norm(&format!("{b}.norm3"), d);
        self.linear(&format!("{b}.ffn.0"), ffn, d);
        self.linear(&format!("{b}.ffn.2"), d, ffn);
        for (x, inputs) in [("q", d), ("k", d_other), ("v", d_other)] {
            self.linear(&format!("{b}.cca.{x}"), d, inputs);
        }
        self.linear_as(&format!("{b}.cca.o"), d, d, Init::Zeros);
        for x in ["context_k", "context_v"] {
            self.linear(&format!("{b}.cca.{x}"), d, d);
        }
        self.layer_norm(&format!("{b}.cca.norm"), d);
        self.layer_norm(&format!("{b}.cca.norm_other"), d_other);
        for x in ["norm_q", "norm_k"] {
            self.push(format!("{b}.cca.{x}.weight"), [d], Init::Ones);
        }
        let tokens = self.config.context_tokens(self.stream);
        self.push(format!("{b}.cca.context"), [tokens, d], EMBEDDING);
    }

    fn head(&mut self) {
        let s = self.config.stream(self.stream);
        let outputs = s.patch_volume().saturating_mul(s.out_channels);
        self.modulation("head.modulation".into(), 2, s.dim);
        self.linear_as("head.head", outputs, s.dim, Init::Zeros);
    }
}
