//! Matrix products.

use ccl_ir::ops::{Linear, MatMul, WindowMix};
use ccl_ir::partition::Group;
use ccl_ir::plan::Call;

use super::walk::{Walk, collapse, fits};
use crate::gpu::blueprint::{Kernel, Program};
use crate::gpu::kernels::product::{Product, Tile};
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::Target;
use crate::gpu::tensor::product::{Columns, DEPTH, Factor as TensorFactor, ProductTile, TensorProduct};
use crate::gpu::tiles::product::ALIGNED;
use crate::gpu::tiles::{Problem, ProductProblem, Work, tile_of};

/// The bias's position among the inputs of a linear map.
pub(in crate::gpu) const BIAS: usize = 2;

/// A tile of either kind.
enum Way {
    /// On tensor cores.
    Tensor(ProductTile),
    /// By plain arithmetic.
    Plain(Tile),
}

impl Way {
    /// Rows and columns that a cube computes.
    fn sides(&self) -> [u32; 2] {
        match self {
            Self::Tensor(tile) => tile.sides,
            Self::Plain(tile) => [tile.side; 2],
        }
    }
}

/// What is multiplied.
struct Parts {
    /// Dimensions that number the batches.
    batches: Vec<usize>,
    /// Dimensions that number the rows of one product.
    rows: Vec<usize>,
    n: usize,
    k: usize,
    a: Factor,
    b: Factor,
    /// The bias's position among the inputs.
    bias: Option<usize>,
    /// Position of the epilogue's first input among the inputs.
    fixed: usize,
    extras: Vec<Factor>,
    epilogue: Program,
    /// First element of the result, counted from the output's own.
    first: u64,
}

/// One operand: over batches and rows (or columns, for the right factor), then its inner strides.
struct Factor {
    offset: u64,
    batches: Vec<u64>,
    outer: Vec<u64>,
    inner: u64,
}

impl Parts {
    /// Whether tensor cores can do it: factors of half precision.
    fn on_tensor_cores(&self, call: &Call, target: &Target) -> bool {
        !target.tensor_cores().is_empty() && call.inputs[..2].iter().all(|o| o.ty.dtype.is_half())
    }
}

impl Factor {
    /// Whether a tile of it is brought to shared memory along the depth: where that is contiguous, or nothing is.
    fn is_along(&self) -> bool {
        self.inner == 1 || self.outer != [1]
    }

    /// How many neighbours are sure to be aligned together, up to eight; 0 where there are no neighbours. Lines that overlap, as broadcast ones do, are
    /// read one by one: the copy engine is not told of such.
    fn align(&self, outer: &[usize], inner: usize) -> u32 {
        if self.inner != 1 && self.outer != [1] {
            return 0;
        }
        if !self.lies_apart(outer, inner) {
            return 1;
        }
        let steps = if self.is_along() { self.outer.as_slice() } else { std::slice::from_ref(&self.inner) };
        let all = steps.iter().chain(&self.batches).fold(self.offset | 8, |all, &step| all | step);
        1 << all.trailing_zeros().min(3)
    }

    /// Whether so many lines of so many neighbours do not overlap.
    fn lies_apart(&self, outer: &[usize], inner: usize) -> bool {
        if !self.is_along() {
            return inner <= 1 || self.inner >= outer.iter().product::<usize>() as u64;
        }
        // Of a dimension of one element the stride says nothing.
        outer.iter().zip(&self.outer).all(|(lines, step)| *lines <= 1 || *step >= inner as u64)
    }

    fn push(&self, args: &mut Args, batches: &[usize], outer: &[usize], inner: usize) -> Result<(), LowerError> {
        let dims = [batches, outer, &[inner]].concat();
        let strides = [&self.batches[..], &self.outer, &[self.inner]].concat();
        Walk { offset: self.offset, strides }.push(args, &dims, 0)
    }
}

