//! Matrix products with an epilogue: one square tile of the result a cube, through shared memory; each unit keeps a small square of it in
//! registers.
//!
//! Shared memory holds four rows (or columns) at one depth together, so that a unit reads four numbers at a time. These four are as far apart as
//! units are along a side of the tile: neighbouring units have neighbouring columns, and store them together. The next tile is asked for before
//! this one is multiplied.
//!
//! Sizes: batches; rows `m`, columns `n` and depth `k` of one product; tiles of rows, tiles of columns; the dimensions that number the
//! batches, then those that number the rows, outermost first; `a`: first element, strides of the batches, of the rows, of the depth; `b`: first
//! element, strides of the batches, of the columns, of the depth; the bias, where there is one: first element and stride; each further
//! input of the epilogue: first element, strides of the batches, of the rows, of the columns; the first element of the output, which is dense.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};

use super::elementwise::run;
use super::walk::{distance, position, unravel};
use super::{Four, load, store};
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
    /// Whether neighbours in memory lie along the depth, of the left and of the right factor; else along rows or columns.
    pub along: [bool; 2],
    /// Added to the columns.
    pub bias: Option<Slot>,
    /// Further inputs of the epilogue.
    pub extras: Vec<Slot>,
    /// What is done with each sum: input 0 of the program.
    pub epilogue: Program,
    /// Where the result goes.
    pub output: Slot,
}

