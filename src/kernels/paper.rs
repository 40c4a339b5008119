//! Cases of the 14B model at `21x44x80@158`: what a step of each stream goes to, forward and backward.
//!
//! Ids begin with the stream that the tokens belong to. `cca` is the attention over the other stream's tokens and the context: as one operator, and in
//! the two halves that the algebra takes where a projection is absorbed.

use ccl_ir::ops;
use ccl_model::{Config, Grid, Stream, StreamConfig, tarp};

use super::small::{Cases, gated, gelu, inputs};
use super::{Case, Input, Types, f32};

/// Sizes of a model and a clip.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Channels, channels of the feed-forward and heads of the video stream.
    pub video: [usize; 3],
    /// The same of the audio stream.
    pub audio: [usize; 3],
    /// Context tokens that the video stream reads, and those that the audio stream reads.
    pub context: [usize; 2],
    /// Text tokens.
    pub text: usize,
    /// The clip.
    pub grid: Grid,
}

impl Sizes {
    /// The 14B video model beside the 1.3B audio model, 5 seconds of 640x352.
    pub const PAPER: Self = Self {
        video: [5120, 13824, 40],
        audio: [1536, 8960, 12],
        context: [8, 128],
        text: 512,
        grid: Grid { frames: 21, rows: 22, columns: 40, length: 158 },
    };

    /// Everything small, to see whether a case runs.
    pub const TINY: Self = Self {
        video: [64, 96, 2],
        audio: [32, 48, 2],
        context: [2, 4],
        text: 6,
        grid: Grid { frames: 3, rows: 2, columns: 2, length: 22 },
    };

    /// The model, of so many layers.
    pub fn config(&self, layers: usize) -> Config {
        let stream = |[dim, ffn_dim, heads]: [usize; 3], channels, patch: &[usize]| StreamConfig {
            dim,
            ffn_dim,
            heads,
            in_channels: channels,
            out_channels: channels,
            patch: patch.to_vec(),
        };
        let new = Config::new(stream(self.video, 16, &[1, 2, 2]), stream(self.audio, 20, &[1]), layers);
        Config { audio_context_tokens: self.context[0], video_context_tokens: self.context[1], ..new }
    }
}

/// The cases of these sizes; those that only training has are the last, for the time may be up or the device lost before the end.
pub fn cases(sizes: &Sizes, types: Types) -> Vec<Case> {
    let mut list = Vec::new();
    for stream in Stream::ALL {
        let mut of = Of { sizes, stream, cases: Cases { list: Vec::new(), types } };
        of.products();
        of.attention();
        of.cross();
        of.elementwise();
        of.backward();
        list.extend(of.cases.list);
    }
    list.sort_by_key(|case| case.id.ends_with("gradient") || case.id.ends_with("adam_w"));
    list
}

/// The cases of one stream.
struct Of<'a> {
    sizes: &'a Sizes,
    stream: Stream,
    cases: Cases,
}

