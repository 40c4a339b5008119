//! Matrix products with an epilogue: one square tile of the result a cube, through shared memory; each unit keeps a small square of it in
//! registers.
//!
//! Sizes: batches; rows `m`, columns `n` and depth `k` of one product; tiles of rows, tiles of columns; the dimensions that number the
//! batches, then those that number the rows, outermost first; `a`: first element, strides of the batches, of the rows, of the depth; `b`: first
//! element, strides of the batches, of the columns, of the depth; the bias, where there is one: first element and stride; each further
//! input of the epilogue: first element, strides of the batches, of the rows, of the columns; the first element of the output, which is dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::elementwise::run;
use super::walk::{distance, position, unravel};
use super::{load, store};
use crate::gpu::blueprint::{Program, Slot};

/// A product.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Product {
    /// Number of dimensions that number the batches.
    pub batch_rank: u32,
    /// Number of dimensions that number the rows.
    pub row_rank: u32,
    /// How the work is cut.
    pub tile: Tile,
    /// The left factor, one row of the result each.
    pub a: Slot,
    /// The right factor, one column of the result each.
    pub b: Slot,
    /// Added to the columns.
    pub bias: Option<Slot>,
    /// Further inputs of the epilogue.
    pub extras: Vec<Slot>,
    /// What is done with each sum: input 0 of the program.
    pub epilogue: Program,
    /// Where the result goes.
    pub output: Slot,
}

/// How a product is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Rows and columns of the result that a cube computes.
    pub side: u32,
    /// How much of the depth is in shared memory at once.
    pub depth: u32,
    /// Rows and columns that a unit computes.
    pub micro: u32,
}

impl Tile {
    /// Units along each side of the tile.
    pub fn across(&self) -> u32 {
        self.side / self.micro
    }

    /// Units of a cube.
    pub fn units(&self) -> u32 {
        self.across() * self.across()
    }
}

/// The kernel.
#[cube]
pub fn product<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    #[comptime] p: Product,
) {
    let side = comptime!(p.tile.side);
    let depth = comptime!(p.tile.depth);
    let micro = comptime!(p.tile.micro as usize);
    let across = comptime!(p.tile.across());
    // Rows that the cube loads at once, one element a unit, neighbours along the depth by neighbouring units.
    let lines = comptime!(p.tile.units() / p.tile.depth);
    let loads = comptime!((side / lines) as usize);
    // The odd pitch spreads a column over the banks of shared memory.
    let pitch = comptime!(side + 1);
    let batch_rank = comptime!(p.batch_rank as usize);
    let row_rank = comptime!(p.row_rank as usize);
    let rows_at = comptime!(6 + batch_rank);
    let a_at = comptime!(rows_at + row_rank);
    let b_at = comptime!(a_at + 2 + batch_rank + row_rank);

    let mut left = Shared::<[f32]>::new_slice(comptime!((depth * pitch) as usize));
    let mut right = Shared::<[f32]>::new_slice(comptime!((depth * pitch) as usize));

    let cube = CUBE_POS as u32;
    let column_tiles = *sizes.index(5);
    let row_tiles = *sizes.index(4);
    let first_column = cube % column_tiles * side;
    let first_row = cube / column_tiles % row_tiles * side;
    let batch = cube / column_tiles / row_tiles;
    // Surplus cubes have no rows and no columns, but meet the same barriers.
    let there = batch < *sizes.index(0);
    let rows = select(there, *sizes.index(1), 0u32);
    let columns = select(there, *sizes.index(2), 0u32);
    let k = *sizes.index(3);
    let batch_index = unravel(batch, sizes, batch_rank, 6usize);

    let line = UNIT_POS / depth;
    let along = UNIT_POS % depth;
    let a_first = position(&batch_index, sizes, batch_rank, a_at);
    let b_first = position(&batch_index, sizes, batch_rank, b_at);
    let a_step = *sizes.index(comptime!(b_at - 1));
    let b_step = *sizes.index(comptime!(b_at + 2 + batch_rank));
    let mut a_lines = Sequence::<u32>::new();
    let mut b_lines = Sequence::<u32>::new();
    #[unroll]
    for l in 0..loads {
        let offset = line + comptime!(l as u32 * lines);
        let row = unravel(first_row + offset, sizes, row_rank, rows_at);
        a_lines.push(a_first + distance(&row, sizes, row_rank, comptime!(a_at + 1 + batch_rank)));
        b_lines.push(b_first + (first_column + offset) * *sizes.index(comptime!(b_at + 1 + batch_rank)));
    }

    let mut sums = Array::<f32>::new(comptime!(micro * micro));
    #[unroll]
    for c in 0..comptime!(micro * micro) {
        sums[c] = 0f32;
    }
    let x = UNIT_POS % across;
    let y = UNIT_POS / across;
    let steps = (k + comptime!(depth - 1)) / depth;
    for s in 0..steps {
        let z = s * depth + along;
        #[unroll]
        for l in 0..loads {
            let offset = line + comptime!(l as u32 * lines);
            let to = (along * pitch + offset) as usize;
            left[to] = if first_row + offset < rows && z < k {
                load::<E>(halves, floats, (*a_lines.index(l) + z * a_step) as usize, comptime!(p.a))
            } else {
                0f32
            };
            right[to] = if first_column + offset < columns && z < k {
                load::<E>(halves, floats, (*b_lines.index(l) + z * b_step) as usize, comptime!(p.b))
            } else {
                0f32
            };
        }
        sync_cube();
        for q in 0..depth {
            let mut a = Sequence::<f32>::new();
            let mut b = Sequence::<f32>::new();
            #[unroll]
            for c in 0..micro {
                a.push(left[(q * pitch + y + comptime!(c as u32 * across)) as usize]);
                b.push(right[(q * pitch + x + comptime!(c as u32 * across)) as usize]);
            }
            #[unroll]
            for i in 0..micro {
                #[unroll]
                for j in 0..micro {
                    sums[comptime!(i * micro + j)] += *a.index(i) * *b.index(j);
                }
            }
        }
        sync_cube();
    }

    #[unroll]
    for i in 0..micro {
        #[unroll]
        for j in 0..micro {
            let row = first_row + y + comptime!(i as u32 * across);
            let column = first_column + x + comptime!(j as u32 * across);
            if row < rows && column < columns {
                let sum = sums[comptime!(i * micro + j)];
                finish::<E>(
                    halves,
                    floats,
                    half_outs,
                    float_outs,
                    sizes,
                    sum,
                    batch,
                    row,
                    column,
                    comptime!(p.clone()),
                );
            }
        }
    }
}

