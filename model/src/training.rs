//! The training loss of a batch as a graph (SPEC 9).

use ccl_ir::ops::{Binary, BinaryKind, Reduce};
use ccl_ir::{Binding, Graph, Value};

use crate::build::{Spec, prepared};
use crate::builder::{Added, Builder, Purpose};
use crate::config::Config;
use crate::error::ModelError;
use crate::stream::Stream;

/// Builds the loss of a batch: both streams, every route open, parameters as states.
///
/// Inputs, all in each step: clean latents `video [B, C, T, H, W]` and `audio [B, C, L]`, their `noise.video` and `noise.audio`,
/// `t [B]`, `text [B, N, D]`, and `video_condition` and `image` where the model and the specification have a use for them. Outputs: `loss`, the sum over the
/// streams that the task generates of the mean squared error of the velocity (`noise - clean`), and its parts `loss.<stream>`.
/// Reference streams are clean, at time 0, and the keys that they supply are detached.
///
/// The guidance of the specification must be none, and its numbers of text and image tokens are exact.
///
/// # Errors
/// When the configuration, the clip or another setting is out of range, or the clip does not fit the model's patches.
pub fn build_loss(config: &Config, spec: &Spec) -> Result<Graph, ModelError> {
    let (grid, passes) = prepared(config, spec)?;
    if passes.len() != 1 || spec.counted {
        return Err(ModelError::Spec("a loss is of one pass without guidance, over exactly the tokens given".into()));
    }
    let name = format!("loss {} batch {}", spec.clip, spec.batch);
    let mut b = Builder::new(name, config, spec, grid, passes[0], Purpose::Train);
    let velocities = b.velocities()?;
    let mut total = b.constant(0.0, [])?;
    for (m, velocity) in Stream::ALL.into_iter().zip(velocities) {
        let part = b.loss(m, velocity)?;
        b.graph.output(format!("loss.{m}"), part, Some(m.name()));
        let module = format!("loss.{m}");
        let zero = b.constant(0.0, [])?;
        let counted = b.route(&module, m.name().into(), part, zero)?;
        total = b.binary("loss", BinaryKind::Add, total, counted)?;
    }
    b.graph.output("loss", total, None);
    Ok(b.graph)
}

impl Builder<'_> {
    /// Clean latent and noise of a stream.
    fn sample(&mut self, m: Stream) -> Result<(Value, Value), ccl_ir::IrError> {
        let shape = [&[self.spec.batch, self.config.stream(m).out_channels][..], &self.spec.clip.sizes(m)].concat();
        let clean = self.input(m.name(), shape.clone(), Binding::Step)?;
        Ok((clean, self.input(&format!("noise.{m}"), shape, Binding::Step)?))
    }

    /// The noisy latent `(1 - t) clean + t noise` and the clean one.
    pub fn noised(&mut self, m: Stream) -> Result<(Value, Value), ccl_ir::IrError> {
        let (clean, noise) = self.sample(m)?;
        let module = format!("{m}.noised");
        let t = self.input("t", [self.spec.batch], Binding::Step)?;
        let mut shape = vec![1; self.graph.ty(clean).rank()];
        shape[0] = self.spec.batch;
        let t = self.reshape(&module, t, shape)?;
        let one = self.constant(1.0, [])?;
        let rest = self.binary(&module, BinaryKind::Sub, one, t)?;
        let kept = self.binary(&module, BinaryKind::Mul, rest, clean)?;
        let added = self.binary(&module, BinaryKind::Mul, t, noise)?;
        Ok((self.binary(&module, BinaryKind::Add, kept, added)?, clean))
    }

    /// Mean squared error of a stream's velocity.
    fn loss(&mut self, m: Stream, velocity: Value) -> Added {
        let (clean, noise) = self.sample(m)?;
        let module = format!("loss.{m}");
        let target = self.binary(&module, BinaryKind::Sub, noise, clean)?;
        let error = self.binary(&module, BinaryKind::Sub, velocity, target)?;
        let square = self.add(&module, Binary { kind: BinaryKind::Mul }, &[error, error])?;
        let elements = self.graph.ty(square).elements();
        let at = format!("{}/{module}", self.pass.name);
        let sum = Reduce::total(&mut self.graph, &at, square)?;
        let share = self.constant(1.0 / elements as f64, [])?;
        self.binary(&module, BinaryKind::Mul, sum, share)
    }
}
