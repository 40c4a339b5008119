//! The graph in the making: layers as operators, by the checkpoint's module paths.

use std::collections::HashMap;

use ccl_ir::ops::{
    Attention, Binary, BinaryKind, Constant, LayerNorm, Linear, Positions, Reshape, RmsNorm, Rope, RopeTable, Route,
    Slice, Unary, UnaryKind,
};
use ccl_ir::{Binding, DType, Graph, IrError, Op, TensorType, Value};

use crate::build::Spec;
use crate::clip::Grid;
use crate::config::{Config, CrossAttention};
use crate::guidance::Pass;
use crate::stream::Stream;

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Denoising steps: parameters are weights, prompt and conditions stay from step to step.
    Denoise,
    /// Training steps: parameters are states, every batch is another.
    Train,
    /// Looking at what is learnt: as in training, with what the cross attention looks at as outputs.
    Observe,
}

/// A graph in the making.
///
/// Layers are named by module path (`video.blocks.3.cca.q`); nodes get the guidance pass in front of it. Weights and
/// inputs are one node each however often they are used; all else is written once per pass, as the definition has it.
pub(crate) struct Builder<'a> {
    /// The graph so far.
    pub graph: Graph,
    /// The model.
    pub config: &'a Config,
    /// What is built.
    pub spec: &'a Spec,
    /// Tokens of the clip.
    pub grid: Grid,
    /// The guidance pass that is being written.
    pub pass: Pass,
    /// What it is built for.
    pub purpose: Purpose,
    tables: HashMap<(Positions, usize), Value>,
    constants: HashMap<(u64, Vec<usize>), Value>,
}

/// Result of adding to a graph.
pub(crate) type Added = Result<Value, IrError>;

impl<'a> Builder<'a> {
    /// An empty graph.
    pub fn new(name: String, config: &'a Config, spec: &'a Spec, grid: Grid, pass: Pass, purpose: Purpose) -> Self {
        let graph = Graph::new(name);
        Self { graph, config, spec, grid, pass, purpose, tables: HashMap::new(), constants: HashMap::new() }
    }

    /// Adds an operator at a module of the current pass.
    pub fn add(&mut self, module: &str, op: impl Into<Op>, inputs: &[Value]) -> Added {
        self.graph.add(format!("{}/{module}", self.pass.name), op, inputs)
    }

    /// A tensor given by the caller.
    pub fn input(&mut self, name: &str, shape: impl Into<Vec<usize>>, binding: Binding) -> Added {
        self.graph.input(name, TensorType::f32(shape), binding)
    }

    /// A tensor that comes with a clip: it stays in all steps of denoising and changes in every step of training.
    pub fn condition(&mut self, name: &str, shape: impl Into<Vec<usize>>) -> Added {
        let binding = match self.purpose {
            Purpose::Denoise => Binding::Prologue,
            Purpose::Train | Purpose::Observe => Binding::Step,
        };
        self.input(name, shape, binding)
    }

    /// A whole number given with the prompt.
    pub fn count(&mut self, name: &str) -> Added {
        self.graph.input(name, TensorType::new(DType::I32, []), Binding::Prologue)
    }

    /// A number everywhere; one node for each number and shape.
    pub fn constant(&mut self, value: f64, shape: impl Into<Vec<usize>>) -> Added {
        let key = (value.to_bits(), shape.into());
        if let Some(&v) = self.constants.get(&key) {
            return Ok(v);
        }
        let ty = TensorType::f32(key.1.clone());
        let v = self.graph.add("constant", Constant { ty, value }, &[])?;
        self.constants.insert(key, v);
        Ok(v)
    }

    /// A tensor of the checkpoint. Matrices have the type that the specification stores weights in, all others f32.
    pub fn weight(&mut self, name: &str, shape: impl Into<Vec<usize>>) -> Added {
        let shape = shape.into();
        let matrix = shape.len() >= 2 && name.ends_with(".weight");
        let dtype = if matrix { self.spec.weight_dtype } else { DType::F32 };
        let ty = TensorType::new(dtype, shape);
        match self.purpose {
            Purpose::Denoise => self.graph.weight(name, ty),
            Purpose::Train | Purpose::Observe => self.graph.state(name, ty),
        }
    }

    /// Width of a value.
    pub fn width(&self, x: Value) -> usize {
        self.graph.ty(x).last()
    }

    /// `x Wᵀ + b` to `outputs` channels.
    pub fn linear(&mut self, module: &str, x: Value, outputs: usize) -> Added {
        let inputs = self.width(x);
        let w = self.weight(&format!("{module}.weight"), [outputs, inputs])?;
        self.linear_with(module, x, w, outputs)
    }

    /// `x Wᵀ + b` with a weight that is there already.
    pub fn linear_with(&mut self, module: &str, x: Value, w: Value, outputs: usize) -> Added {
        let b = self.weight(&format!("{module}.bias"), [outputs])?;
        self.add(module, Linear::biased(), &[x, w, b])
    }

