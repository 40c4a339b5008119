//! Launching on a device.

use ccl_ir::DType;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::launch::{Launch, Ref};
use super::universal::universal;

/// Launches a kernel; returns before it has run.
///
/// `buffer` gives the whole buffer of an operand and its number of elements.
///
/// # Safety
/// Every buffer holds what the launch's sizes, strides and first elements reach, outputs overlap no inputs, and
/// the blueprint was lowered for this device.
pub unsafe fn launch(client: &Client, launch: &Launch, buffer: &dyn Fn(Ref) -> BufferArg) {
    match launch.blueprint.half {
        // SAFETY: the caller's promise.
        DType::F16 => unsafe { typed::<half::f16>(client, launch, buffer) },
        // SAFETY: the caller's promise.
        DType::Bf16 => unsafe { typed::<half::bf16>(client, launch, buffer) },
        // SAFETY: the caller's promise.
        DType::F32 | DType::I32 => unsafe { typed::<f32>(client, launch, buffer) },
    }
}

unsafe fn typed<E: Float + CubeElement>(client: &Client, launch: &Launch, buffer: &dyn Fn(Ref) -> BufferArg) {
    let [x, y, z] = launch.cubes;
    let [ux, uy, uz] = launch.blueprint.units;
    let mut sizes = SequenceArg::new();
    launch.sizes.iter().for_each(|&n| sizes.push(n));
    // SAFETY: the caller's promise.
    unsafe {
        universal::launch_unchecked::<E>(
            client,
            CubeCount::Static(x, y, z),
            CubeDim::new_3d(ux, uy, uz),
            list(&launch.halves, buffer),
            list(&launch.floats, buffer),
            list(&launch.ints, buffer),
            list(&launch.half_outs, buffer),
            list(&launch.float_outs, buffer),
            sizes,
            launch.blueprint.clone(),
        );
    }
}

fn list<T>(refs: &[Ref], buffer: &dyn Fn(Ref) -> BufferArg) -> SequenceArg<Box<[T]>>
where
    Box<[T]>: LaunchArg<RuntimeArg = BufferArg>,
{
    let mut list = SequenceArg::new();
    refs.iter().for_each(|&r| list.push(buffer(r)));
    list
}
