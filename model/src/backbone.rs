//! The backbone of one stream (SPEC 2): embeddings, self and text attention, feed-forward, head.

use ccl_ir::ops::{BinaryKind, Concat, Patchify, Positions, TimeFeatures, UnaryKind, Unpatchify};
use ccl_ir::{Binding, IrError, Value};

use crate::builder::{Added, Builder, Purpose};
use crate::config::Config;
use crate::stream::Stream;

/// What the blocks of a stream read and write.
pub(crate) struct State {
    /// Tokens `[B, L, d]`.
    pub x: Value,
    /// Time embedding `[B, d]`.
    e: Value,
    /// Time modulation `[B, 6, d]`.
    e6: Value,
    /// Text features `[B, L_text, d]` and how many are there.
    text: (Value, Option<Value>),
    /// Image features `[B, L_image, d]` and how many are there.
    image: Option<(Value, Option<Value>)>,
    /// Modulation of the current block: shift, scale, gate of self attention, then of the feed-forward; `[B, 1, d]`.
    modulation: [Value; 6],
}

impl Builder<'_> {
    /// Everything before the first block.
    pub fn open(&mut self, m: Stream) -> Result<State, IrError> {
        let (e, e6) = self.time(m)?;
        let x = self.embed(m)?;
        let text = self.text(m)?;
        let image = match m {
            Stream::Video if self.spec.image_tokens > 0 => Some(self.image(m)?),
            _ => None,
        };
        Ok(State { x, e, e6, text, image, modulation: [e6; 6] })
    }

    /// Latent to tokens. A reference stream's latent is the clean one.
    fn embed(&mut self, m: Stream) -> Added {
        let (s, batch) = (self.config.stream(m), self.spec.batch);
        let sizes = self.spec.clip.sizes(m);
        let (noisy, clean) = match self.purpose {
            Purpose::Train | Purpose::Observe => self.noised(m)?,
            Purpose::Denoise => {
                let latent = [&[batch, s.out_channels][..], &sizes].concat();
                let noisy = self.input(m.name(), latent.clone(), Binding::Step)?;
                (noisy, self.input(&format!("reference.{m}"), latent, Binding::Prologue)?)
            }
        };
        let module = format!("{m}.patch_embedding");
        let mut x = self.route(&module, m.name().into(), noisy, clean)?;
        if m == Stream::Video && self.config.condition_channels() > 0 {
            let shape = [&[batch, self.config.condition_channels()][..], &sizes].concat();
            let condition = self.condition("video_condition", shape)?;
            x = self.add(&module, Concat { axis: 1 }, &[x, condition])?;
        }
        let x = self.add(&module, Patchify { patch: s.patch.clone() }, &[x])?;
        // A convolution whose kernel equals its stride is a linear map of patches.
        let shape = [&[s.dim, s.in_channels][..], &s.patch].concat();
        let w = self.weight(&format!("{module}.weight"), shape)?;
        let w = self.reshape(&module, w, [s.dim, s.in_channels * s.patch_volume()])?;
        self.linear_with(&module, x, w, s.dim)
    }

    /// Time to `e [B, d]` and `e6 [B, 6, d]`. A reference stream is at time 0.
    fn time(&mut self, m: Stream) -> Result<(Value, Value), IrError> {
        let (d, batch) = (self.config.stream(m).dim, self.spec.batch);
        let t = self.input("t", [batch], Binding::Step)?;
        let zero = self.constant(0.0, [batch])?;
        let module = format!("{m}.time_embedding");
        let t = self.route(&module, m.name().into(), t, zero)?;
        let features = self.add(&module, TimeFeatures { dim: self.config.freq_dim }, &[t])?;
        let e = self.linear(&format!("{module}.0"), features, d)?;
        let e = self.unary(&format!("{module}.1"), UnaryKind::Silu, e)?;
        let e = self.linear(&format!("{module}.2"), e, d)?;
        let y = self.unary(&format!("{m}.time_projection.0"), UnaryKind::Silu, e)?;
        let y = self.linear(&format!("{m}.time_projection.1"), y, 6 * d)?;
        let e6 = self.reshape(&format!("{m}.time_projection.1"), y, [batch, 6, d])?;
        Ok((e, e6))
    }

    /// The pass's prompt to `[B, L_text, d]`.
    fn text(&mut self, m: Stream) -> Result<(Value, Option<Value>), IrError> {
        let (d, name) = (self.config.stream(m).dim, self.pass.prompt.input());
        let shape = [self.spec.batch, self.spec.text_tokens, self.config.text_dim];
        let text = self.condition(name, shape)?;
        let count = if self.spec.counted { Some(self.count(&format!("{name}_len"))?) } else { None };
        let module = format!("{m}.text_embedding");
        let y = self.linear(&format!("{module}.0"), text, d)?;
        let y = self.unary(&format!("{module}.1"), UnaryKind::GeluTanh, y)?;
        Ok((self.linear(&format!("{module}.2"), y, d)?, count))
    }

    /// Image features to `[B, L_image, d]`.
    fn image(&mut self, m: Stream) -> Result<(Value, Option<Value>), IrError> {
        let (d, width) = (self.config.stream(m).dim, self.config.image_dim);
        let image = self.condition("image", [self.spec.batch, self.spec.image_tokens, width])?;
        let count = if self.spec.counted { Some(self.count("image_len")?) } else { None };
        let module = format!("{m}.img_emb.proj");
        let y = self.layer_norm(&format!("{module}.0"), image, Config::IMAGE_EPS)?;
        let y = self.linear(&format!("{module}.1"), y, width)?;
        let y = self.unary(&format!("{module}.2"), UnaryKind::GeluErf, y)?;
        let y = self.linear(&format!("{module}.3"), y, d)?;
        Ok((self.layer_norm(&format!("{module}.4"), y, Config::IMAGE_EPS)?, count))
    }

    /// The part of block `n` before the cross-modal attention.
    pub fn before_cross(&mut self, m: Stream, n: usize, s: &mut State) -> Result<(), IrError> {
        let block = format!("{m}.blocks.{n}");
        let module = format!("{block}.modulation");
        let own = self.weight(&module, [1, 6, self.config.stream(m).dim])?;
        let sum = self.binary(&module, BinaryKind::Add, own, s.e6)?;
        for (i, part) in s.modulation.iter_mut().enumerate() {
            *part = self.row(&module, sum, i)?;
        }
        let [shift, scale, gate, ..] = s.modulation;
        let y = self.modulated_norm(&format!("{block}.norm1"), s.x, scale, shift)?;
        let y = self.self_attention(m, &format!("{block}.self_attn"), y)?;
        let x = self.gated(&format!("{block}.self_attn"), s.x, y, gate)?;
        let y = self.layer_norm(&format!("{block}.norm3"), x, self.config.eps)?;
        let y = self.text_attention(m, &format!("{block}.cross_attn"), y, s)?;
        s.x = self.binary(&format!("{block}.cross_attn"), BinaryKind::Add, x, y)?;
        Ok(())
    }

    fn self_attention(&mut self, m: Stream, module: &str, x: Value) -> Added {
        let s = self.config.stream(m);
        let positions = match m {
            Stream::Video => self.axial(),
            Stream::Audio => Positions::Linear { length: self.grid.length },
        };
        let q = self.normed_heads(m, module, "q", "norm_q", x)?;
        let q = self.rope(module, q, positions)?;
        let k = self.normed_heads(m, module, "k", "norm_k", x)?;
        let k = self.rope(module, k, positions)?;
        let v = self.linear(&format!("{module}.v"), x, s.dim)?;
        let v = self.heads(module, v, s.heads)?;
        let o = self.attend(module, q, k, v, None)?;
        let o = self.join_heads(module, o)?;
        self.linear(&format!("{module}.o"), o, s.dim)
    }

    fn text_attention(&mut self, m: Stream, module: &str, x: Value, state: &State) -> Added {
        let s = self.config.stream(m);
        let q = self.normed_heads(m, module, "q", "norm_q", x)?;
        let (text, count) = state.text;
        let k = self.normed_heads(m, module, "k", "norm_k", text)?;
        let v = self.linear(&format!("{module}.v"), text, s.dim)?;
        let v = self.heads(module, v, s.heads)?;
        let mut o = self.attend(module, q, k, v, count)?;
        if let Some((image, count)) = state.image {
            let k = self.normed_heads(m, module, "k_img", "norm_k_img", image)?;
            let v = self.linear(&format!("{module}.v_img"), image, s.dim)?;
            let v = self.heads(module, v, s.heads)?;
            let seen = self.attend(module, q, k, v, count)?;
            o = self.binary(module, BinaryKind::Add, o, seen)?;
        }
        let o = self.join_heads(module, o)?;
        self.linear(&format!("{module}.o"), o, s.dim)
    }

    /// A linear to the width of stream `m`, its RMSNorm over that width, then the split into heads.
    pub fn normed_heads(&mut self, m: Stream, module: &str, linear: &str, norm: &str, x: Value) -> Added {
        let c = self.config.stream(m);
        let y = self.linear(&format!("{module}.{linear}"), x, c.dim)?;
        let y = self.rms_norm(&format!("{module}.{norm}"), y)?;
        self.heads(module, y, c.heads)
    }

    /// The feed-forward of block `n`.
    pub fn feed_forward(&mut self, m: Stream, n: usize, s: &mut State) -> Result<(), IrError> {
        let (block, c) = (format!("{m}.blocks.{n}"), self.config.stream(m));
        let [.., shift, scale, gate] = s.modulation;
        let y = self.modulated_norm(&format!("{block}.norm2"), s.x, scale, shift)?;
        let y = self.linear(&format!("{block}.ffn.0"), y, c.ffn_dim)?;
        let y = self.unary(&format!("{block}.ffn.1"), UnaryKind::GeluTanh, y)?;
        let y = self.linear(&format!("{block}.ffn.2"), y, c.dim)?;
        s.x = self.gated(&format!("{block}.ffn"), s.x, y, gate)?;
        Ok(())
    }

    /// Tokens to velocity.
    pub fn head(&mut self, m: Stream, s: &State) -> Added {
        let c = self.config.stream(m);
        let module = format!("{m}.head.modulation");
        let own = self.weight(&module, [1, 2, c.dim])?;
        let e = self.reshape(&module, s.e, [self.spec.batch, 1, c.dim])?;
        let sum = self.binary(&module, BinaryKind::Add, own, e)?;
        let shift = self.row(&module, sum, 0)?;
        let scale = self.row(&module, sum, 1)?;
        let y = self.modulated_norm(&format!("{m}.head.norm"), s.x, scale, shift)?;
        let module = format!("{m}.head.head");
        let y = self.linear(&module, y, c.patch_volume() * c.out_channels)?;
        self.add(&module, Unpatchify { patch: c.patch.clone(), grid: self.grid.sizes(m) }, &[y])
    }
}
