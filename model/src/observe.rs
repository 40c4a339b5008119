//! What the cross attention of a model looks at, as a graph (figure 6 of the paper).

use ccl_ir::ops::{ContextProbabilities, Slice};
use ccl_ir::{Graph, IrError, Value};

use crate::build::{Spec, prepared};
use crate::builder::{Builder, Purpose};
use crate::config::{Config, CrossAttention};
use crate::error::ModelError;
use crate::stream::Stream;
use crate::tarp;

/// Name of the output with the weights that block `n` of a stream gives to the context tokens.
pub fn context_weights(m: Stream, n: usize) -> String {
    format!("context.{m}.{n}")
}

/// Builds what the cross attention gives to the context tokens in one evaluation of the denoiser: the rest of its weight, up to 1, lies
/// on the other stream's tokens.
///
/// Inputs and parameters are those of [`crate::build_loss`]. Outputs: [`context_weights`] of every block of the streams that the task
/// generates, `[B, L, n, H]` over `n` context tokens and `H` heads.
///
/// # Errors
/// As for [`crate::build_loss`], and when the model has no context tokens.
pub fn build_context_weights(config: &Config, spec: &Spec) -> Result<Graph, ModelError> {
    let (grid, passes) = prepared(config, spec)?;
    if passes.len() != 1 || spec.counted {
        return Err(ModelError::Spec("one pass is looked at, over exactly the tokens given".into()));
    }
    if config.cross_attention != CrossAttention::Context {
        return Err(ModelError::Spec("the model's cross attention has no context tokens to look at".into()));
    }
    let name = format!("context weights {} batch {}", spec.clip, spec.batch);
    let mut b = Builder::new(name, config, spec, grid, passes[0], Purpose::Observe);
    b.velocities()?;
    Ok(b.graph)
}

impl Builder<'_> {
    /// Makes the weights on the context's keys `ck [n, H, D]` an output; `q [B, L, H, D]` are the queries, `other` the stream read.
    pub fn observe(&mut self, m: Stream, n: usize, q: Value, other: Value, ck: Value) -> Result<(), IrError> {
        let module = &format!("{m}.blocks.{n}.cca");
        let (k, _) = self.cross_keys(m, module, other)?;
        let op = ContextProbabilities { partition: Some(tarp::partition(self.config, &self.grid, m)) };
        let all = self.add(module, op, &[q, ck, k])?;
        let context = Slice { axis: 2, start: 0, len: self.config.context_tokens(m) };
        let weights = self.add(module, context, &[all])?;
        self.graph.output(context_weights(m, n), weights, Some(m.name()));
        Ok(())
    }
}