/// Bias, epilogue and store of one sum.
#[cube]
#[allow(clippy::too_many_arguments)]
fn finish<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    half_outs: &mut Sequence<Box<[E]>>,
    float_outs: &mut Sequence<Box<[f32]>>,
    sizes: &Sequence<u32>,
    sum: f32,
    batch: u32,
    row: u32,
    column: u32,
    #[comptime] p: Product,
) {
    let batch_rank = comptime!(p.batch_rank as usize);
    let row_rank = comptime!(p.row_rank as usize);
    let rows_at = comptime!(6 + batch_rank);
    let width = comptime!(2 + batch_rank + row_rank);
    let bias_at = comptime!(rows_at + row_rank + width + 3 + batch_rank);
    let extras_at = comptime!(bias_at + 2 * usize::from(p.bias.is_some()));

    let mut values = Sequence::<f32>::new();
    match comptime!(p.bias) {
        Some(slot) => {
            let at = *sizes.index(bias_at) + column * *sizes.index(comptime!(bias_at + 1));
            values.push(sum + load::<E>(halves, floats, at as usize, comptime!(slot)));
        }
        None => values.push(sum),
    }
    let batch_index = unravel(batch, sizes, batch_rank, 6usize);
    let row_index = unravel(row, sizes, row_rank, rows_at);
    #[unroll]
    for e in 0..comptime!(p.extras.len()) {
        let from = comptime!(extras_at + e * width);
        let at = position(&batch_index, sizes, batch_rank, from)
            + distance(&row_index, sizes, row_rank, comptime!(from + 1 + batch_rank))
            + column * *sizes.index(comptime!(from + width - 1));
        values.push(load::<E>(halves, floats, at as usize, comptime!(p.extras[e])));
    }
    let result = run(values, comptime!(p.epilogue.clone()));
    let out = *sizes.index(comptime!(extras_at + p.extras.len() * width))
        + (batch * *sizes.index(1) + row) * *sizes.index(2)
        + column;
    store::<E>(half_outs, float_outs, out as usize, result, comptime!(p.output));
}
