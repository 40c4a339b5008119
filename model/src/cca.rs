//! Cross-modal context attention in its plain form (SPEC 4): gather, join with the context, mask, softmax.
//!
//! The plain form is slow and obvious. Raising replaces it by the fused operator, whose oracle it stays.

use ccl_ir::ops::{Attention, BinaryKind, Concat, Detach, Expand, WindowGather, WindowMask};
use ccl_ir::{IrError, Partition, Value};

use crate::builder::{Added, Builder, Purpose};
use crate::config::CrossAttention;
use crate::guidance::{cross_flag, sees_flag};
use crate::stream::Stream;
use crate::tarp;

impl Builder<'_> {
    /// Tokens of the reading stream after its cross-modal attention: `x + CCA(x, other)`, or `x` alone where the pass
    /// drops the attention. `x [B, L, d]` and `other [B, L_o, d_o]` are both as text attention left them.
    pub fn cross(&mut self, m: Stream, n: usize, x: Value, other: Value) -> Added {
        let module = &format!("{m}.blocks.{n}.cca");
        let eps = self.config.eps;
        let c = self.config.stream(m);
        let q = self.layer_norm(&format!("{module}.norm"), x, eps)?;
        let q = self.normed_heads(m, module, "q", "norm_q", q)?;
        // q turns in every route, so that a stream behaves alike in all of them.
        let q = self.rope(module, q, self.aligned(m))?;
        let sees = sees_flag(self.pass.name, m);
        if self.config.cross_attention != CrossAttention::Context {
            let o = self.gated_cross(m, module, q, other)?;
            let sum = self.out(module, x, o, c.dim)?;
            let seen = self.route(module, sees, sum, x)?;
            return self.route(module, cross_flag(self.pass.name), seen, x);
        }
        let context = self.context(m, module)?;
        if self.purpose == Purpose::Observe {
            self.observe(m, n, q, other, context.0)?;
        }
        let windowed = self.windowed(m, module, q, other, Some(context))?;
        let alone = self.context_only(module, q, context)?;
        let o = self.route(module, sees, windowed, alone)?;
        let sum = self.out(module, x, o, c.dim)?;
        self.route(module, cross_flag(self.pass.name), sum, x)
    }

    /// `x` and the projected result of the attention.
    fn out(&mut self, module: &str, x: Value, o: Value, dim: usize) -> Added {
        let o = self.join_heads(module, o)?;
        let o = self.linear(&format!("{module}.o"), o, dim)?;
        self.binary(module, BinaryKind::Add, x, o)
    }

    /// What CCA is compared with: attention over the other stream alone, in windows or over all of it.
    fn gated_cross(&mut self, m: Stream, module: &str, q: Value, other: Value) -> Added {
        if self.config.cross_attention == CrossAttention::Windowed {
            return self.windowed(m, module, q, other, None);
        }
        let (k, v) = self.cross_keys(m, module, other)?;
        self.attend(module, q, k, v, None)
    }

    /// Keys and values of the context tokens, `[n, H, D]` each.
    fn context(&mut self, m: Stream, module: &str) -> Result<(Value, Value), IrError> {
        let c = self.config.stream(m);
        let tokens = self.weight(&format!("{module}.context"), [self.config.context_tokens(m), c.dim])?;
        let k = self.normed_heads(m, module, "context_k", "norm_k", tokens)?;
        let v = self.linear(&format!("{module}.context_v"), tokens, c.dim)?;
        Ok((k, self.heads(module, v, c.heads)?))
    }

    /// Keys and values of the other stream, `[B, L_o, H, D]` each.
    pub fn cross_keys(&mut self, m: Stream, module: &str, other: Value) -> Result<(Value, Value), IrError> {
        let c = self.config.stream(m);
        let other = self.detached_reference(m.other(), module, other)?;
        let y = self.layer_norm(&format!("{module}.norm_other"), other, self.config.eps)?;
        let k = self.normed_heads(m, module, "k", "norm_k", y)?;
        let k = self.rope(module, k, self.aligned(m.other()))?;
        let v = self.linear(&format!("{module}.v"), y, c.dim)?;
        Ok((k, self.heads(module, v, c.heads)?))
    }

    /// Attention over the other stream's tokens that the partition shows, and the context where there is one.
    fn windowed(&mut self, m: Stream, module: &str, q: Value, other: Value, context: Option<(Value, Value)>) -> Added {
        let (k, v) = self.cross_keys(m, module, other)?;
        let partition = tarp::partition(self.config, &self.grid, m);
        let k = self.window(module, partition, k, context.map(|c| c.0))?;
        let v = self.window(module, partition, v, context.map(|c| c.1))?;
        let mask = WindowMask { partition, context: context.map_or(0, |_| self.config.context_tokens(m)) };
        let mask = self.add(module, mask, &[])?;
        let shape = self.graph.ty(q).shape.clone();
        let (rows, _) = partition.row_shape();
        let per_row = shape[1] / rows;
        let q = self.reshape(module, q, [shape[0], rows, per_row, shape[2], shape[3]])?;
        let o = self.add(module, Attention { masked: true, counted: false }, &[q, k, v, mask])?;
        self.reshape(module, o, shape)
    }

    /// Tokens of a stream as the other one reads them: in training no gradient reaches a stream that is only a reference (SPEC 9).
    fn detached_reference(&mut self, m: Stream, module: &str, x: Value) -> Added {
        if self.purpose == Purpose::Denoise {
            return Ok(x);
        }
        let detached = self.add(module, Detach {}, &[x])?;
        self.route(module, m.name().into(), x, detached)
    }

    /// The windows of `x [B, L_o, H, D]`, each followed by the context `[n, H, D]`: `[B, rows, s + n, H, D]`.
    fn window(&mut self, module: &str, partition: Partition, x: Value, context: Option<Value>) -> Added {
        let seen = self.add(module, WindowGather { partition }, &[x])?;
        let Some(context) = context else { return Ok(seen) };
        let (rows, _) = partition.row_shape();
        let shape = [&[self.spec.batch, rows][..], &self.graph.ty(context).shape].concat();
        let context = self.add(module, Expand { shape }, &[context])?;
        self.add(module, Concat { axis: 2 }, &[seen, context])
    }

    /// Attention over the context alone.
    fn context_only(&mut self, module: &str, q: Value, (k, v): (Value, Value)) -> Added {
        let shape = [&[self.spec.batch][..], &self.graph.ty(k).shape].concat();
        let k = self.add(module, Expand { shape: shape.clone() }, &[k])?;
        let v = self.add(module, Expand { shape }, &[v])?;
        self.attend(module, q, k, v, None)
    }
}
