//! Projections of one input as one product.

use ccl_ir::{Binding, DType, Op, ops};
use egg::Id;

use super::{Class, Rule};
use crate::algebra::site::Site;

pub(super) const RULES: &[Rule] = &[Rule {
    name: "merge projections",
    class: Class::Exact,
    law: "x W1ᵀ + b1, x W2ᵀ + b2, .. are columns of x [W1; W2; ..]ᵀ + [b1; b2; ..]: the input is read once",
    root: |_| true,
    find: merge,
}];

/// Most projections of one input that are merged.
const MOST: usize = 8;

/// A class that linear maps read: one rewrite for all of them, one for each neighbouring pair.
fn merge(site: &mut Site<'_>, x: Id) {
    if site.count_users(x, |op| matches!(op, Op::Linear(_))) < 2 {
        return;
    }
    for (bias, dtype) in [true, false].into_iter().flat_map(|b| [DType::F32, DType::F16, DType::Bf16].map(|d| (b, d))) {
        let fits = |site: &Site<'_>, op: &Op, c: &[Id]| {
            let Op::Linear(l) = op else { return false };
            let loaded = c[1..].iter().all(|&w| site.is_loaded(w));
            l.bias == bias && l.epilogue.is_none() && l.out.is_none() && loaded && site.ty(c[1]).dtype == dtype
        };
        let mut maps: Vec<(u32, Id, Vec<Id>)> = Vec::new();
        for (id, op, c) in site.users(x) {
            // Merged ones, and those of slices, do not merge again.
            let original = !c[1..].iter().any(|&w| site.ops(w).iter().any(|(op, _)| matches!(op, Op::Concat(_))));
            let known = maps.iter().any(|(_, other, d)| *d == c || site.same(*other, id));
            if site.same(c[0], x) && fits(site, &op, &c) && original && !known {
                maps.push((site.facts(id).origin, id, c));
            }
        }
        maps.sort_by_key(|(origin, ..)| *origin);
        maps.truncate(MOST);
        if maps.len() < 2 {
            continue;
        }
        if site.facts(x).binding == Binding::Load {
            site.refuse(maps[0].1, "the input is known with the weights: the products run once per model");
            continue;
        }
        let all: Vec<(Id, Vec<Id>)> = maps.into_iter().map(|(_, id, c)| (id, c)).collect();
        together(site, x, bias, &all);
        if all.len() > 2 {
            all.windows(2).for_each(|pair| {
                together(site, x, bias, pair);
            });
        }
    }
}

fn together(site: &mut Site<'_>, x: Id, bias: bool, maps: &[(Id, Vec<Id>)]) -> Option<()> {
    let root = maps[0].0;
    site.begin(root);
    let part = |i: usize| maps.iter().map(move |(_, c)| c[i]).collect::<Vec<Id>>();
    let mut inputs = vec![x, site.add(ops::Concat { axis: 0 }, &part(1))?];
    if bias {
        inputs.push(site.add(ops::Concat { axis: 0 }, &part(2))?);
    }
    let product = site.add(if bias { ops::Linear::biased() } else { ops::Linear::plain() }, &inputs)?;
    let axis = site.ty(product).rank() - 1;
    let kept: u64 = maps.iter().map(|(_, c)| site.ty(c[1]).bytes()).sum();
    site.say(format!("{} projections, {kept} bytes of weights side by side", maps.len()));
    let mut start = 0;
    for (id, _) in maps {
        let len = site.ty(*id).last();
        let columns = site.slice(product, axis, start, len)?;
        site.equate(*id, columns);
        start += len;
    }
    site.found(root);
    Some(())
}
