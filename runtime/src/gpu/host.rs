//! Calls that the host evaluates: tables of angles, masks and constants, once per model or clip.

use ccl_ir::plan::{Call, Operand};
use ccl_ir::{Problem, Tensor};

use crate::host::HostTensor;
use crate::transfer::gather;

/// Evaluates a call by its operator's own definition, from the bytes of its inputs' places; gives the bytes of each
/// output.
///
/// # Errors
/// The operator's.
pub(super) fn evaluate(call: &Call, places: &[&[u8]]) -> Result<Vec<Vec<u8>>, Problem> {
    let inputs: Vec<Tensor<f32>> = call.inputs.iter().zip(places).map(|(o, bytes)| gather(o, bytes)).collect();
    let outputs = call.op.eval(&inputs.iter().collect::<Vec<_>>())?;
    call.outputs.iter().zip(outputs).map(|(o, tensor)| encode(o, tensor)).collect()
}

fn encode(o: &Operand, tensor: Tensor<f32>) -> Result<Vec<u8>, Problem> {
    if !tensor.matches(&o.ty) {
        return Err(Problem::new(format!("evaluates to shape {:?}, the plan says {}", tensor.shape, o.ty)));
    }
    let mut bytes = vec![0; o.ty.bytes() as usize];
    HostTensor::of(o.ty.dtype, tensor).encode(o.ty.dtype, &mut bytes);
    Ok(bytes)
}