/// `epilogue(x Wᵀ + b)`: the outer dimensions of `x` number the rows.
pub(super) fn linear(call: &Call, target: &Target, op: &Linear) -> Result<Launch, LowerError> {
    let (x, w) = (&call.inputs[0], &call.inputs[1]);
    let result = &call.outputs[0].ty.shape;
    let (n, k) = (w.ty.shape[0], w.ty.shape[1]);
    let fixed = op.fixed_inputs();
    let mut rows = result[..result.len() - 1].to_vec();
    let mut walks = vec![Walk::rows(x, &rows)];
    let mut steps = Vec::new();
    for extra in &call.inputs[fixed..] {
        let mut walk = Walk::broadcast(extra, result);
        steps.push(walk.strides.pop().unwrap_or(0));
        walks.push(walk);
    }
    collapse(&mut rows, &mut walks);
    let mut walks = walks.into_iter();
    let mut factor = |inner: u64| {
        let walk = walks.next().unwrap_or(Walk { offset: 0, strides: Vec::new() });
        Factor { offset: walk.offset, batches: Vec::new(), outer: walk.strides, inner }
    };
    let a = factor(x.strides.last().copied().unwrap_or(1));
    let b = Factor { offset: w.offset, batches: Vec::new(), outer: vec![w.strides[0]], inner: w.strides[1] };
    let extras: Vec<Factor> = steps.into_iter().map(factor).collect();
    let epilogue = op.epilogue.as_ref().map_or_else(Program::copy, Program::of);
    let bias = op.bias.then_some(BIAS);
    product(call, target, Parts { batches: Vec::new(), rows, n, k, a, b, bias, fixed, extras, epilogue, first: 0 })
}

/// `a b` or `a bᵀ` per batch element.
pub(super) fn mat_mul(call: &Call, target: &Target, op: &MatMul) -> Result<Launch, LowerError> {
    let (a, b) = (&call.inputs[0], &call.inputs[1]);
    let outer = a.ty.rank() - 2;
    let (m, k) = (a.ty.shape[outer], a.ty.shape[outer + 1]);
    let n = call.outputs[0].ty.shape[outer + 1];
    let mut batches = a.ty.shape[..outer].to_vec();
    let walk = |strides: &[u64], offset| Walk { offset, strides: strides[..outer].to_vec() };
    let mut walks = [walk(&a.strides, a.offset), walk(&b.strides, b.offset)];
    collapse(&mut batches, &mut walks);
    let [of_a, of_b] = walks;
    let (column, depth) = if op.transpose_b { (outer, outer + 1) } else { (outer + 1, outer) };
    let factor = |walk: Walk, outer: u64, inner: u64| Factor {
        offset: walk.offset,
        batches: walk.strides,
        outer: vec![outer],
        inner,
    };
    let parts = Parts {
        batches,
        rows: vec![m],
        n,
        k,
        a: factor(of_a, a.strides[outer], a.strides[outer + 1]),
        b: factor(of_b, b.strides[column], b.strides[depth]),
        bias: None,
        fixed: 2,
        extras: Vec::new(),
        epilogue: Program::copy(),
        first: 0,
    };
    product(call, target, parts)
}

/// `WindowMix`: a product for each run of groups that lie alike, so that neither weights nor values are copied.
pub(super) fn window_mix(call: &Call, target: &Target, op: &WindowMix) -> Result<Vec<Launch>, LowerError> {
    let (p, u) = (&call.inputs[0], &call.inputs[1]);
    let [batch, lq, rows] = [p.ty.shape[0], p.ty.shape[1], p.ty.shape[2]];
    let [lk, heads, d] = [u.ty.shape[1], u.ty.shape[2], u.ty.shape[3]];
    let groups: Vec<Group> = op.partition.groups().into_iter().filter(|g| !g.queries.is_empty()).collect();
    let mut launches = Vec::new();
    for b in 0..batch as u64 {
        let mut from = 0;
        while from < groups.len() {
            let run = alike(&groups[from..]);
            let group = &groups[from];
            let step = if run > 1 { groups[from + 1].keys.start - group.keys.start } else { 0 };
            let (queries, query) = (group.queries.len(), group.queries.start as u64);
            let value = (b * lk as u64 + group.keys.start as u64) * (heads * d) as u64;
            let parts = Parts {
                batches: vec![run],
                rows: vec![queries, rows],
                n: d,
                k: group.keys.len() * heads,
                a: Factor {
                    offset: p.offset + b * p.strides[0] + query * p.strides[1],
                    batches: vec![queries as u64 * p.strides[1]],
                    outer: vec![p.strides[1], p.strides[2]],
                    inner: p.strides[3],
                },
                b: Factor {
                    offset: u.offset + value,
                    batches: vec![(step * heads * d) as u64],
                    outer: vec![1],
                    inner: d as u64,
                },
                bias: None,
                fixed: 2,
                extras: Vec::new(),
                epilogue: Program::copy(),
                first: (b * lq as u64 + query) * (rows * d) as u64,
            };
            launches.push(product(call, target, parts)?);
            from += run;
        }
    }
    Ok(launches)
}

/// How many groups from the first on have as many queries and keys and keys that follow one another evenly.
fn alike(groups: &[Group]) -> usize {
    let first = &groups[0];
    let Some(second) = groups.get(1) else { return 1 };
    let Some(step) = second.keys.start.checked_sub(first.keys.start) else { return 1 };
    let follows = |pair: &&[Group]| {
        let (a, b) = (&pair[0], &pair[1]);
        let sizes = b.queries.len() == first.queries.len() && b.keys.len() == first.keys.len();
        sizes && b.queries.start == a.queries.end && b.keys.start == a.keys.start + step
    };
    1 + groups.windows(2).take_while(follows).count()
}

