//! Rotary embedding, and elements chosen at run time or by a partition.

use ccl_ir::partition::Edge;
use ccl_ir::plan::Call;
use ccl_ir::{Partition, ops};

use super::walk::{Walk, collapse, fits};
use crate::gpu::blueprint::{Class, Kernel};
use crate::gpu::kernels::gather::{Scatter, TableRow, Windows};
use crate::gpu::kernels::rope::Rope;
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;

/// Units of a cube.
const UNITS: u32 = 64;

/// `Rope`: a walk over `[B, L, H, D/2]`.
pub(super) fn rope(call: &Call, target: &Target, op: &ops::Rope) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let (x, table) = (args.operand(0), args.operand(1));
    let mut dims = x.ty.shape.clone();
    dims[3] /= 2;
    let mut of_x = x.strides.clone();
    of_x[3] = 2;
    let of_table = vec![0, table.strides[0], 0, table.strides[1]];
    let mut walks = [Walk { offset: x.offset, strides: of_x }, Walk { offset: table.offset, strides: of_table }];
    collapse(&mut dims, &mut walks);
    let pairs: u64 = dims.iter().map(|&n| n as u64).product();
    args.size(pairs)?;
    args.sizes(dims.iter().map(|&n| n as u64))?;
    for walk in &walks {
        walk.push(&mut args, &dims, 1)?;
    }
    let first = args.result(0).offset;
    fits(&args, first.saturating_add(pairs.saturating_mul(2)))?;
    args.size(first)?;
    let kernel = Rope {
        rank: dims.len() as u32,
        x: args.input(0)?,
        table: args.input(1)?,
        output: args.output(0)?,
        inverse: op.inverse,
    };
    args.launch(Kernel::Rope(kernel), pairs.div_ceil(UNITS.into()), [UNITS, 1, 1])
}

/// `Index`.
pub(super) fn index(call: &Call, target: &Target) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let (table, chosen) = (args.operand(0), args.operand(1));
    if !table.ty.dtype.is_float() {
        return Err(args.error(format!("takes rows of real numbers only, not of {}", table.ty)));
    }
    let mut dims = table.ty.shape[1..].to_vec();
    let mut walks = [Walk { offset: table.offset, strides: table.strides[1..].to_vec() }];
    collapse(&mut dims, &mut walks);
    let elements: u64 = dims.iter().map(|&n| n as u64).product();
    args.sizes([elements, table.ty.shape[0] as u64, table.strides[0], chosen.offset])?;
    args.sizes(dims.iter().map(|&n| n as u64))?;
    let rows = (table.ty.shape[0] as u64).saturating_sub(1).saturating_mul(table.strides[0]);
    walks[0].push(&mut args, &dims, rows)?;
    args.size(call.outputs[0].offset)?;
    let slot = args.input(0)?;
    let chosen = args.input(1)?;
    if chosen.class != Class::Int {
        return Err(args.error("wants a whole number to choose the row"));
    }
    let kernel = TableRow { rank: dims.len() as u32, table: slot, chosen: chosen.index, output: args.output(0)? };
    args.launch(Kernel::TableRow(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1])
}

/// `WindowGather`.
pub(super) fn windows(call: &Call, target: &Target, partition: &Partition) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let elements = partitioned(&mut args, partition)?;
    let kernel = Windows { keys: args.input(0)?, output: args.output(0)? };
    args.launch(Kernel::Windows(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1])
}

/// `WindowScatter`.
pub(super) fn scatter(call: &Call, target: &Target, partition: &Partition) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let elements = partitioned(&mut args, partition)?;
    let kernel = Scatter { rows: args.input(0)?, output: args.output(0)? };
    args.launch(Kernel::Scatter(kernel), elements.div_ceil(UNITS.into()), [UNITS, 1, 1])
}

/// The sizes of what walks a partition; returns the elements of the output.
fn partitioned(args: &mut Args, partition: &Partition) -> Result<u64, LowerError> {
    let from = args.operand(0);
    let (rows, seen) = partition.row_shape();
    // `start(r) = floor((scale r + offset) / divisor) step - half`, kept within `low - half ..= high - half`.
    let [scale, offset, divisor, step, half] = match *partition {
        Partition::Windows { size, scale, offset, divisor, .. } => [scale, offset, divisor, 1, size / 2],
        Partition::NearestFrame { frames, tokens_per_frame, length } => [frames, 0, length, tokens_per_frame, 0],
    };
    let (low, high) = match *partition {
        Partition::Windows { edge: Edge::Shift, length, .. } => (half, length - seen + half),
        _ => (0, u32::MAX as usize),
    };
    let numerator = scale.saturating_mul(rows).saturating_add(offset);
    let last = (numerator / divisor).saturating_mul(step).saturating_add(seen).saturating_add(half);
    fits(args, numerator.max(last).max(partition.keys().saturating_add(half)) as u64)?;
    let output = args.result(0);
    let elements = output.ty.elements();
    args.size(elements)?;
    let [heads, width] = [from.ty.shape[from.ty.rank() - 2], from.ty.last()];
    let sizes = [rows, seen, heads, width, scale, offset, divisor, step, low, high, half, partition.keys()];
    args.sizes(sizes.map(|n| n as u64))?;
    Walk { offset: from.offset, strides: from.strides.clone() }.push(args, &from.ty.shape, 0)?;
    args.size(output.offset)?;
    Ok(elements)
}
