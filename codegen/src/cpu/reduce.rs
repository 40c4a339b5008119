//! Sums of elementwise chains over broadcast dimensions.
//!
//! The common shape is seen as alternating kept and summed dimensions, the last one kept (of size 1 where the shape ends
//! in a summed one): `[.., summed, kept]`, so that the inner two are rows side by side. A task sums a block of rows of some
//! of the columns, in tiles that are computed in cache. Where a result has more rows than one task should take, blocks
//! leave partial sums that are added in their order: the cut depends on the sizes alone.

use std::ops::Range;

use ccl_ir::ops::Reduce;

use super::elementwise::{Lane, Machine, Program};
use super::layout::Layout;
use super::math::{sum, vectorised};
use super::parallel::{CHUNK, Shared, add_parts, tasks, with_sums};
use super::view::View;

/// Most elements of a tile.
const TILE: usize = 4096;

/// Most columns of a task.
const COLUMNS: usize = 1024;

/// Most terms that are added one to the other in `f32`: their sums are added up in `f64`.
const RUN: usize = 64;

/// Columns that are summed side by side in registers.
const LANES: usize = 32;

/// Tasks that keep many cores busy: rows are not cut where the rest makes as many.
const ENOUGH: usize = 64;

/// The common shape with its neighbouring kept and neighbouring summed dimensions joined.
struct Dims {
    /// Sizes and row-major distances of the outer kept dimensions, outermost first.
    kept: Vec<(usize, usize)>,
    /// The same of the summed ones; at least one.
    summed: Vec<(usize, usize)>,
    /// Size of the innermost, kept dimension.
    width: usize,
}

/// Where rows start.
struct Places {
    /// By the sum that they belong to.
    kept: Layout,
    /// By their number among those of one sum.
    summed: Layout,
    /// Rows that lie side by side.
    together: usize,
}

impl Dims {
    /// `shape` is what `common` is summed to.
    fn new(common: &[usize], shape: &[usize]) -> Self {
        let lead = common.len() - shape.len();
        // (size, kept), then joined.
        let mut joined: Vec<(usize, bool)> = Vec::new();
        for (i, &size) in common.iter().enumerate().filter(|(_, size)| **size != 1) {
            let keep = i >= lead && shape[i - lead] != 1;
            match joined.last_mut() {
                Some(last) if last.1 == keep => last.0 *= size,
                _ => joined.push((size, keep)),
            }
        }
        let width = joined.pop_if(|last| last.1).map_or(1, |last| last.0);
        let mut dims = Self { kept: Vec::new(), summed: Vec::new(), width };
        let mut distance = width;
        for &(size, keep) in joined.iter().rev() {
            let list = if keep { &mut dims.kept } else { &mut dims.summed };
            list.insert(0, (size, distance));
            distance *= size;
        }
        if dims.summed.is_empty() {
            dims.summed.push((1, width));
        }
        dims
    }
}

/// Number of positions of a list of dimensions.
fn count(dims: &[(usize, usize)]) -> usize {
    dims.iter().map(|d| d.0).product()
}

/// Where the chain's values come from.
enum Source<'a> {
    /// The one input of no chain.
    Plain(Shared<f32>, Layout),
    Chain(&'a Program, &'a [Lane]),
}

/// See [`Reduce`].
///
/// # Safety
/// As for [`super::run`].
pub(super) unsafe fn reduce(op: &Reduce, inputs: &[View<'_>], outputs: &[View<'_>]) {
    let mut common = Vec::new();
    for view in inputs {
        // `infer` has found that they broadcast.
        common = ccl_ir::types::broadcast(&common, view.shape()).unwrap_or_default();
    }
    let program = op.chain.as_ref().map(|chain| Program::new(&chain.steps));
    let lanes: Vec<Lane> = inputs.iter().map(|view| Lane::new(view, &common)).collect();
    let source = match &program {
        None => Source::Plain(Shared(inputs[0].ptr.cast()), Layout::of(&inputs[0])),
        Some(program) => Source::Chain(program, &lanes),
    };
    let dims = Dims::new(&common, &op.shape);
    let places = Places {
        kept: Layout::new(dims.kept.iter().copied()),
        summed: Layout::new(dims.summed.iter().copied()),
        together: dims.summed[dims.summed.len() - 1].0,
    };
    let (sums, rows, width) = (count(&dims.kept), count(&dims.summed), dims.width);
    let (strips, elements) = (width.div_ceil(COLUMNS), sums * rows * width);
    // Blocks of rows; several sums a task where one is short.
    let most = ENOUGH.div_ceil(sums * strips).min(rows);
    let blocks = (rows * width / strips).div_ceil(CHUNK).clamp(1, most);
    let rows_each = rows.div_ceil(blocks);
    let blocks = rows.div_ceil(rows_each);
    let group = (CHUNK / (rows_each * width)).clamp(1, sums);
    let groups = sums.div_ceil(group);
    let (total, out) = (sums * width, Shared(outputs[0].ptr.cast::<f32>()));
    // The sums of all blocks but the first, which are where the result goes.
    with_sums((blocks - 1) * total, |rest| {
        let rest_at = Shared(rest.as_mut_ptr());
        tasks(groups * strips * blocks, elements, |task| {
            let (block, task) = (task % blocks, task / blocks);
            let (strip, first) = (task % strips, task / strips * group);
            let columns = strip * COLUMNS..width.min((strip + 1) * COLUMNS);
            let block_rows = block * rows_each..rows.min((block + 1) * rows_each);
            let mut worker = Worker::new(&source);
            for sum in first..sums.min(first + group) {
                let at = sum * width + columns.start;
                // SAFETY: the dispatcher's promise; the task's columns of its block of this sum are its own.
                unsafe {
                    let to = if block == 0 { out } else { Shared(rest_at.at((block - 1) * total)) };
                    worker.block(
                        &places,
                        width,
                        sum,
                        block_rows.clone(),
                        columns.clone(),
                        to.slice_mut(at, columns.len()),
                    );
                }
            }
        });
        // SAFETY: the output is dense, and the tasks have ended.
        unsafe { add_parts(out, total, rest) };
    });
}

