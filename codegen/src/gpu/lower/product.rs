//! Matrix products.

use ccl_ir::ops::{Linear, MatMul, WindowMix};
use ccl_ir::partition::Group;
use ccl_ir::plan::Call;

use super::walk::{Walk, collapse, fits};
use crate::gpu::blueprint::{Kernel, Program, Slot};
use crate::gpu::kernels::product::{Product, Tile};
use crate::gpu::launch::{Args, Launch, LowerError};
use crate::gpu::target::{Target, Tiles};

/// Tiles of a target.
pub(super) fn tile(target: &Target) -> Tile {
    match target.tiles {
        Tiles::Small => Tile { side: 16, depth: 8, micro: 2 },
        Tiles::Large => Tile { side: 64, depth: 16, micro: 4 },
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

impl Factor {
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
    let bias = op.bias.then_some(2);
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

/// The launch.
fn product(call: &Call, target: &Target, parts: Parts) -> Result<Launch, LowerError> {
    let mut args = Args::new(call, target);
    let tile = tile(target);
    let count = |dims: &[usize]| dims.iter().map(|&d| d as u64).product::<u64>();
    let (batches, m) = (count(&parts.batches), count(&parts.rows));
    let (n, k) = (parts.n as u64, parts.k as u64);
    let tiles = [m.div_ceil(tile.side.into()), n.div_ceil(tile.side.into())];
    // Positions of masked rows, columns and depths are computed, though nothing is read there.
    let reach = u64::from(tile.side);
    [m, n, k].into_iter().try_for_each(|size| fits(&args, size + reach))?;
    args.sizes([batches, m, n, k])?;
    args.sizes(tiles)?;
    args.sizes(parts.batches.iter().chain(&parts.rows).map(|&d| d as u64))?;
    let slot_a = args.input(0)?;
    let slot_b = args.input(1)?;
    parts.a.push(&mut args, &parts.batches, &parts.rows, parts.k)?;
    parts.b.push(&mut args, &parts.batches, &[parts.n], parts.k)?;
    let mut slot_bias = None;
    if let Some(i) = parts.bias {
        slot_bias = Some(args.input(i)?);
        let operand = args.operand(i);
        Walk { offset: operand.offset, strides: operand.strides.clone() }.push(&mut args, &[parts.n], 0)?;
    }
    let mut slots: Vec<Slot> = Vec::new();
    for (i, extra) in parts.extras.iter().enumerate() {
        slots.push(args.input(parts.fixed + i)?);
        extra.push(&mut args, &parts.batches, &parts.rows, parts.n)?;
    }
    let output = args.output(0)?;
    let first = args.result(0).offset + parts.first;
    fits(&args, first.saturating_add(batches.saturating_mul(m).saturating_mul(n)))?;
    args.size(first)?;
    let kernel = Product {
        batch_rank: parts.batches.len() as u32,
        row_rank: parts.rows.len() as u32,
        tile,
        a: slot_a,
        b: slot_b,
        bias: slot_bias,
        extras: slots,
        epilogue: parts.epilogue,
        output,
    };
    let cubes = batches.saturating_mul(tiles[0]).saturating_mul(tiles[1]);
    args.launch(Kernel::Product(kernel), cubes, [tile.units(), 1, 1])
}
