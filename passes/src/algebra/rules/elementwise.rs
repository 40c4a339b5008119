//! Chains of scales and shifts.

use ccl_ir::Op;
use ccl_ir::ops::{self, BinaryKind};
use egg::Id;

use super::{Class, Rule};
use crate::algebra::site::Site;

fn is(op: &Op, kind: BinaryKind) -> bool {
    matches!(op, Op::Binary(b) if b.kind == kind)
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "scale chain",
        class: Class::Reassociating,
        law: "(x a) b = x (a b) where a b is smaller than x or known earlier",
        root: |op| is(op, BinaryKind::Mul),
        find: |site, root| chain(site, root, BinaryKind::Mul),
    },
    Rule {
        name: "shift chain",
        class: Class::Reassociating,
        law: "(x + a) + b = x + (a + b) where a + b is smaller than x or known earlier",
        root: |op| is(op, BinaryKind::Add),
        find: |site, root| chain(site, root, BinaryKind::Add),
    },
    Rule {
        name: "common scale",
        class: Class::Reassociating,
        law: "x a + y a = (x + y) a",
        root: |op| is(op, BinaryKind::Add),
        find: common_scale,
    },
    Rule {
        name: "times zero",
        class: Class::Exact,
        law: "x 0 = 0 for x that is known to be finite",
        root: |op| is(op, BinaryKind::Mul),
        find: times_zero,
    },
    Rule {
        name: "neutral operand",
        class: Class::Exact,
        law: "x + 0 = x, x - 0 = x, x 1 = x",
        root: |op| matches!(op, Op::Binary(_)),
        find: neutral,
    },
];

/// Operands of a binary operator of a class.
fn operands(site: &Site<'_>, id: Id, kind: BinaryKind) -> Vec<[Id; 2]> {
    site.ops(id).into_iter().filter(|(op, _)| is(op, kind)).map(|(_, c)| [c[0], c[1]]).collect()
}

fn either([a, b]: [Id; 2]) -> [(Id, Id); 2] {
    [(a, b), (b, a)]
}

fn chain(site: &mut Site<'_>, root: Id, kind: BinaryKind) {
    for outer in operands(site, root, kind) {
        for (inner, b) in either(outer) {
            for pair in operands(site, inner, kind) {
                for (x, a) in either(pair) {
                    let (fx, fa, fb) = (site.facts(x), site.facts(a), site.facts(b));
                    let elements = fx.types[0].elements();
                    let smaller = fa.types[0].elements() < elements && fb.types[0].elements() < elements;
                    let earlier = fa.binding < fx.binding && fb.binding < fx.binding;
                    if !smaller && !earlier {
                        continue;
                    }
                    let mut add = || {
                        site.begin(root);
                        let both = site.binary(kind, a, b)?;
                        let result = site.binary(kind, x, both)?;
                        site.replace(root, result);
                        Some(())
                    };
                    add();
                }
            }
        }
    }
}

fn common_scale(site: &mut Site<'_>, root: Id) {
    for [left, right] in operands(site, root, BinaryKind::Add) {
        for l in operands(site, left, BinaryKind::Mul) {
            for r in operands(site, right, BinaryKind::Mul) {
                for ((x, a), (y, b)) in either(l).into_iter().flat_map(|l| either(r).map(|r| (l, r))) {
                    if !site.same(a, b) || site.ty(x) != site.ty(y) {
                        continue;
                    }
                    let mut add = || {
                        site.begin(root);
                        let sum = site.binary(BinaryKind::Add, x, y)?;
                        let result = site.binary(BinaryKind::Mul, sum, a)?;
                        site.replace(root, result);
                        Some(())
                    };
                    add();
                }
            }
        }
    }
}

fn times_zero(site: &mut Site<'_>, root: Id) {
    for pair in operands(site, root, BinaryKind::Mul) {
        for (x, zero) in either(pair) {
            if site.facts(zero).constant != Some(0.0) {
                continue;
            }
            if site.facts(x).bound.is_none() {
                site.refuse(root, "the other factor is not known to be finite");
                continue;
            }
            site.begin(root);
            let ty = site.ty(root).clone();
            if let Some(result) = site.add(ops::Constant { ty, value: 0.0 }, &[]) {
                site.replace(root, result);
            }
        }
    }
}

fn neutral(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Binary(b) = op else { continue };
        let neutral = if b.kind == BinaryKind::Mul { 1.0 } else { 0.0 };
        let pairs = either([c[0], c[1]]);
        let ways = if b.kind == BinaryKind::Sub { &pairs[..1] } else { &pairs[..] };
        for &(x, n) in ways {
            if site.facts(n).constant == Some(neutral) {
                site.begin(root);
                site.replace(root, x);
            }
        }
    }
}