impl Of<'_> {
    /// Tokens, channels, channels of the feed-forward, heads.
    fn shape(&self) -> [usize; 4] {
        let [dim, ffn, heads] = if self.stream == Stream::Video { self.sizes.video } else { self.sizes.audio };
        [self.sizes.grid.tokens(self.stream), dim, ffn, heads]
    }

    /// Tokens and channels of the other stream.
    fn other(&self) -> [usize; 2] {
        let other = self.stream.other();
        let [dim, ..] = if other == Stream::Video { self.sizes.video } else { self.sizes.audio };
        [self.sizes.grid.tokens(other), dim]
    }

    /// Gives the cases that `add` adds these ids.
    fn named(&mut self, ids: &[&str], add: impl FnOnce(&mut Cases)) {
        let first = self.cases.list.len();
        add(&mut self.cases);
        for (case, id) in self.cases.list[first..].iter_mut().zip(ids) {
            let new = case.clone().id(format!("{}.{id}", self.stream));
            *case = Case { name: format!("{}: {}", self.stream, case.name), ..new };
        }
    }

    fn products(&mut self) {
        let [m, d, ffn, _] = self.shape();
        let [others, from] = self.other();
        let rest = |cases: &Cases| vec![cases.types.tokens(&[1, m, d]), f32(&[1, 1, d])];
        self.named(&["projection"], |c| c.linear(&format!("linear {m}x{d}x{d}"), [m, d, d], None, vec![]));
        self.named(&["projection.gate"], |c| {
            let rest = rest(c);
            c.linear(&format!("linear {m}x{d}x{d}, gate and residual"), [m, d, d], Some(gated()), rest);
        });
        self.named(&["ffn.up"], |c| {
            c.linear(&format!("linear {m}x{ffn}x{d}, gelu"), [m, ffn, d], Some(gelu()), vec![]);
        });
        self.named(&["ffn.down"], |c| {
            let rest = rest(c);
            c.linear(&format!("linear {m}x{d}x{ffn}, gate and residual"), [m, d, ffn], Some(gated()), rest);
        });
        self.named(&["cca.keys"], |c| {
            c.linear(&format!("linear {others}x{d}x{from}"), [others, d, from], None, vec![]);
        });
    }

    fn attention(&mut self) {
        let [m, d, _, heads] = self.shape();
        let (dim, text) = (d / heads, self.sizes.text);
        self.named(&["self_attention", "self_attention.gradient"], |c| c.attention([1, m, m, heads, dim]));
        self.named(&["text_attention"], |c| {
            let (q, k) = (c.types.tokens(&[1, m, heads, dim]), c.types.tokens(&[1, text, heads, dim]));
            let name = format!("attention to {text} text tokens, {heads} heads of {dim}");
            c.add(Case::new(name, ops::Attention::full(), inputs([&q, &k, &k])));
        });
    }

    /// The attention over the other stream, whole and in halves.
    fn cross(&mut self) {
        let [m, d, _, heads] = self.shape();
        let [others, from] = self.other();
        let (dim, video) = (d / heads, self.stream == Stream::Video);
        let context = self.sizes.context[usize::from(!video)];
        let partition = tarp::partition(&self.sizes.config(1), &self.sizes.grid, self.stream);
        let seen = if video { "audio windows" } else { "nearest frames" };
        let name = format!("{seen} and {context} context tokens");
        self.named(&["cca", "cca.gradient"], |c| c.partitioned(&name, partition, [1, heads, dim, context]));
        let (window, all) = (partition.widest(), partition.widest() + context);
        self.named(&["cca.probabilities", "cca.mix"], |c| {
            let t = c.types;
            let (q, k) = (t.tokens(&[1, m, heads, dim]), t.tokens(&[1, others, heads, dim]));
            let weights = ops::ContextProbabilities { partition: Some(partition) };
            let token = t.tokens(&[context, heads, dim]);
            c.add(Case::new(format!("weights of {name}"), weights, inputs([&q, &token, &k])));
            // The weights behind those of the context, which lie beside them: heads are innermost.
            let (row, behind) = ((all * heads) as u64, (context * heads) as u64);
            let (rows, width, values, strides) = match video {
                // Values that absorbed the output projection, one for each head.
                true => (1, window * heads, t.tokens(&[1, others, heads, d]), [row, 1]),
                // Tokens that are projected afterwards, the same for all heads.
                false => (heads, window, t.tokens(&[1, others, 1, from]), [1, heads as u64]),
            };
            let strides = vec![m as u64 * row, row, strides[0], strides[1]];
            let seen_weights = Input::view(t.tokens(&[1, m, rows, width]), m as u64 * row, behind, strides);
            let mix = ops::WindowMix { partition };
            c.add(Case::new(format!("mix of {seen}"), mix, vec![seen_weights, values.into()]));
        });
    }

    fn elementwise(&mut self) {
        let [m, d, _, heads] = self.shape();
        self.named(&["norm_modulate", "norm_rope", "norm.gradient"], |c| c.norms(m, d, heads));
        self.named(&["layer_norm"], |c| {
            let (x, row) = (c.types.tokens(&[1, m, d]), f32(&[d]));
            let norm = ops::LayerNorm { eps: 1e-6, affine: true };
            c.add(Case::new(format!("layer norm {m}x{d}"), norm, inputs([&x, &row, &row])));
        });
        self.named(&["gate_residual"], |c| {
            let (x, row) = (c.types.tokens(&[1, m, d]), f32(&[1, 1, d]));
            let fused = ops::Fused { chain: gated(), out: c.types.out() };
            c.add(Case::new(format!("gate and residual {m}x{d}"), fused, inputs([&x, &x, &row])));
        });
    }

    fn backward(&mut self) {
        let [m, d, ffn, _] = self.shape();
        self.named(&["projection.dx", "projection.dw"], |c| c.products(m, d, d));
        self.named(&["ffn.up.dx", "ffn.up.dw"], |c| c.products(m, ffn, d));
        self.named(&["adam_w"], |c| c.adam_w(d * d));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ccl_codegen::gpu::Target;
    use ccl_ir::plan::{Call, Operand};
    use ccl_ir::{DType, Op};
    use ccl_model::{Guidance, Task};

    use super::*;
    use crate::planning::{Request, plan};

    /// What a kernel does and what its operands are.
    fn signature(call: &Call) -> String {
        // A prompt may be shorter than its room.
        let op = match &call.op {
            Op::Attention(_) => "attention".into(),
            op => format!("{op:?}"),
        };
        // Where a row of single precision lies, among modulations or weights, does not matter to a kernel.
        let lies = |o: &Operand| match o.ty.dtype.is_half() {
            true => {
                let steps = o.ty.shape.iter().zip(&o.strides).map(|(n, s)| if *n == 1 { 0 } else { *s });
                format!("{:?} from {}", steps.collect::<Vec<_>>(), o.offset)
            }
            false => String::new(),
        };
        let numbers = call.inputs.iter().filter(|o| o.ty.dtype != DType::I32);
        let inputs: Vec<String> = numbers.map(|o| format!("{} {}", o.ty, lies(o))).collect();
        let outputs: Vec<String> = call.outputs.iter().map(|o| o.ty.to_string()).collect();
        format!("{op} {inputs:?} {outputs:?}")
    }

    /// The forward cases are calls of the 14B model's step, operand by operand.
    #[test]
    fn forward_cases_are_calls_of_the_14b_step() {
        let config = Sizes::PAPER.config(2);
        let clip = "21x44x80@158".parse().unwrap();
        let mut request = Request::new(&config, Task::Joint, Guidance::TwoPass, clip);
        (request.dtype, request.gpu) = (DType::Bf16, Target::from_name("cuda:sm_90a"));
        let mut calls: HashSet<String> = HashSet::new();
        for rules in [crate::planning::RuleSet::All, crate::planning::RuleSet::None] {
            request.algebra.rules = rules;
            calls.extend(plan(&config, &request).unwrap().entries.values().flatten().map(signature));
        }
        let types = Types { tokens: DType::Bf16, matrices: DType::Bf16 };
        let parallelism = request.gpu.as_ref().map(|gpu| gpu.parallelism);
        let others = ["gradient", "dx", "dw", "adam_w", "gate_residual"];
        for case in cases(&Sizes::PAPER, types).iter().filter(|c| !others.iter().any(|o| c.id.ends_with(o))) {
            let lone = case.lone_for(parallelism).unwrap();
            let want = signature(lone.call());
            let op = want.split(' ').next().unwrap_or_default();
            let near: Vec<&String> = calls.iter().filter(|c| c.starts_with(op)).collect();
            assert!(calls.contains(&want), "{}: {want}\nis none of {near:#?}", case.id);
        }
    }
}
