//! What a call would take on a machine, by the roofline that the passes choose by ([`DeviceSpec`]). All that the explanation says of time
//! without measuring comes from here, and from here alone.

use ccl_ir::plan::Call;
use ccl_ir::{Binding, DType, Plan, Work};
use ccl_passes::DeviceSpec;

/// A device and the type of the matrices that it multiplies.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Rates that good kernels sustain.
    pub spec: DeviceSpec,
    /// Element type of the matrices.
    pub dtype: DType,
}

/// What bounds a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Memory traffic.
    Memory,
    /// Starting it.
    Launch,
}

impl Bound {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
            Bound::Launch => "launch",
        }
    }
}

impl Machine {
    /// The machine for a plan: the one given, or the one that stands for the plan's target.
    pub fn for_plan(plan: &Plan, given: Option<DeviceSpec>) -> Self {
        let spec = given.unwrap_or_else(|| DeviceSpec::for_target(&plan.about.target));
        Self { spec, dtype: plan.about.dtype }
    }

    /// FLOPs a second of matrix products.
    pub fn flops_per_s(&self) -> f64 {
        self.spec.flops(self.dtype)
    }

    /// Bytes a second of its memory.
    pub fn bytes_per_s(&self) -> f64 {
        self.spec.bandwidth
    }

    /// Seconds of one call with this work, and what bounds it.
    pub fn seconds(&self, work: Work) -> (f64, Bound) {
        let (flops, bytes) = (work.flops as f64, work.bytes as f64);
        let (compute, memory) = (flops / self.flops_per_s(), bytes / self.bytes_per_s());
        let (most, bound) = if compute >= memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) };
        let seconds = self.spec.seconds(flops, bytes, self.dtype);
        (seconds, if self.spec.call_seconds > most { Bound::Launch } else { bound })
    }

    /// Seconds of all calls of an entry, one after the other.
    pub fn entry_seconds(&self, plan: &Plan, entry: Binding) -> f64 {
        plan.calls(entry).iter().map(Call::work).map(|w| self.seconds(w).0).sum()
    }

    /// FLOPs a byte from which on arithmetic is the bound.
    pub fn ridge(&self) -> f64 {
        self.flops_per_s() / self.bytes_per_s()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_has_two_sides() {
        let spec = DeviceSpec {
            matrix_flops: [("f32".into(), 100.0)].into(),
            bandwidth: 10.0,
            call_seconds: 0.5,
            ..DeviceSpec::for_target("cpu")
        };
        let m = Machine { spec, dtype: DType::F32 };
        assert_eq!(m.ridge(), 10.0);
        assert_eq!(m.seconds(Work { flops: 1000, bytes: 10 }), (10.5, Bound::Compute));
        assert_eq!(m.seconds(Work { flops: 0, bytes: 100 }), (10.5, Bound::Memory));
        assert_eq!(m.seconds(Work { flops: 1, bytes: 1 }).1, Bound::Launch);
    }
}
