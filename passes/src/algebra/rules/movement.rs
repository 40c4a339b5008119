//! Reshapes, transposes, slices and casts out of the way of the rules that look through them, and off the larger tensor.

use ccl_ir::{Op, ops};
use egg::Id;

use super::{Class, Rule};
use crate::algebra::site::Site;

macro_rules! exact {
    ($name:literal, $law:literal, $root:pat, $find:expr) => {
        Rule { name: $name, class: Class::Exact, law: $law, root: |op| matches!(op, $root), find: $find }
    };
}

pub(super) const RULES: &[Rule] = &[
    exact!(
        "reshape of reshape",
        "reshape(reshape(x)) = reshape(x); reshape(x) = x of one shape",
        Op::Reshape(_),
        reshape_twice
    ),
    exact!(
        "transpose of transpose",
        "transpose(transpose(x)) = transpose(x); = x where the order stays",
        Op::Transpose(_),
        transpose_twice
    ),
    exact!(
        "reshape through projection",
        "reshape(x) Wᵀ + b = reshape(x Wᵀ + b) where rows stay rows",
        Op::Linear(_),
        reshape_linear
    ),
    exact!(
        "movement through function",
        "f(move(x)) = move(f(x)) for f of one number and a reshape, transpose or expansion",
        Op::Unary(_),
        move_unary
    ),
    exact!(
        "cast through movement",
        "cast(move(x)) = move(cast(x)) for a reshape, transpose, slice or expansion",
        Op::Cast(_),
        move_cast
    ),
    exact!("slice of slice", "a slice of a slice along one dimension is a slice", Op::Slice(_), slice_twice),
    exact!(
        "slice of parts",
        "a slice of joined parts is a slice of the part that it lies in",
        Op::Slice(_),
        slice_concat
    ),
    exact!("slice through function", "slice(f(x)) = f(slice(x)) for f of one number", Op::Slice(_), slice_unary),
    exact!(
        "slice of projection",
        "columns of x Wᵀ + b are x times rows of W; rows of it are rows of x",
        Op::Slice(_),
        slice_linear
    ),
    exact!("parts of one", "joined neighbouring slices of x are a slice of x", Op::Concat(_), concat_slices),
    exact!(
        "parts through function",
        "concat(f(x), f(y)) = f(concat(x, y)) for f of one number",
        Op::Concat(_),
        concat_unary
    ),
];

fn movement(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Transpose(_) | Op::Expand(_))
}

fn reshape_twice(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        if !matches!(op, Op::Reshape(_)) {
            continue;
        }
        for source in site.through_reshape(c[0]) {
            site.begin(root);
            if site.ty(source) == site.ty(root) {
                site.replace(root, source);
            } else if !site.same(source, c[0])
                && let Some(result) = site.add(op.clone(), &[source])
            {
                site.replace(root, result);
            }
        }
    }
}

fn transpose_twice(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Transpose(outer) = op else { continue };
        if outer.perm.is_sorted() {
            site.begin(root);
            site.replace(root, c[0]);
        }
        for (inner, d) in site.ops(c[0]) {
            let Op::Transpose(inner) = inner else { continue };
            site.begin(root);
            let perm: Vec<usize> = outer.perm.iter().map(|&p| inner.perm[p]).collect();
            if perm.is_sorted() {
                site.replace(root, d[0]);
            } else if let Some(result) = site.transpose(d[0], &perm) {
                site.replace(root, result);
            }
        }
    }
}

fn reshape_linear(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Linear(l) = &op else { continue };
        if l.epilogue.is_some() {
            continue;
        }
        for source in site.through_reshape(c[0]) {
            if site.same(source, c[0]) || site.ty(source).last() != site.ty(c[0]).last() {
                continue;
            }
            let mut add = || {
                site.begin(root);
                let inputs: Vec<Id> = std::iter::once(source).chain(c[1..].iter().copied()).collect();
                let product = site.add(op.clone(), &inputs)?;
                let result = site.reshape(product, site.shape(root))?;
                site.replace(root, result);
                Some(())
            };
            add();
        }
    }
}

/// `outer(move(x)) = move(outer(x))`.
fn swap(site: &mut Site<'_>, root: Id, moves: fn(&Op) -> bool, outer: fn(&Op) -> bool) {
    for (op, c) in site.ops(root) {
        if !outer(&op) {
            continue;
        }
        for (moved, d) in site.ops(c[0]) {
            if !moves(&moved) {
                continue;
            }
            let mut add = || {
                site.begin(root);
                let inner = site.add(op.clone(), &d)?;
                let result = site.add(moved.clone(), &[inner])?;
                site.replace(root, result);
                Some(())
            };
            add();
        }
    }
}

