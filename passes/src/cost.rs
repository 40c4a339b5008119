//! The cost model: picoseconds of a roofline.
//!
//! A call takes as long as its arithmetic or its memory traffic does, whichever is longer, and the time between two calls on top.
//! Views take nothing. What is computed once per clip counts as a share of a step, what is computed once per model hardly counts.

use ccl_ir::{Access, Binding, DType, Op, TensorType, Work};

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
        let rate = self.spec.flops(self.operands(op, inputs));
        let bytes: f64 = match op {
            // Tables stay as they are.
            Op::RopeTable(_) | Op::TimeFeatures(_) | Op::WindowMask(_) => work.bytes as f64,
            _ => inputs.iter().copied().chain(outputs).map(|t| self.bytes(t)).sum(),
        };
        let seconds = (work.flops as f64 / rate).max(bytes / self.spec.bandwidth) + self.spec.call_seconds;
        (seconds * 1e12) as u64
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
