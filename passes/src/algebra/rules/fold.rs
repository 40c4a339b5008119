//! Arithmetic on weights that need not be done in every step.

use ccl_ir::ops::{self, BinaryKind};
use ccl_ir::{DType, Op};
use egg::Id;

use super::{Class, Rule};
use crate::algebra::site::Site;

fn linear(op: &Op) -> bool {
    matches!(op, Op::Linear(_))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "fold norm into projection",
        class: Class::Reassociating,
        law: "LN(x; w, c) Wᵀ + b = LN(x) (W w)ᵀ + (b + W c): norms of one input with different weights become one",
        root: linear,
        find: |site, root| fold_norm(site, root, false),
    },
    Rule {
        name: "fold norm into half projection",
        class: Class::Lossy,
        law: "as `fold norm into projection`, with W w rounded to the half precision that W is stored in",
        root: linear,
        find: |site, root| fold_norm(site, root, true),
    },
    Rule {
        name: "fold scale into projection",
        class: Class::Reassociating,
        law: "(x s) Wᵀ + b = x (W s)ᵀ + b for a scale s of the columns of x that is known with the weights",
        root: linear,
        find: scale_before,
    },
    Rule {
        name: "fold scale of projection",
        class: Class::Reassociating,
        law: "(x Wᵀ + b) s = x (s W)ᵀ + b s for a scale s of the columns of the product that is known with the weights",
        root: |op| matches!(op, Op::Binary(b) if b.kind == BinaryKind::Mul),
        find: scale_after,
    },
    Rule {
        name: "fold shift into bias",
        class: Class::Reassociating,
        law: "(x Wᵀ + b) + c = x Wᵀ + (b + c) for c known with the weights",
        root: |op| matches!(op, Op::Binary(b) if b.kind == BinaryKind::Add),
        find: shift_after,
    },
    Rule {
        name: "shift through projection",
        class: Class::Reassociating,
        law: "(x + c) Wᵀ + b = x Wᵀ + (b + W c) for c known with the weights",
        root: linear,
        find: shift_before,
    },
    Rule {
        name: "projection of projection",
        class: Class::Reassociating,
        law: "(x Aᵀ + a) Bᵀ + b = x (B A)ᵀ + (b + B a)",
        root: linear,
        find: twice,
    },
];

/// Plain linear maps of a class: the operator and its operands.
fn maps(site: &Site<'_>, root: Id) -> Vec<(ops::Linear, Vec<Id>)> {
    let plain = |(op, c): (Op, Vec<Id>)| match op {
        Op::Linear(l) if l.epilogue.is_none() && l.out.is_none() && c[1..].iter().all(|&w| site.is_loaded(w)) => {
            Some((l, c))
        }
        _ => None,
    };
    site.ops(root).into_iter().filter_map(plain).collect()
}

/// `b + W c`, or `W c` where there is no bias; `c [k]`, the result `[n]`.
fn moved_bias(site: &mut Site<'_>, w: Id, bias: Option<Id>, c: Id) -> Option<Id> {
    let [n, k] = [site.shape(w)[0], site.shape(w)[1]];
    let row = site.reshape(c, [1, k])?;
    let op = if bias.is_some() { ops::Linear::biased() } else { ops::Linear::plain() };
    let inputs: Vec<Id> = [row, w].into_iter().chain(bias).collect();
    let moved = site.add(op, &inputs)?;
    site.reshape(moved, [n])
}

/// Whether a product of a weight and `f32` numbers may take the weight's place; says why not.
fn may_fold(site: &mut Site<'_>, root: Id, w: Id) -> bool {
    let ty = site.ty(w).clone();
    if ty.dtype != DType::F32 {
        site.refuse(
            root,
            format!("the weight is {ty}: folded in f32 it would be twice as large, in {} inexact", ty.dtype),
        );
    }
    ty.dtype == DType::F32
}

fn fold_norm(site: &mut Site<'_>, root: Id, half: bool) {
    for (_, c) in maps(site, root) {
        for (norm, n) in site.ops(c[0]) {
            let Op::LayerNorm(ln) = norm else { continue };
            let stored = site.ty(c[1]).dtype;
            if !ln.affine || !site.is_loaded(n[1]) || !site.is_loaded(n[2]) || half != (stored != DType::F32) {
                if ln.affine && !half {
                    may_fold(site, root, c[1]);
                }
                continue;
            }
            let mut add = || {
                site.begin(root);
                let plain = site.add(ops::LayerNorm { eps: ln.eps, affine: false }, &[n[0]])?;
                let wide = if half { site.add(ops::Cast { to: DType::F32 }, &[c[1]])? } else { c[1] };
                let mut folded = site.binary(BinaryKind::Mul, wide, n[1])?;
                if half {
                    folded = site.add(ops::Cast { to: stored }, &[folded])?;
                }
                let bias = moved_bias(site, c[1], c.get(2).copied(), n[2])?;
                let result = site.add(ops::Linear::biased(), &[plain, folded, bias])?;
                site.replace(root, result);
                Some(())
            };
            add();
        }
    }
}

/// Operands of a commutative operation, either way round.
fn either(c: &[Id]) -> [(Id, Id); 2] {
    [(c[0], c[1]), (c[1], c[0])]
}