/// How a product is cut into tiles: powers of two, with at least eight units along a side, which have four rows each or more where four
/// are brought together.
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

    /// Shared memory of a cube in bytes: a tile of each factor.
    pub fn shared_bytes(&self) -> u32 {
        2 * 16 * self.kept()
    }

    /// Fours of rows.
    fn fours(&self) -> u32 {
        self.side / 4
    }

    /// Fours of one factor in shared memory.
    fn kept(&self) -> u32 {
        self.fours() * self.depth
    }

    /// Those that a unit brings.
    fn loads(&self) -> usize {
        (self.kept() / self.units()) as usize
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
    let blocks = comptime!(micro / 4);
    let across = comptime!(p.tile.across());
    let loads = comptime!(p.tile.loads());
    let batch_rank = comptime!(p.batch_rank as usize);
    let row_rank = comptime!(p.row_rank as usize);
    let rows_at = comptime!(6 + batch_rank);
    let a_at = comptime!(rows_at + row_rank);
    let b_at = comptime!(a_at + 2 + batch_rank + row_rank);

    let mut left = Shared::<[Four]>::new_slice(comptime!(p.tile.kept() as usize));
    let mut right = Shared::<[Four]>::new_slice(comptime!(p.tile.kept() as usize));

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

    let a_first = position(&batch_index, sizes, batch_rank, a_at);
    let b_first = position(&batch_index, sizes, batch_rank, b_at);
    let mut a_lines = Sequence::<u32>::new();
    let mut b_lines = Sequence::<u32>::new();
    #[unroll]
    for l in 0..loads {
        #[unroll]
        for e in 0..4usize {
            let row = first_row + row_of(four_of(l, p.tile, comptime!(p.along[0])), e, p.tile);
            let column = first_column + row_of(four_of(l, p.tile, comptime!(p.along[1])), e, p.tile);
            let index = unravel(row, sizes, row_rank, rows_at);
            a_lines.push(a_first + distance(&index, sizes, row_rank, comptime!(a_at + 1 + batch_rank)));
            b_lines.push(b_first + column * *sizes.index(comptime!(b_at + 1 + batch_rank)));
        }
    }
    let a_step = *sizes.index(comptime!(b_at - 1));
    let b_step = *sizes.index(comptime!(b_at + 2 + batch_rank));
    let a = Factor { lines: a_lines, left: rows - min(first_row, rows), step: a_step };
    let b = Factor { lines: b_lines, left: columns - min(first_column, columns), step: b_step };

    let mut sums = Array::<Four>::new(comptime!(micro * blocks));
    #[unroll]
    for c in 0..comptime!(micro * blocks) {
        sums[c] = Four::new(0f32);
    }
    let mut a_next = Array::<Four>::new(loads);
    let mut b_next = Array::<Four>::new(loads);
    bring::<E>(halves, floats, &mut a_next, &a, 0u32, k, p.tile, comptime!((p.along[0], p.a)));
    bring::<E>(halves, floats, &mut b_next, &b, 0u32, k, p.tile, comptime!((p.along[1], p.b)));
    let x = UNIT_POS % across;
    let y = UNIT_POS / across;
    let steps = (k + comptime!(depth - 1)) / depth;
    for s in 0..steps {
        put(&mut left, &a_next, p.tile, comptime!(p.along[0]));
        put(&mut right, &b_next, p.tile, comptime!(p.along[1]));
        sync_cube();
        let next = (s + 1u32) * depth;
        bring::<E>(halves, floats, &mut a_next, &a, next, k, p.tile, comptime!((p.along[0], p.a)));
        bring::<E>(halves, floats, &mut b_next, &b, next, k, p.tile, comptime!((p.along[1], p.b)));
        // Several depths in a row, without a jump between them.
        for group in 0..comptime!(depth / p.tile.micro) {
            #[unroll]
            for of_group in 0..micro {
                let q = group * comptime!(p.tile.micro) + comptime!(of_group as u32);
                let mut on_left = Sequence::<Four>::new();
                let mut on_right = Sequence::<Four>::new();
                #[unroll]
                for c in 0..blocks {
                    on_left.push(left[kept_at(q, y, p.tile) + comptime!(c * across as usize)]);
                    on_right.push(right[kept_at(q, x, p.tile) + comptime!(c * across as usize)]);
                }
                #[unroll]
                for i in 0..micro {
                    let of_row = Four::new(on_left.index(comptime!(i / 4)).extract(comptime!(i % 4)));
                    #[unroll]
                    for j in 0..blocks {
                        sums[comptime!(i * blocks + j)] += of_row * *on_right.index(j);
                    }
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
                let sum = sums[comptime!(i * blocks + j / 4)].extract(comptime!(j % 4));
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

/// Which four rows a unit brings the `l`-th time. Neighbouring units bring what is next to each other in memory.
#[cube]
fn four_of(#[comptime] l: usize, #[comptime] tile: Tile, #[comptime] along: bool) -> u32 {
    if comptime!(along) {
        UNIT_POS / comptime!(tile.depth) + comptime!(l as u32 * (tile.units() / tile.depth))
    } else {
        UNIT_POS % comptime!(tile.fours())
    }
}

/// At which depth of the tile.
#[cube]
fn depth_of(#[comptime] l: usize, #[comptime] tile: Tile, #[comptime] along: bool) -> u32 {
    if comptime!(along) {
        UNIT_POS % comptime!(tile.depth)
    } else {
        UNIT_POS / comptime!(tile.fours()) + comptime!(l as u32 * (tile.units() / tile.fours()))
    }
}

/// The `e`-th row of four, in the tile.
#[cube]
fn row_of(four: u32, #[comptime] e: usize, #[comptime] tile: Tile) -> u32 {
    let across = comptime!(tile.across());
    four / across * comptime!(4 * across) + four % across + comptime!(e as u32 * across)
}

/// Where four rows at a depth are in shared memory: a column of them is spread over its banks. Fours that are a multiple of eight apart stay so.
#[cube]
fn kept_at(z: u32, four: u32, #[comptime] tile: Tile) -> usize {
    (z * comptime!(tile.fours()) + (four ^ (z % 8u32))) as usize
}

/// One factor, as a unit brings it.
#[derive(CubeType)]
struct Factor {
    /// Where the rows begin that it brings, by turns.
    lines: Sequence<u32>,
    /// Rows from the tile's first on.
    left: u32,
    /// Distance between neighbours along the depth.
    step: u32,
}

/// Brings what a unit has of the tile of a factor that begins at depth `first`: zeros behind the factor's last row and behind depth `k`. `of` says
/// whether neighbours lie along the depth, and where the factor is.
#[cube]
#[allow(clippy::too_many_arguments)]
fn bring<E: Float>(
    halves: &Sequence<Box<[E]>>,
    floats: &Sequence<Box<[f32]>>,
    brought: &mut Array<Four>,
    factor: &Factor,
    first: u32,
    k: u32,
    #[comptime] tile: Tile,
    #[comptime] of: (bool, Slot),
) {
    #[unroll]
    for l in 0..comptime!(tile.loads()) {
        let z = first + depth_of(l, tile, comptime!(of.0));
        let four = four_of(l, tile, comptime!(of.0));
        let mut value = Four::new(0f32);
        #[unroll]
        for e in 0..4usize {
            if row_of(four, e, tile) < factor.left && z < k {
                let at = *factor.lines.index(comptime!(4 * l + e)) + z * factor.step;
                value.insert(e, load::<E>(halves, floats, at as usize, comptime!(of.1)));
            }
        }
        brought[l] = value;
    }
}

/// Puts what was brought into shared memory.
#[cube]
fn put(shared: &mut Shared<[Four]>, brought: &Array<Four>, #[comptime] tile: Tile, #[comptime] along: bool) {
    #[unroll]
    for l in 0..comptime!(tile.loads()) {
        let to = kept_at(depth_of(l, tile, along), four_of(l, tile, along), tile);
        shared[to] = brought[l];
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
