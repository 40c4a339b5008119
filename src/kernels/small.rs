//! Cases of a small model: what a step of the `bench` model (joint, `9x16x28@68`) and of its training goes to, and the small products and windows
//! of training the bounce world.

use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::ops::{self, BinaryKind, UnaryKind};
use ccl_ir::partition::Edge;
use ccl_ir::{Partition, TensorType};

use super::{Case, Input, Types, f32};

/// All cases in single precision.
pub fn cases() -> Vec<Case> {
    cases_of(Types::SINGLE)
}

/// All cases, stored in these types.
pub(super) fn cases_of(types: Types) -> Vec<Case> {
    let mut list = Cases { list: Vec::new(), types };
    for (m, d, ffn) in [(1008, 512, 1792), (68, 256, 896)] {
        list.linears(m, d, ffn);
        list.norms(m, d, d / 128);
        list.products(m, ffn, d);
    }
    list.linear("linear 1x3072x512", [1, 3072, 512], None, vec![]);
    let (windows, nearest) =
        (windows(9, 112, 68, 21, 136, 18), Partition::NearestFrame { frames: 9, tokens_per_frame: 112, length: 68 });
    for (queries, keys, heads) in [(1008, 1008, 4), (1008, 512, 4), (68, 68, 2), (68, 512, 2)] {
        list.attention([1, queries, keys, heads, 128]);
    }
    list.partitioned("windows of a clip", windows, [1, 4, 128, 8]);
    list.partitioned("nearest frames of a clip", nearest, [1, 2, 128, 128]);
    list.elementwise();
    list.world();
    list.list
}

/// Cases in the making; methods add the calls of one kind.
pub(super) struct Cases {
    pub list: Vec<Case>,
    pub types: Types,
}

/// `gelu(x)`.
pub(super) fn gelu() -> Chain {
    Chain { inputs: 1, steps: vec![Instr::Unary(UnaryKind::GeluTanh, Arg::In(0))] }
}

/// `residual + x gate`, of `x`, `residual` and `gate`.
pub(super) fn gated() -> Chain {
    Chain {
        inputs: 3,
        steps: vec![
            Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::In(2)),
            Instr::Binary(BinaryKind::Add, Arg::In(1), Arg::Step(0)),
        ],
    }
}

impl Cases {
    pub(super) fn add(&mut self, case: Case) {
        self.list.push(case);
    }

    /// A biased linear map of `m` tokens from `k` to `n` channels.
    pub(super) fn linear(&mut self, name: &str, [m, n, k]: [usize; 3], epilogue: Option<Chain>, rest: Vec<TensorType>) {
        let t = self.types;
        let mut inputs: Vec<Input> = vec![t.tokens(&[1, m, k]).into()];
        inputs.extend([t.matrix(&[n, k]), f32(&[n])].map(Input::weight));
        inputs.extend(rest.into_iter().map(Input::from));
        self.add(Case::new(name, ops::Linear { bias: true, epilogue, out: t.out() }, inputs));
    }

    pub(super) fn linears(&mut self, m: usize, d: usize, ffn: usize) {
        let rest = vec![self.types.tokens(&[1, m, d]), f32(&[1, 1, d])];
        self.linear(&format!("linear {m}x{d}x{d}"), [m, d, d], None, vec![]);
        self.linear(&format!("linear {m}x{ffn}x{d}, gelu"), [m, ffn, d], Some(gelu()), vec![]);
        self.linear(&format!("linear {m}x{d}x{ffn}, gate and residual"), [m, d, ffn], Some(gated()), rest);
    }

    pub(super) fn norms(&mut self, m: usize, d: usize, heads: usize) {
        let (x, row) = (self.types.tokens(&[1, m, d]), f32(&[1, 1, d]));
        let modulate = ops::NormModulate { eps: 1e-6 };
        self.add(Case::new(format!("norm modulate {m}x{d}"), modulate, inputs([&x, &row, &row])));
        let op = ops::RmsNormRope { heads, eps: 1e-6 };
        let table = f32(&[m, d / heads / 2, 2]);
        self.add(Case::new(format!("rms norm rope {m}x{d}"), op, inputs([&x, &f32(&[d]), &table])));
        let grad = ops::NormGrad { eps: 1e-6, centered: true, scaled: true, one_plus: true };
        self.add(Case::new(format!("norm gradient {m}x{d}"), grad, inputs([&x, &x, &row])));
    }

