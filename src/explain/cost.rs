//! What a call would take on a machine: a roofline of published peaks. All that the explanation says of time without measuring
//! comes from here, and from here alone.

use ccl_ir::plan::Call;
use ccl_ir::{Binding, DType, Plan, Work};

/// Peaks of one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// What it is, for people.
    pub name: &'static str,
    /// FLOPs a second of matrix products in the plan's type.
    pub flops_per_s: f64,
    /// Bytes a second of its memory.
    pub bytes_per_s: f64,
    /// Seconds that starting a call takes.
    pub launch_s: f64,
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

/// Name, TFLOP/s in f32, TFLOP/s with half precision matrices, GB/s, microseconds to start a call; peaks as the makers
/// publish them.
type Peaks = (&'static str, f64, f64, f64, f64);

const CPU: Peaks = ("a desktop with 16 cores", 2.3, 2.3, 83.0, 1.0);
const WGPU: Peaks = ("a mid-range GPU, arithmetic in f32", 15.0, 15.0, 400.0, 10.0);
/// By the largest compute capability that an entry is for.
const CUDA: &[(u32, Peaks)] = &[
    (79, ("NVIDIA V100", 15.7, 125.0, 900.0, 5.0)),
    (88, ("NVIDIA A100 80 GB", 19.5, 312.0, 2039.0, 5.0)),
    (89, ("NVIDIA RTX 4090", 82.6, 165.2, 1008.0, 5.0)),
    (99, ("NVIDIA H200", 66.9, 989.0, 4800.0, 5.0)),
    (119, ("NVIDIA B200", 75.0, 2250.0, 8000.0, 5.0)),
    (u32::MAX, ("NVIDIA RTX 5090", 104.8, 209.5, 1792.0, 5.0)),
];

impl Machine {
    /// The machine that stands for a target, as `--target` names it, with matrices of type `dtype`.
    pub fn of(target: &str, dtype: DType) -> Self {
        let capability = |t: &str| t.strip_prefix("cuda:sm_")?.trim_end_matches('a').parse::<u32>().ok();
        let (name, single, half, gigabytes, launch) = match target {
            "wgpu" => WGPU,
            t if t.starts_with("cuda") => {
                let n = capability(t).unwrap_or(80);
                CUDA.iter().find(|(last, _)| n <= *last).map_or(WGPU, |(_, peaks)| *peaks)
            }
            _ => CPU,
        };
        let tera = if matches!(dtype, DType::F16 | DType::Bf16) { half } else { single };
        Self { name, flops_per_s: tera * 1e12, bytes_per_s: gigabytes * 1e9, launch_s: launch * 1e-6 }
    }

    /// The machine for a plan.
    pub fn for_plan(plan: &Plan) -> Self {
        Self::of(&plan.about.target, plan.about.dtype)
    }

    /// Least seconds of one call with this work, and what bounds it.
    pub fn seconds(&self, work: Work) -> (f64, Bound) {
        let compute = work.flops as f64 / self.flops_per_s;
        let memory = work.bytes as f64 / self.bytes_per_s;
        let (most, bound) = if compute >= memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) };
        (most + self.launch_s, if self.launch_s > most { Bound::Launch } else { bound })
    }

    /// Least seconds of all calls of an entry, one after the other.
    pub fn entry_seconds(&self, plan: &Plan, entry: Binding) -> f64 {
        plan.calls(entry).iter().map(Call::work).map(|w| self.seconds(w).0).sum()
    }

    /// FLOPs a byte from which on arithmetic is the bound.
    pub fn ridge(&self) -> f64 {
        self.flops_per_s / self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_has_two_sides() {
        let m = Machine { name: "", flops_per_s: 100.0, bytes_per_s: 10.0, launch_s: 0.5 };
        assert_eq!(m.ridge(), 10.0);
        assert_eq!(m.seconds(Work { flops: 1000, bytes: 10 }), (10.5, Bound::Compute));
        assert_eq!(m.seconds(Work { flops: 0, bytes: 100 }), (10.5, Bound::Memory));
        assert_eq!(m.seconds(Work { flops: 1, bytes: 1 }).1, Bound::Launch);
    }

    #[test]
    fn every_target_has_a_machine() {
        let tera = |t: &str, d| Machine::of(t, d).flops_per_s / 1e12;
        assert_eq!(tera("cuda:sm_90a", DType::Bf16).round(), 989.0);
        assert_eq!(tera("cuda", DType::F32), 19.5);
        assert!(tera("cuda:sm_120", DType::F16) > tera("wgpu", DType::F16));
        assert_eq!(Machine::of("cpu", DType::F32), Machine::of("cpu", DType::Bf16));
    }
}
