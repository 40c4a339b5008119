//! Left sides of the algebra's rules, of random sizes.

use ccl_ir::ops::{self, BinaryKind, UnaryKind};
use ccl_ir::partition::Edge;
use ccl_ir::{Binding, DType, Graph, IrError, Partition, TensorType, Value};

/// Draws of one seed.
struct Dice(u64);

impl Dice {
    /// A number from `from` to `to`.
    fn roll(&mut self, from: usize, to: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        from + (self.0 >> 33) as usize % (to - from + 1)
    }

    fn coin(&mut self) -> bool {
        self.roll(0, 1) == 1
    }
}

/// A left side in the making.
pub struct Left {
    pub g: Graph,
    dice: Dice,
    weights: usize,
}

type Made = Result<Value, IrError>;

impl Left {
    /// Nothing yet, and the draws of this seed.
    pub fn new(seed: u64) -> Self {
        Self { g: Graph::new("left"), dice: Dice(seed), weights: 0 }
    }

    fn roll(&mut self, from: usize, to: usize) -> usize {
        self.dice.roll(from, to)
    }

    /// A value that changes in every step.
    fn x(&mut self, shape: &[usize]) -> Made {
        let name = format!("x{}", self.g.nodes().len());
        self.g.input(&name, TensorType::f32(shape), Binding::Step)
    }

    fn w(&mut self, shape: &[usize]) -> Made {
        self.stored(shape, DType::F32)
    }

    fn stored(&mut self, shape: &[usize], dtype: DType) -> Made {
        self.weights += 1;
        self.g.weight(&format!("w{}", self.weights), TensorType::new(dtype, shape))
    }

    fn op(&mut self, op: impl Into<ccl_ir::Op>, inputs: &[Value]) -> Made {
        self.g.add("here", op, inputs)
    }

    /// A linear map to `n` columns, with a bias or without.
    fn linear(&mut self, x: Value, n: usize) -> Made {
        let k = self.g.ty(x).last();
        let w = self.w(&[n, k])?;
        if self.dice.coin() {
            let b = self.w(&[n])?;
            return self.op(ops::Linear::biased(), &[x, w, b]);
        }
        self.op(ops::Linear::plain(), &[x, w])
    }

    fn binary(&mut self, kind: BinaryKind, a: Value, b: Value) -> Made {
        self.op(ops::Binary { kind }, &[a, b])
    }

    fn reshape(&mut self, x: Value, shape: &[usize]) -> Made {
        self.op(ops::Reshape { shape: shape.to_vec() }, &[x])
    }

    fn unary(&mut self, x: Value) -> Made {
        let kind = [UnaryKind::Silu, UnaryKind::GeluTanh, UnaryKind::Neg][self.roll(0, 2)];
        self.op(ops::Unary { kind }, &[x])
    }

    /// A shape of two or three dimensions.
    fn shape(&mut self) -> Vec<usize> {
        let rank = self.roll(2, 3);
        (0..rank).map(|_| self.roll(1, 5)).collect()
    }

    /// A partition of any kind.
    fn partition(&mut self) -> Partition {
        let (frames, length) = (self.roll(1, 4), self.roll(1, 14));
        if self.dice.coin() {
            return Partition::NearestFrame { frames, tokens_per_frame: self.roll(1, 3), length };
        }
        let c = (length / frames).max(1);
        let edge = [Edge::Mask, Edge::Shift, Edge::Replicate][self.roll(0, 2)];
        let per = self.roll(1, 3);
        let (scale, offset, divisor) = if self.dice.coin() { (c, c / 2, 1) } else { (2 * length, length, 2 * frames) };
        Partition::Windows { frames, tokens_per_frame: per, length, size: 3 * c, scale, offset, divisor, edge }
    }

    /// CCA's attention over a partition, values by a projection of tokens of another width: `[B, Lq, H, D]`.
    fn windowed(&mut self) -> Made {
        let p = self.partition();
        let [batch, heads, dim, n, inner] =
            [self.roll(1, 2), self.roll(1, 3), self.roll(1, 4), self.roll(1, 3), self.roll(1, 6)];
        let q = self.x(&[batch, p.queries(), heads, dim])?;
        let k = self.x(&[batch, p.keys(), heads, dim])?;
        let y = self.x(&[batch, p.keys(), inner])?;
        let v = self.linear(y, heads * dim)?;
        let v = self.reshape(v, &[batch, p.keys(), heads, dim])?;
        let (ck, cv) = (self.w(&[n, heads, dim])?, self.w(&[n, heads, dim])?);
        self.op(ops::PartitionedContextAttention::new(p), &[q, k, v, ck, cv])
    }

    /// CCA's attention over the context alone.
    fn context_only(&mut self) -> Made {
        let [batch, lq, heads, dim, n] =
            [self.roll(1, 2), self.roll(1, 5), self.roll(1, 3), self.roll(1, 4), self.roll(1, 4)];
        let q = self.x(&[batch, lq, heads, dim])?;
        let mut shared = || -> Made {
            let tokens = self.w(&[n, heads, dim])?;
            self.op(ops::Expand { shape: vec![batch, n, heads, dim] }, &[tokens])
        };
        let (k, v) = (shared()?, shared()?);
        self.op(ops::Attention::full(), &[q, k, v])
    }

