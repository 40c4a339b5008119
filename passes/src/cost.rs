//! The cost model: picoseconds of a roofline.
//!
//! A call takes as long as its arithmetic or its memory traffic does, whichever is longer, and the time between two calls on top.
//! Views take nothing. What is computed once per clip counts as a share of a step, what is computed once per model hardly counts.

use ccl_ir::grad::gradients;
use ccl_ir::{Access, Binding, DType, Graph, Op, TensorType, Value, Work};

use crate::device::DeviceSpec;
use crate::layout::is_view;

/// Steps that one clip takes: what a prologue's work is shared by.
pub const STEPS: u64 = 50;
/// Steps that one model takes: what the work at load is shared by.
pub const MODEL_STEPS: u64 = 10_000;
/// Costs are in parts of a picosecond a step, so that the work at load is not rounded away.
pub const SCALE: u64 = MODEL_STEPS;

/// Prices of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct CostModel {
    /// The device.
    pub spec: DeviceSpec,
    /// Whether activations will be stored in the half precision of the matrices that read them.
    pub half: Option<DType>,
}

impl CostModel {
    /// Prices of a device that stores activations in `f32`.
    pub fn new(spec: DeviceSpec) -> Self {
        Self { spec, half: None }
    }

    /// Picoseconds of one call.
    pub fn picoseconds(&self, op: &Op, inputs: &[&TensorType], outputs: &[TensorType]) -> u64 {
        if is_view(op) || matches!(op, Op::Input(_) | Op::Weight(_) | Op::Constant(_)) {
            return 0;
        }
        let work = op.work(inputs, outputs);
        let bytes: f64 = match op {
            // Tables stay as they are.
            Op::RopeTable(_) | Op::TimeFeatures(_) | Op::WindowMask(_) => work.bytes as f64,
            _ => inputs.iter().copied().chain(outputs).map(|t| self.bytes(t)).sum(),
        };
        (self.spec.seconds(work.flops as f64, bytes, self.operands(op, inputs)) * 1e12) as u64
    }

    /// Picoseconds and work of an operator's backward pass, with the copies that its views need; `wanted` says which inputs want a gradient.
    /// `None` where the operator has no rule.
    pub fn backward(&self, op: &Op, inputs: &[&TensorType], wanted: &[bool]) -> Option<(u64, Work)> {
        let mut g = Graph::new("backward");
        let mut given = Vec::with_capacity(inputs.len());
        for (i, &ty) in inputs.iter().enumerate() {
            given.push(g.input(&format!("in{i}"), ty.clone(), Binding::Step).ok()?);
        }
        let of = g.add("forward", op.clone(), &given).ok()?;
        let seed = g.input("seed", g.ty(of).clone(), Binding::Step).ok()?;
        let forward = g.nodes().len();
        let wrt: Vec<Value> = given.iter().zip(wanted).filter(|(_, w)| **w).map(|(v, _)| *v).collect();
        let found = gradients(&mut g, of, seed, &wrt).ok()?;
        found.into_iter().flatten().enumerate().for_each(|(i, v)| g.output(format!("grad{i}"), v, None));
        let live = g.live();
        let (mut picoseconds, mut work) = (0, Work::default());
        let mut lies: Vec<Lie> = Vec::with_capacity(g.nodes().len());
        for (id, node) in g.iter() {
            let types: Vec<&TensorType> = node.inputs.iter().map(|v| g.ty(*v)).collect();
            lies.push(match is_view(&node.op) {
                true => lie_of_view(&node.op, types[0], lies[node.inputs[0].node.index()]),
                false => Lie::Dense,
            });
            if id.index() < forward || !live[id.index()] || is_view(&node.op) {
                continue;
            }
            picoseconds += self.picoseconds(&node.op, &types, &node.types);
            work = work + g.work(id);
            for (i, v) in node.inputs.iter().enumerate() {
                if wants_copy(&node.op, i, lies[v.node.index()]) {
                    picoseconds += self.copy(types[i]);
                    work = work + Work { flops: 0, bytes: 2 * types[i].bytes() };
                }
            }
        }
        Some((picoseconds, work))
    }

    /// Element type in which the matrix units see the operands.
    fn operands(&self, op: &Op, inputs: &[&TensorType]) -> DType {
        match (self.half, op) {
            (Some(half), _) => half,
            // A half weight is widened: the activation decides.
            (None, _) => inputs.first().map_or(DType::F32, |t| t.dtype),
        }
    }

    /// Bytes of a tensor: `f32` in the graph, it is halved by the precision pass.
    fn bytes(&self, ty: &TensorType) -> f64 {
        let dtype = if ty.dtype == DType::F32 { self.half.unwrap_or(DType::F32) } else { ty.dtype };
        ty.elements() as f64 * dtype.bytes() as f64
    }

    /// Picoseconds of copying a tensor: what a view costs where a kernel cannot read it.
    pub fn copy(&self, ty: &TensorType) -> u64 {
        ((2.0 * self.bytes(ty) / self.spec.bandwidth + self.spec.call_seconds) * 1e12) as u64
    }

    /// What a picosecond at a moment costs, in parts of a picosecond a step ([`SCALE`] to one).
    pub fn weight(binding: Binding) -> u64 {
        match binding {
            Binding::Load => SCALE / MODEL_STEPS,
            Binding::Prologue | Binding::Epilogue => SCALE / STEPS,
            Binding::Step => SCALE,
        }
    }
}

/// Whether a kernel reads input `index` in another way than a view of this kind lies.
pub fn wants_copy(op: &Op, index: usize, lies: Lie) -> bool {
    match op.access(index) {
        _ if is_view(op) => false,
        Access::Any => false,
        Access::Rows => lies == Lie::Scattered,
        Access::Dense => lies != Lie::Dense,
    }
}

/// How a value lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// Packed.
    Dense,
    /// Rows are packed, apart from each other.
    Rows,
    /// Elements of a row are apart.
    Scattered,
}

impl Lie {
    /// All of them, each at its own number.
    pub const ALL: [Self; 3] = [Self::Dense, Self::Rows, Self::Scattered];
}

/// How a view of a value lies. Errs on the side of [`Lie::Dense`]: the copy that the layout pass puts after all is reported there.
pub fn lie_of_view(op: &Op, input: &TensorType, lies: Lie) -> Lie {
    let outer_is_one = |axis: usize| input.shape[..axis].iter().all(|&n| n == 1);
    match op {
        Op::Slice(s) if outer_is_one(s.axis) => lies,
        Op::Slice(_) => lies.max(Lie::Rows),
        Op::Expand(e) if input.elements() == ccl_ir::TensorType::f32(e.shape.clone()).elements() => lies,
        Op::Expand(_) => lies.max(Lie::Rows),
        Op::Transpose(t) => {
            // Dimensions of size 1 may go anywhere.
            let moved: Vec<usize> = t.perm.iter().copied().filter(|&p| input.shape[p] != 1).collect();
            if moved.is_sorted() {
                lies
            } else if t.perm.last() == Some(&(t.perm.len() - 1)) || input.last() == 1 {
                lies.max(Lie::Rows)
            } else {
                Lie::Scattered
            }
        }
        _ => lies,
    }
}

/// Work that counts: everything but what is done once per model.
pub fn counted(work: Work, binding: Binding) -> Work {
    if binding == Binding::Load { Work::default() } else { work }
}
