//! Patterns of several operators that passes look for, with values from anywhere in their places.

use super::grow::{Grower, Grown};
use crate::graph::{Binding, Value};
use crate::ops::{
    Attention, Binary, BinaryKind, Concat, Constant, Expand, Input, LayerNorm, Linear, Positions, Reshape, RmsNorm,
    Rope, RopeTable, TimeFeatures, Unary, UnaryKind, WindowGather, WindowMask,
};
use crate::partition::Partition;
use crate::types::TensorType;

impl Grower<'_> {
    /// One of the patterns.
    pub(super) fn pattern(&mut self) -> Grown {
        match self.dice.below(6) {
            0 => self.modulated_norm(),
            1 => self.turned_heads(),
            2 => self.windowed_attention(),
            3 => self.time_embedding(),
            4 => self.gated_residual(),
            _ => self.guidance(),
        }
    }

    fn binary(&mut self, kind: BinaryKind, a: Value, b: Value) -> Grown {
        let pair = if self.dice.below(2) == 0 || kind == BinaryKind::Sub { [a, b] } else { [b, a] };
        self.add(Binary { kind }, &pair)
    }

    /// `LN(x) * (1 + scale) + shift`; scale and shift now and then of a shape that does not fit the raised operator.
    fn modulated_norm(&mut self) -> Grown {
        let (b, l, d) = (1 + self.dice.below(2), 1 + self.dice.below(5), 4 + self.dice.below(20));
        let x = self.value(&TensorType::f32([b, l, d]))?;
        let one = self.add(Constant { ty: TensorType::f32([]), value: 1.0 }, &[])?;
        let rows = TensorType::f32([self.dice.of(&[b, 1]), self.dice.of(&[1, 1, l]), d]);
        let (scale, shift) = (self.value(&rows)?, self.value(&rows)?);
        let norm = self.add(LayerNorm { eps: 1e-6, affine: false }, &[x])?;
        let factor = self.binary(BinaryKind::Add, scale, one)?;
        let scaled = self.binary(BinaryKind::Mul, norm, factor)?;
        self.binary(BinaryKind::Add, scaled, shift)
    }

    /// RMS norm over the width, cut into heads and turned.
    fn turned_heads(&mut self) -> Grown {
        let (b, l, h, d) =
            (1 + self.dice.below(2), 1 + self.dice.below(6), 1 + self.dice.below(3), 4 + 2 * self.dice.below(4));
        let x = self.value(&TensorType::f32([b, l, h * d]))?;
        let weight = self.given(&TensorType::f32([h * d]))?;
        let norm = self.add(RmsNorm { eps: 1e-6 }, &[x, weight])?;
        let heads = self.add(Reshape { shape: vec![b, l, h, d] }, &[norm])?;
        let positions = self.dice.of(&[Positions::Linear { length: l }, Positions::Aligned { length: l, frames: 3 }]);
        let table = self.add(RopeTable { positions, head_dim: d, theta: 10000.0 }, &[])?;
        self.add(Rope::default(), &[heads, table])
    }

    /// Gathered windows and context tokens, masked attention: context attention in its plain form.
    fn windowed_attention(&mut self) -> Grown {
        let partitions: Vec<Partition> = crate::ops::window_samples();
        let partition = self.dice.of(&partitions);
        let (b, h, d, n) =
            (1 + self.dice.below(2), 1 + self.dice.below(2), 2 + 2 * self.dice.below(4), 1 + self.dice.below(4));
        let (rows, _) = partition.row_shape();
        let keys = TensorType::f32([b, partition.keys(), h, d]);
        let queries = self.value(&TensorType::f32([b, partition.queries(), h, d]))?;
        let queries = self.add(Reshape { shape: vec![b, rows, partition.queries() / rows, h, d] }, &[queries])?;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let whole = self.value(&keys)?;
            let context = self.value(&TensorType::f32([n, h, d]))?;
            let window = self.add(WindowGather { partition }, &[whole])?;
            let context = self.add(Expand { shape: vec![b, rows, n, h, d] }, &[context])?;
            seen.push(self.add(Concat { axis: 2 }, &[window, context])?);
        }
        let mask = self.add(WindowMask { partition, context: n }, &[])?;
        self.add(Attention { masked: true, counted: false }, &[queries, seen[0], seen[1], mask])
            .and_then(|o| self.add(Reshape { shape: vec![b, partition.queries(), h, d] }, &[o]))
    }

    /// The embedding of the flow time: what is hoisted for the whole schedule.
    fn time_embedding(&mut self) -> Grown {
        let (dim, width) = (8, 2 + self.dice.below(6));
        let ty = TensorType::f32([2]);
        let t = self.add(Input { name: "t".into(), ty, binding: Binding::Step }, &[])?;
        let features = self.add(TimeFeatures { dim }, &[t])?;
        let (w, b) = (self.given(&TensorType::f32([width, dim]))?, self.given(&TensorType::f32([width]))?);
        let y = self.add(Linear::biased(), &[features, w, b])?;
        let y = self.add(Unary { kind: UnaryKind::Silu }, &[y])?;
        self.add(Reshape { shape: vec![2, 1, width] }, &[y])
    }

    /// `x + gate * (y Wᵀ + b)`.
    fn gated_residual(&mut self) -> Grown {
        let (b, l, k, n) =
            (1 + self.dice.below(2), 1 + self.dice.below(6), 1 + self.dice.below(12), 1 + self.dice.below(12));
        let y = self.value(&TensorType::f32([b, l, k]))?;
        let matrix = TensorType::f32([n, k]).with_dtype(self.weight_type());
        let (w, bias) = (self.given(&matrix)?, self.given(&TensorType::f32([n]))?);
        let y = self.add(Linear::biased(), &[y, w, bias])?;
        let repeated = self.dice.of(&[b, 1]);
        let gate = self.value(&TensorType::f32([repeated, 1, n]))?;
        let x = self.value(&TensorType::f32([b, l, n]))?;
        let gated = self.binary(BinaryKind::Mul, y, gate)?;
        self.binary(BinaryKind::Add, x, gated)
    }

    /// `u + s (c - u)` of two values, which may be one.
    fn guidance(&mut self) -> Grown {
        let c = self.any()?;
        let ty = self.graph.ty(c).clone();
        let u = self.value(&ty)?;
        let scale = self.given(&TensorType::f32([]))?;
        let difference = self.binary(BinaryKind::Sub, c, u)?;
        let scaled = self.binary(BinaryKind::Mul, difference, scale)?;
        self.binary(BinaryKind::Add, u, scaled)
    }

    fn weight_type(&mut self) -> crate::DType {
        match self.recipe.half {
            Some(half) => self.dice.of(&[half, crate::DType::F32]),
            None => crate::DType::F32,
        }
    }
}
