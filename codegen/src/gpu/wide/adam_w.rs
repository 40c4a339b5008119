//! The optimiser's step: blueprint and text.
//!
//! A unit moves four numbers of single precision at a time, several times, and computes what all elements share once for all of its own.

use serde::{Deserialize, Serialize};

use crate::gpu::blueprint::{Class, Slot};
use crate::gpu::kernels::adam_w::AdamW;
use crate::gpu::launch::Launch;
use crate::gpu::text::{Prelude, output};

/// Units of a cube.
pub const UNITS: u32 = 256;
/// Times four elements of a unit: more of them need registers, and so leave room for fewer units.
const HELD: u32 = 2;

/// A step of the optimiser on elements that are whole by eights.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WideAdamW {
    /// What it computes, and of what.
    pub kernel: AdamW,
    /// Times four elements that a unit has.
    pub held: u32,
}

impl WideAdamW {
    /// The kernel, and the number of cubes for so many elements.
    pub fn new(kernel: AdamW, elements: u64) -> (Self, u64) {
        (Self { kernel, held: HELD }, elements.div_ceil(u64::from(4 * HELD * UNITS)))
    }

    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let a = &self.kernel;
        let mut p = Prelude::new(launch);
        p.constant("UNITS", launch.blueprint.units[0]);
        p.constant("HELD", self.held);
        p.flag("HAS_AVERAGE", a.average.is_some());
        let numbers = [
            ("BETA1", a.betas[0]),
            ("BETA2", a.betas[1]),
            ("KEEP1", a.keeps[0]),
            ("KEEP2", a.keeps[1]),
            ("LOG1", a.logs[0]),
            ("LOG2", a.logs[1]),
            ("EPS", a.eps),
            ("DECAY", a.decay),
        ];
        for (name, bits) in numbers {
            p.define(name, format!("__uint_as_float(0x{bits:08x}u)"));
        }
        // Where there is no average, what is named in its place is not read.
        let (average, way) = a.average.unwrap_or((a.updated[0], a.count));
        let [parameter, first, second] = a.updated;
        for (name, index) in
            [("P_BUFFER", parameter), ("M_BUFFER", first), ("V_BUFFER", second), ("AVERAGE_BUFFER", average)]
        {
            p.define(name, output(Slot { class: Class::Float, index }));
        }
        for (name, slot) in [
            ("G_BUFFER", a.g),
            ("COUNT_BUFFER", a.count),
            ("RATES_BUFFER", a.rates),
            ("SCALE_BUFFER", a.scale),
            ("WAY_BUFFER", way),
        ] {
            p.input(name, slot);
        }
        p.finish(&[include_str!("adam_w.cuh")])
    }
}