fn move_unary(site: &mut Site<'_>, root: Id) {
    swap(site, root, movement, |op| matches!(op, Op::Unary(_)));
}

fn move_cast(site: &mut Site<'_>, root: Id) {
    swap(site, root, |op| movement(op) || matches!(op, Op::Slice(_)), |op| matches!(op, Op::Cast(_)));
}

fn slice_unary(site: &mut Site<'_>, root: Id) {
    swap(site, root, |op| matches!(op, Op::Unary(_)), |op| matches!(op, Op::Slice(_)));
}

fn slice_twice(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Slice(outer) = op else { continue };
        for (inner, d) in site.ops(c[0]) {
            let Op::Slice(inner) = inner else { continue };
            if inner.axis == outer.axis {
                site.begin(root);
                if let Some(result) = site.slice(d[0], outer.axis, inner.start + outer.start, outer.len) {
                    site.replace(root, result);
                }
            }
        }
    }
}

fn slice_concat(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Slice(s) = op else { continue };
        for (inner, parts) in site.ops(c[0]) {
            let Op::Concat(join) = inner else { continue };
            if join.axis != s.axis {
                continue;
            }
            let mut first = 0;
            for part in parts {
                let len = site.shape(part)[s.axis];
                if s.start >= first && s.start + s.len <= first + len {
                    site.begin(root);
                    if let Some(result) = site.slice(part, s.axis, s.start - first, s.len) {
                        site.replace(root, result);
                    }
                }
                first += len;
            }
        }
    }
}

fn slice_linear(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Slice(s) = op else { continue };
        for (inner, d) in site.ops(c[0]) {
            let Op::Linear(l) = &inner else { continue };
            if l.epilogue.is_some() {
                continue;
            }
            let columns = s.axis + 1 == site.ty(c[0]).rank();
            let mut add = || {
                site.begin(root);
                let mut inputs = d.clone();
                if columns {
                    for operand in &mut inputs[1..] {
                        *operand = site.slice(*operand, 0, s.start, s.len)?;
                    }
                } else {
                    inputs[0] = site.slice(d[0], s.axis, s.start, s.len)?;
                }
                let result = site.add(inner.clone(), &inputs)?;
                site.replace(root, result);
                Some(())
            };
            add();
        }
    }
}

fn concat_slices(site: &mut Site<'_>, root: Id) {
    for (op, parts) in site.ops(root) {
        let Op::Concat(join) = op else { continue };
        // Where each part is a slice of one class, and the slices follow one another.
        let slices = |id: Id| -> Vec<(Id, usize, usize)> {
            let slice = |(op, c): (Op, Vec<Id>)| match op {
                Op::Slice(s) if s.axis == join.axis => Some((c[0], s.start, s.len)),
                _ => None,
            };
            site.ops(id).into_iter().filter_map(slice).collect()
        };
        let firsts = slices(parts[0]);
        for (source, start, len) in firsts {
            let mut end = start + len;
            let follow = parts[1..].iter().all(|&part| {
                let next = slices(part).into_iter().find(|(from, at, _)| site.same(*from, source) && *at == end);
                end += next.map_or(0, |n| n.2);
                next.is_some()
            });
            if follow {
                site.begin(root);
                if let Some(result) = site.slice(source, join.axis, start, end - start) {
                    site.replace(root, result);
                }
                break;
            }
        }
    }
}

fn concat_unary(site: &mut Site<'_>, root: Id) {
    for (op, parts) in site.ops(root) {
        let Op::Concat(join) = op else { continue };
        for (first, _) in site.ops(parts[0]) {
            let Op::Unary(_) = &first else { continue };
            let source = |&part: &Id| site.ops(part).into_iter().find(|(op, _)| *op == first).map(|(_, c)| c[0]);
            let Some(sources) = parts.iter().map(source).collect::<Option<Vec<Id>>>() else { continue };
            let mut add = || {
                site.begin(root);
                let joined = site.add(ops::Concat { axis: join.axis }, &sources)?;
                let result = site.add(first.clone(), &[joined])?;
                site.replace(root, result);
                Some(())
            };
            add();
        }
    }
}