/// The launch: on tensor cores where the target has them and the factors are of half precision, else by plain arithmetic.
fn product(call: &Call, target: &Target, parts: Parts) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let count = |dims: &[usize]| dims.iter().map(|&d| d as u64).product::<u64>();
    let (batches, m) = (count(&parts.batches), count(&parts.rows));
    let (n, k) = (parts.n as u64, parts.k as u64);
    let along = [parts.a.is_along(), parts.b.is_along()];
    let aligns = [parts.a.align(&parts.rows, parts.k), parts.b.align(&[parts.n], parts.k)];
    let (batch_rank, row_rank) = (parts.batches.len() as u32, parts.rows.len() as u32);
    let work = |aligns| {
        let bulk = ProductProblem::is_bulk(batches, row_rank, aligns);
        Work::Product(ProductProblem { batches, m, n, k, along, bulk })
    };
    let way = if parts.on_tensor_cores(call, target) { tile_of(Problem::tensor(work(aligns)), target) } else { None };
    let way = way.map(Way::Tensor).or_else(|| tile_of(Problem::plain(work(ALIGNED)), target).map(Way::Plain));
    let way = way.ok_or_else(|| args.error(format!("target {} has no tile for it", target.name)))?;
    let sides = way.sides();
    let tiles = [m.div_ceil(sides[0].into()), n.div_ceil(sides[1].into())];
    // Positions of masked rows, columns and depths are computed, though nothing is read there.
    let reach = u64::from(sides[0].max(sides[1]).max(DEPTH));
    [m, n, k].into_iter().try_for_each(|size| fits(&args, size + reach))?;
    args.sizes([batches, m, n, k])?;
    args.sizes(tiles)?;
    args.sizes(parts.batches.iter().chain(&parts.rows).map(|&d| d as u64))?;
    let slot_a = args.input(0)?;
    let slot_b = args.input(1)?;
    parts.a.push(&mut args, &parts.batches, &parts.rows, parts.k)?;
    parts.b.push(&mut args, &parts.batches, &[parts.n], parts.k)?;
    let wide = |first: u64, steps: &[u64]| n % 8 == 0 && first % 8 == 0 && steps.iter().all(|s| s % 8 == 0);
    let mut bias = None;
    if let Some(i) = parts.bias {
        let (slot, operand) = (args.input(i)?, args.operand(i));
        bias = Some(Columns { slot, wide: wide(operand.offset, &[]) && operand.strides == [1], fixed: true });
        Walk { offset: operand.offset, strides: operand.strides.clone() }.push(&mut args, &[parts.n], 0)?;
    }
    let mut extras: Vec<Columns> = Vec::new();
    for (i, extra) in parts.extras.iter().enumerate() {
        let steps = [&extra.batches[..], &extra.outer].concat();
        let wide = extra.inner == 1 && wide(extra.offset, &steps);
        let fixed = extra.outer.iter().all(|&step| step == 0);
        extras.push(Columns { slot: args.input(parts.fixed + i)?, wide, fixed });
        extra.push(&mut args, &parts.batches, &parts.rows, parts.n)?;
    }
    let first = args.result(0).offset + parts.first;
    let output = Columns { slot: args.output(0)?, wide: wide(first, &[]), fixed: false };
    fits(&args, first.saturating_add(batches.saturating_mul(m).saturating_mul(n)))?;
    args.size(first)?;
    let epilogue = parts.epilogue;
    let (kernel, cubes, units) = match way {
        Way::Plain(tile) => {
            let (bias, extras) = (bias.map(|b| b.slot), extras.iter().map(|e| e.slot).collect());
            let (a, b, output) = (slot_a, slot_b, output.slot);
            let kernel = Product { batch_rank, row_rank, tile, a, b, along, bias, extras, epilogue, output };
            (Kernel::Product(kernel), tiles[0].saturating_mul(tiles[1]), tile.units())
        }
        Way::Tensor(tile) => {
            let a = TensorFactor { slot: slot_a, along: along[0], align: aligns[0] };
            let b = TensorFactor { slot: slot_b, along: along[1], align: aligns[1] };
            let kernel = TensorProduct { batch_rank, row_rank, tile, a, b, bias, extras, epilogue, output };
            (Kernel::TensorProduct(kernel), tile.cubes(tiles, target.multiprocessors()), tile.units())
        }
    };
    args.launch(kernel, batches.saturating_mul(cubes), [units, 1, 1])
}
