//! Products over a partition's windows: the backward pass of `WindowMix`.

use ccl_ir::Partition;
use ccl_ir::plan::Call;

use super::attention::{Plan, count, fits};
use crate::gpu::blueprint::Kernel;
use crate::gpu::kernels::product::Tile;
use crate::gpu::kernels::window_product::{Side, WindowProduct};
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::{Target, Tiles};

/// Tiles of a target.
fn tile(target: &Target) -> Tile {
    match target.tiles {
        Tiles::Small => Tile { side: 16, depth: 8, micro: 2 },
        Tiles::Large => Tile { side: 64, depth: 16, micro: 4 },
    }
}

/// `WindowDots` and `WindowSpread`.
pub(super) fn window_product(
    call: &Call,
    target: &Target,
    partition: &Partition,
    side: Side,
) -> Result<Vec<Launch>, LowerError> {
    let mut args = Args::new(call, target);
    call.inputs.iter().chain(&call.outputs).try_for_each(|o| fits(&args, o))?;
    let (left, right, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let values = if side == Side::Weights { right } else { out };
    let [batch, queries, rows] = [left.ty.shape[0], left.ty.shape[1], left.ty.shape[2]];
    let [keys, heads, depth] = [values.ty.shape[1], values.ty.shape[2], values.ty.shape[3]];
    let plan = Plan::partitioned(&args, partition, 1, 0)?;
    let (tile, columns) = (tile(target), out.ty.last());
    let tiles = |n: usize| n.div_ceil(tile.side as usize);
    let (row_tiles, column_tiles) = match side {
        Side::Weights => (tiles(plan.queries * rows), tiles(columns)),
        Side::Values => (tiles(keys * heads), tiles(columns)),
    };
    let groups = if side == Side::Weights { plan.groups } else { 1 };
    let cubes = count([batch, groups, row_tiles, column_tiles]);
    args.size(cubes)?;
    let header = [heads, queries, keys, batch, row_tiles, plan.groups, column_tiles, rows, plan.per_frame];
    args.sizes(header.map(|n| n as u64))?;
    args.sizes(plan.window.map(|n| n as u64))?;
    args.sizes([columns as u64, depth as u64, 0, out.offset])?;
    for factor in [left, right] {
        args.size(factor.offset)?;
        args.sizes(factor.strides.iter().copied())?;
    }
    let kernel = WindowProduct {
        side,
        left: args.input(0)?,
        right: args.input(1)?,
        output: args.output(0)?,
        keys: plan.keys,
        tile,
    };
    Ok(vec![args.launch(Kernel::WindowProduct(kernel), cubes, [tile.units(), 1, 1])?])
}
