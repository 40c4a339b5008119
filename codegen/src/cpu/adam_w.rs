//! The optimiser's step, with that of the average where one is kept.

use ccl_ir::ops::AdamW;

use super::math::vectorised;
use super::parallel::{Shared, chunks};
use super::view::View;

/// Elements that are read before their successors are written.
const LANES: usize = 16;

/// The numbers of one call that are the same for every element.
#[derive(Clone, Copy)]
struct Step {
    beta1: f32,
    keep1: f32,
    beta2: f32,
    keep2: f32,
    /// Factor on the gradient.
    scale: f32,
    /// Factor on the parameter: what decay leaves.
    left: f32,
    /// The rate over the first moment's correction.
    rate: f32,
    /// 1 over the root of the second moment's correction.
    root: f32,
    eps: f32,
    /// How far the average moves towards the parameter.
    way: f32,
}

impl Step {
    /// The next parameters and moments of some elements, in place.
    #[inline(always)]
    fn advance(self, p: &mut [f32; LANES], m: &mut [f32; LANES], v: &mut [f32; LANES], g: &[f32; LANES]) {
        for i in 0..LANES {
            let g = self.scale * g[i];
            m[i] = self.beta1 * m[i] + self.keep1 * g;
            v[i] = self.beta2 * v[i] + self.keep2 * g * g;
            p[i] = p[i] * self.left - self.rate * m[i] / (v[i].sqrt() * self.root + self.eps);
        }
    }

    /// The next average of some elements, in place.
    #[inline(always)]
    fn follow(self, average: &mut [f32; LANES], p: &[f32; LANES]) {
        for i in 0..LANES {
            average[i] += (p[i] - average[i]) * self.way;
        }
    }
}

/// See [`AdamW`]: one pass over the memory, corrections in f64. Each output may lie over its input.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn adam_w(op: &AdamW, inputs: &[View<'_>], outputs: &[View<'_>]) {
    // SAFETY: scalars and the list of rates, which has the group's; read before anything is written.
    let (t, rate, scale, way) = unsafe {
        let number = |i: usize, at: usize| inputs[i].ptr.cast::<f32>().add(at).read();
        let way = if AdamW::averages(inputs.len()) { number(AdamW::AVERAGE + 1, 0) } else { 0.0 };
        (f64::from(number(3, 0)), f64::from(number(5, op.group)), number(6, 0), way)
    };
    let step = Step {
        beta1: op.beta1 as f32,
        keep1: (1.0 - op.beta1) as f32,
        beta2: op.beta2 as f32,
        keep2: (1.0 - op.beta2) as f32,
        scale,
        left: (1.0 - rate * op.decay) as f32,
        rate: (rate / AdamW::correction(op.beta1, t)) as f32,
        root: (1.0 / AdamW::correction(op.beta2, t).sqrt()) as f32,
        eps: op.eps as f32,
        way,
    };
    let at = |view: &View<'_>| Shared(view.ptr.cast::<f32>());
    let from = [at(&inputs[0]), at(&inputs[1]), at(&inputs[2]), at(&inputs[4])];
    let to = [at(&outputs[0]), at(&outputs[1]), at(&outputs[2])];
    let average = AdamW::averages(inputs.len()).then(|| (at(&inputs[AdamW::AVERAGE]), at(&outputs[3])));
    chunks(inputs[0].elements(), |start, len| {
        vectorised(
            #[inline(always)]
            || {
                let whole = len / LANES * LANES;
                for i in (start..start + whole).step_by(LANES) {
                    // SAFETY: the dispatcher's promise; these elements are inside, and are this task's alone. No
                    // reference to them lives, so that an output may be its input.
                    unsafe {
                        let [mut p, mut m, mut v, g] = from.map(|x| x.at(i).cast::<[f32; LANES]>().read());
                        step.advance(&mut p, &mut m, &mut v, &g);
                        for (to, x) in to.into_iter().zip([p, m, v]) {
                            to.at(i).cast::<[f32; LANES]>().write(x);
                        }
                        if let Some((from, to)) = average {
                            let mut average = from.at(i).cast::<[f32; LANES]>().read();
                            step.follow(&mut average, &p);
                            to.at(i).cast::<[f32; LANES]>().write(average);
                        }
                    }
                }
                let (first, rest) = (start + whole, len - whole);
                let mut tail = [[0.0; LANES]; 4];
                // SAFETY: as above; the arrays hold `rest` elements.
                unsafe {
                    for (x, from) in tail.iter_mut().zip(from) {
                        std::ptr::copy_nonoverlapping(from.at(first), x.as_mut_ptr(), rest);
                    }
                    let [p, m, v, g] = &mut tail;
                    step.advance(p, m, v, g);
                    for (x, to) in tail.iter().zip(to) {
                        std::ptr::copy_nonoverlapping(x.as_ptr(), to.at(first), rest);
                    }
                    if let Some((from, to)) = average {
                        let [p, average, ..] = &mut tail;
                        std::ptr::copy_nonoverlapping(from.at(first), average.as_mut_ptr(), rest);
                        step.follow(average, p);
                        std::ptr::copy_nonoverlapping(average.as_ptr(), to.at(first), rest);
                    }
                }
            },
        );
    });
}