/// One thread's state.
struct Worker<'a> {
    source: &'a Source<'a>,
    machine: Option<Machine<'a>>,
    tile: Vec<f32>,
    sums: Vec<f64>,
}

impl<'a> Worker<'a> {
    fn new(source: &'a Source<'a>) -> Self {
        let machine = match *source {
            Source::Plain(..) => None,
            Source::Chain(program, lanes) => Some(Machine::new(program, lanes)),
        };
        Self { source, machine, tile: Vec::new(), sums: Vec::new() }
    }

    /// Writes the sums of the rows `rows` (counted over all summed dimensions) of some of `width` columns.
    ///
    /// # Safety
    /// The inputs are valid and nobody writes them.
    unsafe fn block(
        &mut self,
        places: &Places,
        width: usize,
        sum: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        to: &mut [f32],
    ) {
        let mut sums = std::mem::take(&mut self.sums);
        sums.clear();
        sums.resize(to.len(), 0.0);
        let base = places.kept.offset(sum) + columns.start;
        // Whole rows side by side are one run of elements.
        let most = if columns.len() == width { (TILE / width).max(1) } else { 1 };
        let mut row = rows.start;
        while row < rows.end {
            let n = most.min(places.together - row % places.together).min(rows.end - row);
            // SAFETY: the caller's promise; these rows lie in the common shape.
            let tile = unsafe { self.values(base + places.summed.offset(row), n * columns.len()) };
            add_rows(tile, &mut sums);
            row += n;
        }
        for (to, sum) in to.iter_mut().zip(&sums) {
            *to = *sum as f32;
        }
        self.sums = sums;
    }

    /// The chain's values at row-major positions `start .. start + len` of the common shape.
    ///
    /// # Safety
    /// As for [`Worker::block`].
    unsafe fn values(&mut self, start: usize, len: usize) -> &[f32] {
        self.tile.resize(len.max(self.tile.len()), 0.0);
        match (self.source, &mut self.machine) {
            (Source::Plain(data, layout), _) => {
                let mut cursor = layout.cursor(start);
                let mut done = 0;
                while done < len {
                    let run = cursor.next(len - done);
                    if run.len == len && run.stride == 1 {
                        // SAFETY: the caller's promise; the cursor stays inside the view.
                        return unsafe { data.slice(run.offset, len) };
                    }
                    for (i, x) in self.tile[done..done + run.len].iter_mut().enumerate() {
                        // SAFETY: as above.
                        *x = unsafe { *data.at(run.offset + i * run.stride) };
                    }
                    done += run.len;
                }
            }
            // SAFETY: the caller's promise; the tile is memory of our own.
            (_, Some(machine)) => unsafe { machine.run(start, len, self.tile.as_mut_ptr()) },
            (_, None) => {}
        }
        &self.tile[..len]
    }
}

/// Adds the sums of the columns of `tile`, rows of the width of `to`.
fn add_rows(tile: &[f32], to: &mut [f64]) {
    let width = to.len();
    vectorised(
        #[inline(always)]
        || {
            if width == 1 {
                for run in tile.chunks(RUN * LANES) {
                    to[0] += f64::from(sum(run, |x| x));
                }
                return;
            }
            for tile in tile.chunks(RUN * width) {
                let (whole, rest) = to.as_chunks_mut::<LANES>();
                let narrow = whole.len() * LANES;
                for (i, to) in whole.iter_mut().enumerate() {
                    let mut lanes = [0.0f32; LANES];
                    for row in tile.chunks_exact(width) {
                        let row = &row.as_chunks::<LANES>().0[i];
                        for (lane, x) in lanes.iter_mut().zip(row) {
                            *lane += x;
                        }
                    }
                    for (to, lane) in to.iter_mut().zip(lanes) {
                        *to += f64::from(lane);
                    }
                }
                if !rest.is_empty() {
                    let mut lanes = [0.0f32; LANES];
                    for row in tile.chunks_exact(width) {
                        for (lane, x) in lanes.iter_mut().zip(&row[narrow..]) {
                            *lane += x;
                        }
                    }
                    for (to, lane) in rest.iter_mut().zip(lanes) {
                        *to += f64::from(lane);
                    }
                }
            }
        },
    );
}
