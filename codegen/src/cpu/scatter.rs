//! The adjoint of gathered windows.

use ccl_ir::ops::WindowScatter;

use super::math::vectorised;
use super::parallel::{Shared, rows};
use super::view::View;

/// See [`WindowScatter`]: a task owns some keys and adds up what the rows have for each, in the rows' order.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn window_scatter(op: &WindowScatter, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let (g, out) = (inputs[0], outputs[0]);
    let (count, size) = op.partition.row_shape();
    let (length, width) = (op.partition.keys(), g.shape()[3] * g.shape()[4]);
    // Where each key is in the gathered rows.
    let mut places = vec![Vec::new(); length];
    for (i, key) in op.partition.rows().into_iter().flat_map(|(keys, _)| keys).enumerate() {
        places[key].push(i);
    }
    let (from, to) = (Shared(g.ptr.cast::<f32>()), Shared(out.ptr.cast::<f32>()));
    rows(g.shape()[0] * length, width, |first, keys| {
        for key in first..first + keys {
            // SAFETY: the dispatcher's promise; both are dense, every task has its own keys.
            let sum = unsafe { to.slice_mut(key * width, width) };
            sum.fill(0.0);
            for place in &places[key % length] {
                let at = (key / length * count * size + place) * width;
                // SAFETY: as above.
                let x = unsafe { from.slice(at, width) };
                vectorised(
                    #[inline(always)]
                    || {
                        for (sum, x) in sum.iter_mut().zip(x) {
                            *sum += x;
                        }
                    },
                );
            }
        }
    });
}
