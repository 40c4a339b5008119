//! Conversions between element types.

use ccl_ir::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::math::vectorised;
use super::parallel::{Shared, chunks};
use super::view::View;

/// Widens numbers stored as `f16` or `bf16` (by their bits); exact.
pub(super) fn widen(dtype: DType, from: &[u16], to: &mut [f32]) {
    match dtype {
        DType::F16 => bytemuck::cast_slice::<u16, f16>(from).convert_to_f32_slice(to),
        // A bfloat16 is the upper half of a single.
        _ => vectorised(
            #[inline(always)]
            || {
                for (to, &x) in to.iter_mut().zip(from) {
                    *to = f32::from_bits(u32::from(x) << 16);
                }
            },
        ),
    }
}

/// Rounds to `f16` or `bf16`, to nearest, ties to even.
fn narrow(dtype: DType, from: &[f32], to: &mut [u16]) {
    match dtype {
        DType::F16 => bytemuck::cast_slice_mut::<u16, f16>(to).convert_from_f32_slice(from),
        _ => bytemuck::cast_slice_mut::<u16, bf16>(to).convert_from_f32_slice(from),
    }
}

/// Another real element type, through `f32`, which holds every value of the others.
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn cast(inputs: &[View<'_>], outputs: &[View<'_>]) {
    /// Elements on their way between two half precision types.
    const BLOCK: usize = 512;
    let (x, out) = (inputs[0], outputs[0]);
    let (from, to) = (x.dtype(), out.dtype());
    let (source, target) = (x.ptr, out.ptr);
    let (singles_in, singles_out) = (Shared(source.cast::<f32>()), Shared(target.cast::<f32>()));
    let (halves_in, halves_out) = (Shared(source.cast::<u16>()), Shared(target.cast::<u16>()));
    chunks(out.elements(), |start, len| {
        // SAFETY: the dispatcher's promise; both are dense, slices are taken by the view's own element type, and
        // chunks do not overlap.
        unsafe {
            match (from, to) {
                (DType::F32, DType::F32) => {
                    singles_out.slice_mut(start, len).copy_from_slice(singles_in.slice(start, len))
                }
                (DType::F32, _) => narrow(to, singles_in.slice(start, len), halves_out.slice_mut(start, len)),
                (_, DType::F32) => widen(from, halves_in.slice(start, len), singles_out.slice_mut(start, len)),
                _ => {
                    let mut wide = [0.0; BLOCK];
                    let pairs = halves_in.slice(start, len).chunks(BLOCK);
                    for (from_block, to_block) in pairs.zip(halves_out.slice_mut(start, len).chunks_mut(BLOCK)) {
                        let wide = &mut wide[..from_block.len()];
                        widen(from, from_block, wide);
                        narrow(to, wide, to_block);
                    }
                }
            }
        }
    });
}