    /// Heads side by side, through the output projection.
    fn projected(&mut self, o: Value) -> Made {
        let shape = self.g.ty(o).shape.clone();
        let joined = self.reshape(o, &[shape[0], shape[1], shape[2] * shape[3]])?;
        let width = self.roll(1, 7);
        self.linear(joined, width)
    }

    fn norm(&mut self, x: Value) -> Made {
        let d = self.g.ty(x).last();
        let (w, c) = (self.w(&[d])?, self.w(&[d])?);
        self.op(ops::LayerNorm { eps: 1e-5, affine: true }, &[x, w, c])
    }

    /// A reshape, transpose or expansion.
    fn moved(&mut self, x: Value) -> Made {
        let shape = self.g.ty(x).shape.clone();
        match self.roll(0, 2) {
            0 => {
                let all = shape.iter().product();
                self.reshape(x, &[all])
            }
            1 => self.op(ops::Transpose { perm: (0..shape.len()).rev().collect() }, &[x]),
            _ => {
                let more = [&[self.roll(1, 3)], shape.as_slice()].concat();
                self.op(ops::Expand { shape: more }, &[x])
            }
        }
    }

    /// A part of a dimension.
    fn part(&mut self, x: Value, axis: usize) -> Made {
        let n = self.g.ty(x).shape[axis];
        let start = self.roll(0, n - 1);
        let len = self.roll(1, n - start);
        self.op(ops::Slice { axis, start, len }, &[x])
    }

    fn constant(&mut self, value: f64, shape: &[usize]) -> Made {
        self.op(ops::Constant { ty: TensorType::f32(shape), value }, &[])
    }
}

