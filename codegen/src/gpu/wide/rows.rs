//! Normalisation of rows, with and without rotary position embedding, and its gradient: blueprints and texts.

use serde::{Deserialize, Serialize};

use super::WIDTH;
use crate::gpu::kernels::norm::Norm;
use crate::gpu::kernels::norm_grad::NormGrad;
use crate::gpu::kernels::norm_rope::NormRope;
use crate::gpu::launch::Launch;
use crate::gpu::text::{Prelude, output};

/// A kernel of rows, whose units keep what they read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wide<K> {
    /// What it computes, and of what; its `units` are those of a cube, a multiple of 32.
    pub kernel: K,
    /// Times eight numbers that a unit has of a row.
    pub held: u32,
}

/// How a row is dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dealt {
    /// Units of a cube.
    pub units: u32,
    /// Times eight numbers of each.
    pub held: u32,
}

impl Dealt {
    /// Most times eight numbers of a unit: 32 registers.
    const MOST: usize = 4;

    /// A row of `d` numbers; `None` where it is not whole by eights, does not fill a warp, or is too long for the registers of a cube.
    pub fn row(d: usize, max_units: u32) -> Option<Self> {
        let chunks = d / WIDTH;
        if d % WIDTH != 0 || chunks < 16 {
            return None;
        }
        let units = chunks.div_ceil(Self::MOST).next_multiple_of(32);
        let held = chunks.div_ceil(units) as u32;
        let units = u32::try_from(units).ok().filter(|&n| n <= max_units.min(512))?;
        Some(Self { units, held })
    }
}

/// The lines that say what is normalised, and how.
fn prelude(launch: &Launch, rank: u32, [units, held]: [u32; 2], eps: u32, centered: bool) -> Prelude {
    let mut p = Prelude::new(launch);
    p.flag("CENTERED", centered);
    for (name, value) in [("RANK", rank), ("UNITS", units), ("HELD", held)] {
        p.constant(name, value);
    }
    p.define("EPS", format!("__uint_as_float(0x{eps:08x}u)"));
    p
}

impl Wide<Norm> {
    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let n = &self.kernel;
        let mut p = prelude(launch, n.rank, [n.units, self.held], n.eps, n.centered);
        p.flag("HAS_SCALE", n.scale.is_some());
        p.flag("HAS_SHIFT", n.shift.is_some());
        p.constant("ONE_PLUS", n.one_plus);
        p.input("X_BUFFER", n.x);
        // Where there is neither, what is named in their place is not read.
        p.input("SCALE_BUFFER", n.scale.unwrap_or(n.x));
        p.input("SHIFT_BUFFER", n.shift.unwrap_or(n.x));
        p.define("OUT_BUFFER", output(n.output));
        p.finish(&[include_str!("rows.cuh"), include_str!("norm.cuh")])
    }
}

impl Wide<NormRope> {
    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let n = &self.kernel;
        let mut p = prelude(launch, n.rank, [n.units, self.held], n.eps, false);
        p.input("X_BUFFER", n.x);
        p.input("WEIGHT_BUFFER", n.weight);
        p.input("TABLE_BUFFER", n.table);
        p.define("OUT_BUFFER", output(n.output));
        p.finish(&[include_str!("rows.cuh"), include_str!("norm_rope.cuh")])
    }
}

impl Wide<NormGrad> {
    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let n = &self.kernel;
        let mut p = prelude(launch, n.rank, [n.units, self.held], n.eps, n.centered);
        p.flag("HAS_FACTOR", n.factor.is_some());
        p.constant("ONE_PLUS", n.one_plus);
        p.input("X_BUFFER", n.x);
        p.input("G_BUFFER", n.g);
        p.input("FACTOR_BUFFER", n.factor.unwrap_or(n.x));
        p.define("OUT_BUFFER", output(n.output));
        p.define("STATS_BUFFER", output(n.stats));
        p.finish(&[include_str!("rows.cuh"), include_str!("norm_grad.cuh")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dealt_out_whole() {
        for d in (0..40_000).step_by(8) {
            let Some(Dealt { units, held }) = Dealt::row(d, 1024) else {
                assert!(d < 128 || d > 16384, "{d}");
                continue;
            };
            assert!((units * held) as usize * WIDTH >= d && units % 32 == 0 && held <= 4, "{d}");
        }
        // Released widths leave no unit idle.
        assert_eq!(Dealt::row(5120, 1024), Some(Dealt { units: 160, held: 4 }));
        assert_eq!(Dealt::row(1536, 1024), Some(Dealt { units: 64, held: 3 }));
        assert_eq!([Dealt::row(5124, 1024), Dealt::row(5120, 128)], [None, None]);
    }
}
