//! The optimiser's step.

use ccl_ir::Operator;
use ccl_ir::ops;
use ccl_ir::plan::Call;

use super::elementwise::through;
use super::walk::fits;
use crate::gpu::blueprint::{Kernel, Program};
use crate::gpu::kernels::adam_w::AdamW;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;
use crate::gpu::wide::WIDTH;
use crate::gpu::wide::adam_w::{UNITS as WIDE_UNITS, WideAdamW};

/// Units of a cube.
const UNITS: u32 = 64;

/// `AdamW`: the step on parameter, moments and average in place. What does not lie over its predecessor is copied first.
pub(super) fn adam_w(call: &Call, target: &Target, op: &ops::AdamW) -> Result<Vec<Launch>, LowerError> {
    let mut launches = Vec::new();
    for (o, to) in call.outputs.iter().enumerate() {
        let Some(i) = op.updates(o) else { continue };
        let from = &call.inputs[i];
        if (from.place, from.offset) != (to.place, to.offset) {
            launches.push(through(call, target, Program::copy(), i, o)?);
        }
    }
    launches.push(step(call, target, op)?);
    Ok(launches)
}

fn step(call: &Call, target: &Target, op: &ops::AdamW) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let elements = call.outputs[0].ty.elements();
    let [p, m, v] = [0, 1, 2].map(|i| args.result(i).offset);
    let [count, g, rates, scale] = [3, 4, 5, 6].map(|i| args.operand(i));
    let rate = rates.offset + op.group as u64 * rates.strides[0];
    let averages = ops::AdamW::averages(call.inputs.len());
    let average = if averages { args.result(3).offset } else { 0 };
    fits(&args, elements.saturating_add(p.max(m).max(v).max(g.offset).max(average)))?;
    args.sizes([elements, p, m, v, g.offset, count.offset, rate, scale.offset])?;
    let bits = |x: f64| (x as f32).to_bits();
    let updated = [args.output(0)?, args.output(1)?, args.output(2)?].map(|slot| slot.index);
    let kernel = AdamW {
        betas: [op.beta1, op.beta2].map(bits),
        keeps: [op.beta1, op.beta2].map(|b| bits(1.0 - b)),
        logs: [op.beta1, op.beta2].map(|b| bits(b.ln())),
        eps: bits(op.eps),
        decay: bits(op.decay),
        updated,
        count: args.input(3)?,
        g: args.input(4)?,
        rates: args.input(5)?,
        scale: args.input(6)?,
        average: match averages {
            true => {
                let way = ops::AdamW::AVERAGE + 1;
                args.sizes([average, args.operand(way).offset])?;
                Some((args.output(3)?.index, args.input(way)?))
            }
            false => None,
        },
    };
    let whole = [elements, p, m, v, g.offset, average].iter().all(|n| n % WIDTH as u64 == 0);
    if target.is_wide() && whole {
        let (kernel, cubes) = WideAdamW::new(kernel, elements);
        return args.launch(Kernel::WideAdamW(kernel), cubes, [WIDE_UNITS, 1, 1]);
    }
    args.launch(Kernel::AdamW(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1])
}