/// The left side of a rule, by its name.
pub fn left(rule: &str, l: &mut Left) -> Result<Vec<Value>, IrError> {
    let one = |v: Value| Ok(vec![v]);
    match rule {
        "absorb output" => {
            let o = if l.dice.coin() { l.windowed()? } else { l.context_only()? };
            one(l.projected(o)?)
        }
        "project after attention" => one(l.windowed()?),
        "bias through attention" => {
            let [batch, lq, lk, heads, dim] = [l.roll(1, 2), l.roll(1, 4), l.roll(1, 5), l.roll(1, 3), l.roll(1, 4)];
            let (q, k) = (l.x(&[batch, lq, heads, dim])?, l.x(&[batch, lk, heads, dim])?);
            let y = l.x(&[batch, lk, 3])?;
            let (w, b) = (l.w(&[heads * dim, 3])?, l.w(&[heads * dim])?);
            let v = l.op(ops::Linear::biased(), &[y, w, b])?;
            let v = l.reshape(v, &[batch, lk, heads, dim])?;
            one(l.op(ops::Attention::full(), &[q, k, v])?)
        }
        "merge projections" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let (count, bias) = (l.roll(2, 4), l.dice.coin());
            let mut all = Vec::new();
            for _ in 0..count {
                let n = l.roll(1, 5);
                let w = l.w(&[n, shape[shape.len() - 1]])?;
                let b = l.w(&[n])?;
                let (op, inputs) =
                    if bias { (ops::Linear::biased(), vec![x, w, b]) } else { (ops::Linear::plain(), vec![x, w]) };
                all.push(l.op(op, &inputs)?);
            }
            Ok(all)
        }
        "fold norm into projection" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let y = l.norm(x)?;
            let n = l.roll(1, 6);
            one(l.linear(y, n)?)
        }
        "fold norm into half projection" => {
            let x = l.x(&[3, 4])?;
            let y = l.norm(x)?;
            let dtype = if l.dice.coin() { DType::F16 } else { DType::Bf16 };
            let w = l.stored(&[5, 4], dtype)?;
            one(l.op(ops::Linear::plain(), &[y, w])?)
        }
        "fold scale into projection" => {
            let shape = l.shape();
            let (x, s) = (l.x(&shape)?, l.w(&[shape[shape.len() - 1]])?);
            let y = if l.dice.coin() { l.binary(BinaryKind::Mul, x, s)? } else { l.binary(BinaryKind::Mul, s, x)? };
            let n = l.roll(1, 6);
            one(l.linear(y, n)?)
        }
        "fold scale of projection" | "fold shift into bias" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let n = l.roll(1, 6);
            let (y, s) = (l.linear(x, n)?, l.w(&[1, n])?);
            let kind = if rule.contains("scale") { BinaryKind::Mul } else { BinaryKind::Add };
            one(l.binary(kind, y, s)?)
        }
        "shift through projection" => {
            let [rows, heads, dim] = [l.roll(1, 4), l.roll(1, 3), l.roll(1, 4)];
            let (x, c) = (l.x(&[1, rows, heads, dim])?, l.w(&[heads, dim])?);
            let y = l.binary(BinaryKind::Add, x, c)?;
            let y = l.reshape(y, &[1, rows, heads * dim])?;
            let n = l.roll(1, 6);
            one(l.linear(y, n)?)
        }
        "projection of projection" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let [m, n] = [l.roll(1, 6), l.roll(1, 6)];
            let y = l.linear(x, m)?;
            one(l.linear(y, n)?)
        }
        "scale chain" | "shift chain" => {
            let shape = [l.roll(2, 4), l.roll(2, 5)];
            let kind = if rule.contains("scale") { BinaryKind::Mul } else { BinaryKind::Add };
            let (x, a, b) = (l.x(&shape)?, l.w(&[shape[1]])?, l.x(&[1, shape[1]])?);
            let y = l.binary(kind, x, a)?;
            one(l.binary(kind, y, b)?)
        }
        "common scale" => {
            let shape = l.shape();
            let (x, y, a) = (l.x(&shape)?, l.x(&shape)?, l.w(&[shape[shape.len() - 1]])?);
            let (p, q) = (l.binary(BinaryKind::Mul, x, a)?, l.binary(BinaryKind::Mul, a, y)?);
            one(l.binary(BinaryKind::Add, p, q)?)
        }
        "times zero" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let p = l.op(ops::Softmax {}, &[x])?;
            let zero = l.constant(0.0, &[])?;
            one(l.binary(BinaryKind::Mul, p, zero)?)
        }
        "neutral operand" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let x = l.unary(x)?;
            let kind = [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul][l.roll(0, 2)];
            let n = l.constant(if kind == BinaryKind::Mul { 1.0 } else { 0.0 }, &[])?;
            one(l.binary(kind, x, n)?)
        }
        "reshape of reshape" => {
            let x = l.x(&[2, 3, 4])?;
            let y = l.reshape(x, &[6, 4])?;
            let back = l.dice.coin();
            let z = l.reshape(y, if back { &[2, 3, 4] } else { &[4, 6] })?;
            one(l.unary(z)?)
        }
        "transpose of transpose" => {
            let x = l.x(&[2, 3, 4])?;
            let x = l.unary(x)?;
            let perms = [[1, 2, 0], [2, 0, 1], [0, 2, 1]];
            let (a, b) = (perms[l.roll(0, 2)], perms[l.roll(0, 2)]);
            let y = l.op(ops::Transpose { perm: a.to_vec() }, &[x])?;
            let y = l.op(ops::Transpose { perm: b.to_vec() }, &[y])?;
            one(l.unary(y)?)
        }
        "reshape through projection" => {
            let [a, b, k] = [l.roll(1, 3), l.roll(2, 4), l.roll(1, 5)];
            let x = l.x(&[a, b, k])?;
            let y = l.reshape(x, &[a * b, k])?;
            let n = l.roll(1, 5);
            one(l.linear(y, n)?)
        }
        "movement through function" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let y = l.moved(x)?;
            one(l.unary(y)?)
        }
        "cast through movement" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let y = if l.dice.coin() { l.moved(x)? } else { l.part(x, 0)? };
            one(l.op(ops::Cast { to: DType::F16 }, &[y])?)
        }
        "slice of slice" => {
            let x = l.x(&[3, 9])?;
            let y = l.op(ops::Slice { axis: 1, start: 1, len: 7 }, &[x])?;
            one(l.part(y, 1)?)
        }
        "slice of parts" => {
            let (x, y) = (l.x(&[2, 3])?, l.x(&[2, 4])?);
            let z = l.op(ops::Concat { axis: 1 }, &[x, y])?;
            let second = l.dice.coin();
            let (start, len) = if second { (4, 2) } else { (1, 2) };
            one(l.op(ops::Slice { axis: 1, start, len }, &[z])?)
        }
        "slice through function" => {
            let shape = l.shape();
            let x = l.x(&shape)?;
            let y = l.unary(x)?;
            one(l.part(y, shape.len() - 1)?)
        }
        "slice of projection" => {
            let shape = [l.roll(2, 4), l.roll(1, 5)];
            let x = l.x(&shape)?;
            let y = l.linear(x, 6)?;
            let axis = l.roll(0, 1);
            one(l.op(ops::Slice { axis, start: 1, len: 1 }, &[y])?)
        }
        "parts of one" => {
            let x = l.x(&[2, 8])?;
            let cut = l.roll(2, 6);
            let a = l.op(ops::Slice { axis: 1, start: 1, len: cut - 1 }, &[x])?;
            let b = l.op(ops::Slice { axis: 1, start: cut, len: 8 - cut }, &[x])?;
            one(l.op(ops::Concat { axis: 1 }, &[a, b])?)
        }
        "parts through function" => {
            let (x, y) = (l.x(&[2, 3])?, l.x(&[2, 4])?);
            let (x, y) =
                (l.op(ops::Unary { kind: UnaryKind::Silu }, &[x])?, l.op(ops::Unary { kind: UnaryKind::Silu }, &[y])?);
            one(l.op(ops::Concat { axis: 1 }, &[x, y])?)
        }
        other => panic!("the rule `{other}` has no left side here: add one"),
    }
}
