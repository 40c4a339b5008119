//! Elementwise chains and strided copies: blueprint and text.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::WIDTH;
use crate::gpu::kernels::elementwise::{Elementwise, Read};
use crate::gpu::launch::Launch;
use crate::gpu::text::{FUNCTIONS, Prelude, input, output, program};

/// An elementwise kernel whose innermost dimension is whole by eights, and in which each operand's eight are neighbours or one number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WideElementwise {
    /// What it computes, and of what.
    pub kernel: Elementwise,
    /// For each input whether the eight are one number.
    pub repeats: Vec<bool>,
}

impl WideElementwise {
    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let e = &self.kernel;
        let (rank, units) = (e.rank as usize, launch.blueprint.units[0]);
        let mut p = Prelude::new(launch);
        p.constant("RANK", e.rank);
        p.constant("UNITS", units);
        let mut text = format!(
            "extern \"C\" __global__ void __launch_bounds__(UNITS) universal(PARAMETERS) {{\n  \
             const u32* sizes = info.scalars_u32;\n  const Buffers buffers = {{ARGUMENTS}};\n  in_turn();\n  \
             const u32 number = cube_number() * UNITS + threadIdx.x;\n  \
             if (number >= sizes[0] / {WIDTH}) return;\n  const u32 at = number * {WIDTH};\n  float result[{WIDTH}];\n"
        );
        let mut line = |line: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {line}");
        };
        // The first of the eight: the operand's first element, and a way along every dimension.
        let first = |k: usize| {
            let at = 1 + rank + k * (rank + 1);
            format!("sizes[{at}] + distance<RANK>(sizes, at, 1, {})", at + 1)
        };
        for (k, (read, repeats)) in e.inputs.iter().zip(&self.repeats).enumerate() {
            let buffer = match read {
                Read::Input(slot) => input(*slot),
                Read::Output => output(e.output),
            };
            match repeats {
                true => line(format!("const float x{k} = to_float({buffer}[{}]);", first(k))),
                false => line(format!("float x{k}[{WIDTH}];\n  take8({buffer} + {}, x{k});", first(k))),
            }
        }
        let inputs = self.repeats.iter().enumerate();
        let inputs: Vec<String> =
            inputs.map(|(k, repeats)| if *repeats { format!("x{k}") } else { format!("x{k}[i]") }).collect();
        line(format!(
            "#pragma unroll\n  for (int i = 0; i < {WIDTH}; i++) result[i] = program({});",
            inputs.join(", ")
        ));
        line(format!("put8({} + {}, result);\n}}", output(e.output), first(e.inputs.len())));
        p.finish(&[FUNCTIONS, &program(&e.program, e.inputs.len()), &text])
    }
}