    /// Gradients of products, `m` tokens from `k` to `n` channels.
    pub(super) fn products(&mut self, m: usize, n: usize, k: usize) {
        let t = self.types;
        let product = |out| ops::MatMul { transpose_b: false, out };
        let (g, x, w) = (t.tokens(&[m, n]), t.tokens(&[m, k]), t.tokens(&[n, k]));
        self.add(Case::new(format!("dx {m}x{n}x{k}"), product(t.out()), inputs([&g, &w])));
        // The gradient of a weight stays in single precision.
        let out = t.out().map(|_| ccl_ir::DType::F32);
        let columns = Input::columns(t.tokens(&[n, m]));
        self.add(Case::new(format!("dw {m}x{n}x{k}"), product(out), vec![columns, x.into()]));
    }

    /// Attention of `[batch, queries, heads, dim]` over `keys` keys, and its gradient.
    pub(super) fn attention(&mut self, [batch, queries, keys, heads, dim]: [usize; 5]) {
        let (q, k) = (self.types.tokens(&[batch, queries, heads, dim]), self.types.tokens(&[batch, keys, heads, dim]));
        let name = format!("attention {batch}x{queries}x{keys}, {heads} heads of {dim}");
        self.add(Case::new(&name, ops::Attention::full(), inputs([&q, &k, &k])));
        let lse = f32(&[batch, heads, queries]);
        let grad = ops::AttentionGrad { masked: false, counted: false };
        self.add(Case::new(format!("{name}, gradient"), grad, inputs([&q, &k, &k, &q, &q, &lse])));
    }

    /// CCA's attention with `context` context tokens, and its gradient.
    pub(super) fn partitioned(&mut self, name: &str, p: Partition, [batch, heads, dim, context]: [usize; 4]) {
        let t = self.types;
        let (q, k) = (t.tokens(&[batch, p.queries(), heads, dim]), t.tokens(&[batch, p.keys(), heads, dim]));
        let (token, lse) = (t.tokens(&[context, heads, dim]), f32(&[batch, heads, p.queries()]));
        self.add(Case::new(name, ops::PartitionedContextAttention::new(p), inputs([&q, &k, &k, &token, &token])));
        let grad = ops::PartitionedContextAttentionGrad { partition: p };
        let all = inputs([&q, &k, &k, &token, &token, &q, &q, &lse]);
        self.add(Case::new(format!("{name}, gradient"), grad, all));
    }

    fn elementwise(&mut self) {
        let x = self.types.tokens(&[1, 1008, 512]);
        self.add(Case::new("sum of two 1008x512", ops::Binary { kind: BinaryKind::Add }, inputs([&x, &x])));
        let gelu = ops::Unary { kind: UnaryKind::GeluTanhGrad };
        self.add(Case::new("gelu derivative 1008x1792", gelu, inputs([&self.types.tokens(&[1, 1008, 1792])])));
        self.add(Case::new("sum of 1008 rows of 512", ops::Reduce::to(vec![512]), inputs([&x])));
        self.adam_w(64 * 192);
        self.adam_w(1 << 20);
    }

    /// An update of `n` parameters.
    pub(super) fn adam_w(&mut self, n: usize) {
        let op = ops::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, group: 0 };
        let (p, scalar) = (f32(&[n]), f32(&[]));
        self.add(Case::new(format!("adam_w {n}"), op, inputs([&p, &p, &p, &scalar, &p, &f32(&[1]), &scalar])));
    }

    /// Training a small world: 16 clips of 128 and 128 tokens, 64 and 48 channels.
    fn world(&mut self) {
        for (n, k) in [(64, 64), (192, 64), (48, 144)] {
            self.products(2048, n, k);
        }
        self.attention([16, 128, 128, 4, 16]);
        self.attention([16, 128, 4, 4, 16]);
        self.partitioned("windows of the world", windows(16, 8, 128, 24, 8, 1), [16, 4, 16, 4]);
        let nearest = Partition::NearestFrame { frames: 16, tokens_per_frame: 8, length: 128 };
        self.partitioned("nearest frames of the world", nearest, [16, 3, 16, 8]);
    }
}

/// Inputs that are read as they lie.
pub(super) fn inputs<const N: usize>(types: [&TensorType; N]) -> Vec<Input> {
    types.into_iter().cloned().map(Input::from).collect()
}

fn windows(
    frames: usize,
    tokens_per_frame: usize,
    length: usize,
    size: usize,
    scale: usize,
    divisor: usize,
) -> Partition {
    Partition::Windows { frames, tokens_per_frame, length, size, scale, offset: scale / 2, divisor, edge: Edge::Mask }
}