/// Whether a class is one number for each of `n` columns, known with the weights.
fn columns(site: &Site<'_>, id: Id, n: usize) -> bool {
    site.is_loaded(id)
        && site.ty(id).dtype == DType::F32
        && site.ty(id).elements() == n as u64
        && site.ty(id).last() == n
}

fn scale_before(site: &mut Site<'_>, root: Id) {
    for (l, c) in maps(site, root) {
        for (op, p) in site.ops(c[0]) {
            if !matches!(op, Op::Binary(b) if b.kind == BinaryKind::Mul) {
                continue;
            }
            for (x, s) in either(&p) {
                let k = site.ty(c[0]).last();
                if !columns(site, s, k) || site.ty(x) != site.ty(c[0]) || !may_fold(site, root, c[1]) {
                    continue;
                }
                let mut add = || {
                    site.begin(root);
                    let s = site.reshape(s, [k])?;
                    let folded = site.binary(BinaryKind::Mul, c[1], s)?;
                    let inputs: Vec<Id> = [x, folded].into_iter().chain(c.get(2).copied()).collect();
                    let result = site.add(l.clone(), &inputs)?;
                    site.replace(root, result);
                    Some(())
                };
                add();
            }
        }
    }
}

fn scale_after(site: &mut Site<'_>, root: Id) {
    for (op, p) in site.ops(root) {
        if !matches!(op, Op::Binary(b) if b.kind == BinaryKind::Mul) {
            continue;
        }
        for (y, s) in either(&p) {
            for (l, c) in maps(site, y) {
                let n = site.ty(y).last();
                if !columns(site, s, n) || site.ty(y) != site.ty(root) || !may_fold(site, root, c[1]) {
                    continue;
                }
                let mut add = || {
                    site.begin(root);
                    let rows = site.reshape(s, [n, 1])?;
                    let folded = site.binary(BinaryKind::Mul, c[1], rows)?;
                    let mut inputs = vec![c[0], folded];
                    if let Some(&b) = c.get(2) {
                        let s = site.reshape(s, [n])?;
                        inputs.push(site.binary(BinaryKind::Mul, b, s)?);
                    }
                    let result = site.add(l.clone(), &inputs)?;
                    site.replace(root, result);
                    Some(())
                };
                add();
            }
        }
    }
}

fn shift_after(site: &mut Site<'_>, root: Id) {
    for (op, p) in site.ops(root) {
        if !matches!(op, Op::Binary(b) if b.kind == BinaryKind::Add) {
            continue;
        }
        for (y, s) in either(&p) {
            for (_, c) in maps(site, y) {
                let n = site.ty(y).last();
                if !columns(site, s, n) || site.ty(y) != site.ty(root) {
                    continue;
                }
                let mut add = || {
                    site.begin(root);
                    let s = site.reshape(s, [n])?;
                    let bias = match c.get(2) {
                        Some(&b) => site.binary(BinaryKind::Add, b, s)?,
                        None => s,
                    };
                    let result = site.add(ops::Linear::biased(), &[c[0], c[1], bias])?;
                    site.replace(root, result);
                    Some(())
                };
                add();
            }
        }
    }
}

fn shift_before(site: &mut Site<'_>, root: Id) {
    for (_, c) in maps(site, root) {
        for source in site.through_reshape(c[0]) {
            for (op, p) in site.ops(source) {
                if !matches!(op, Op::Binary(b) if b.kind == BinaryKind::Add) {
                    continue;
                }
                for (x, s) in either(&p) {
                    let k = site.ty(c[0]).last();
                    // Heads side by side are columns too: `[.., H, D] + [H, D]`, read as `[.., H D]`.
                    let (whole, tail) = (site.shape(source), site.shape(s));
                    let fits = whole.ends_with(&tail) && site.ty(s).elements() == k as u64;
                    if !fits || !site.is_loaded(s) || site.ty(x) != site.ty(source) {
                        continue;
                    }
                    let mut add = || {
                        site.begin(root);
                        let flat = site.reshape(s, [k])?;
                        let bias = moved_bias(site, c[1], c.get(2).copied(), flat)?;
                        let x = site.reshape(x, site.shape(c[0]))?;
                        let result = site.add(ops::Linear::biased(), &[x, c[1], bias])?;
                        site.replace(root, result);
                        Some(())
                    };
                    add();
                }
            }
        }
    }
}

fn twice(site: &mut Site<'_>, root: Id) {
    for (_, outer) in maps(site, root) {
        for (_, inner) in maps(site, outer[0]) {
            if !may_fold(site, root, outer[1]) || !may_fold(site, root, inner[1]) {
                continue;
            }
            let mut add = || {
                site.begin(root);
                let product = site.add(ops::MatMul { transpose_b: false, out: None }, &[outer[1], inner[1]])?;
                let bias = match inner.get(2) {
                    Some(&a) => Some(moved_bias(site, outer[1], outer.get(2).copied(), a)?),
                    None => outer.get(2).copied(),
                };
                let op = if bias.is_some() { ops::Linear::biased() } else { ops::Linear::plain() };
                let inputs: Vec<Id> = [inner[0], product].into_iter().chain(bias).collect();
                let result = site.add(op, &inputs)?;
                site.replace(root, result);
                Some(())
            };
            add();
        }
    }
}