    /// RMSNorm over the whole width.
    pub fn rms_norm(&mut self, module: &str, x: Value) -> Added {
        let w = self.weight(&format!("{module}.weight"), [self.width(x)])?;
        self.add(module, RmsNorm { eps: self.config.eps }, &[x, w])
    }

    /// LayerNorm with weight and bias.
    pub fn layer_norm(&mut self, module: &str, x: Value, eps: f64) -> Added {
        let d = self.width(x);
        let w = self.weight(&format!("{module}.weight"), [d])?;
        let b = self.weight(&format!("{module}.bias"), [d])?;
        self.add(module, LayerNorm { eps, affine: true }, &[x, w, b])
    }

    /// `LN(x) * (1 + scale) + shift`, the norm without weights.
    pub fn modulated_norm(&mut self, module: &str, x: Value, scale: Value, shift: Value) -> Added {
        let y = self.add(module, LayerNorm { eps: self.config.eps, affine: false }, &[x])?;
        let one = self.constant(1.0, [])?;
        let scale = self.binary(module, BinaryKind::Add, scale, one)?;
        let y = self.binary(module, BinaryKind::Mul, y, scale)?;
        self.binary(module, BinaryKind::Add, y, shift)
    }

    /// A function of one number.
    pub fn unary(&mut self, module: &str, kind: UnaryKind, x: Value) -> Added {
        self.add(module, Unary { kind }, &[x])
    }

    /// A function of two numbers.
    pub fn binary(&mut self, module: &str, kind: BinaryKind, a: Value, b: Value) -> Added {
        self.add(module, Binary { kind }, &[a, b])
    }

    /// `x + y * gate`.
    pub fn gated(&mut self, module: &str, x: Value, y: Value, gate: Value) -> Added {
        let y = self.binary(module, BinaryKind::Mul, y, gate)?;
        self.binary(module, BinaryKind::Add, x, y)
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, module: &str, x: Value, shape: impl Into<Vec<usize>>) -> Added {
        self.add(module, Reshape { shape: shape.into() }, &[x])
    }

    /// Splits the width into heads: `[..., d]` to `[..., H, D]`.
    pub fn heads(&mut self, module: &str, x: Value, heads: usize) -> Added {
        let mut shape = self.graph.ty(x).shape.clone();
        let d = shape.pop().unwrap_or(0);
        shape.extend([heads, d / heads]);
        self.reshape(module, x, shape)
    }

    /// Joins heads: `[..., H, D]` to `[..., d]`.
    pub fn join_heads(&mut self, module: &str, x: Value) -> Added {
        let mut shape = self.graph.ty(x).shape.clone();
        let d = shape.pop().unwrap_or(1) * shape.pop().unwrap_or(1);
        shape.push(d);
        self.reshape(module, x, shape)
    }

    /// Row `index` of dimension 1, which stays with size 1.
    pub fn row(&mut self, module: &str, x: Value, index: usize) -> Added {
        self.add(module, Slice { axis: 1, start: index, len: 1 }, &[x])
    }

    /// The first way where the task's answer to `flag` is yes, else the second.
    pub fn route(&mut self, module: &str, flag: String, yes: Value, no: Value) -> Added {
        self.add(module, Route { flag, answer: None }, &[yes, no])
    }

    /// Turns the heads of `x [B, L, H, D]` by their positions. One table serves all that share it.
    pub fn rope(&mut self, module: &str, x: Value, positions: Positions) -> Added {
        let head_dim = self.width(x);
        let table = match self.tables.get(&(positions, head_dim)) {
            Some(&table) => table,
            None => {
                let op = RopeTable { positions, head_dim, theta: self.config.rope_theta };
                let table = self.graph.add("rope", op, &[])?;
                self.tables.insert((positions, head_dim), table);
                table
            }
        };
        self.add(module, Rope::default(), &[x, table])
    }

    /// Attention over all keys, or over the first `count` of them where the graph is built for a count.
    pub fn attend(&mut self, module: &str, q: Value, k: Value, v: Value, count: Option<Value>) -> Added {
        match count {
            None => self.add(module, Attention::full(), &[q, k, v]),
            Some(n) => self.add(module, Attention { masked: false, counted: true }, &[q, k, v, n]),
        }
    }

    /// Positions of the video tokens (SPEC 2).
    pub fn axial(&self) -> Positions {
        Positions::Axial { frames: self.grid.frames, rows: self.grid.rows, columns: self.grid.columns }
    }

    /// Positions that make a stream's tokens comparable with the other's (SPEC 3).
    pub fn aligned(&self, stream: Stream) -> Positions {
        match stream {
            Stream::Video => self.axial(),
            // Positions that mean no time: what the plain cross attention of the comparison has.
            Stream::Audio if self.config.cross_attention == CrossAttention::Dense => {
                Positions::Aligned { length: self.grid.length, frames: self.grid.length }
            }
            Stream::Audio => Positions::Aligned { length: self.grid.length, frames: self.grid.frames },
        }
    }
}
