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
    /// Most units.
    const UNITS: usize = 512;
    /// So many rows do not fill a device: what counts is how long one takes, and a unit has as little of it as can be.
    const FEW: u64 = 1024;

    /// So many rows of `d` numbers; `None` where they are not whole by eights, do not fill a warp, or are too long for the registers of a cube.
    pub fn row(rows: u64, d: usize, max_units: u32) -> Option<Self> {
        let (chunks, most) = (d / WIDTH, Self::UNITS.min(max_units as usize));
        if d % WIDTH != 0 || chunks < 16 || most == 0 {
            return None;
        }
        let held = if rows <= Self::FEW { chunks.div_ceil(most) } else { Self::MOST };
        let units = chunks.div_ceil(held).next_multiple_of(32);
        (held <= Self::MOST && units <= most).then(|| Self { units: units as u32, held: chunks.div_ceil(units) as u32 })
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
        for rows in [1, 1024, 1025, 1 << 20] {
            for d in (0..40_000).step_by(8) {
                let Some(Dealt { units, held }) = Dealt::row(rows, d, 1024) else {
                    assert!(d < 128 || d > 16384, "{d}");
                    continue;
                };
                assert!((units * held) as usize * WIDTH >= d && units % 32 == 0 && held <= 4, "{d}");
            }
        }
        // Released widths leave no unit idle; few rows leave a unit little of them.
        assert_eq!(Dealt::row(18480, 5120, 1024), Some(Dealt { units: 160, held: 4 }));
        assert_eq!(Dealt::row(18480, 1536, 1024), Some(Dealt { units: 64, held: 3 }));
        assert_eq!(Dealt::row(158, 5120, 1024), Some(Dealt { units: 320, held: 2 }));
        assert_eq!(Dealt::row(158, 1536, 1024), Some(Dealt { units: 192, held: 1 }));
        assert_eq!([Dealt::row(9, 5124, 1024), Dealt::row(2000, 5120, 128)], [None, None]);
    }
}
