//! Projections that go into, or come out of, an attention over few keys.

use ccl_ir::ops::{self, BinaryKind};
use ccl_ir::{Op, Partition};
use egg::Id;

use super::{Class, Rule};
use crate::algebra::site::Site;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "absorb output",
        class: Class::Reassociating,
        law: "concat_h(P_h V_h) Wᵀ + b = Σ_h P_h (V_h W_hᵀ) + b, with W_h the columns of head h: fewer products where \
              keys x heads are below the width",
        root: |op| matches!(op, Op::Linear(_)),
        find: absorb_output,
    },
    Rule {
        name: "project after attention",
        class: Class::Reassociating,
        law: "P [y Wᵀ + b; c] = (P_y y) Wᵀ + P_c (c - b) + b, because the weights P = [P_y, P_c] of a query sum to 1: fewer \
              products where there are more keys than pairs of a query and a head",
        root: |op| matches!(op, Op::PartitionedContextAttention(_)),
        find: project_after,
    },
    Rule {
        name: "bias through attention",
        class: Class::Reassociating,
        law: "P (v + b) = P v + b, because the weights of a query sum to 1",
        root: |op| matches!(op, Op::Attention(_)),
        find: bias_through,
    },
];

/// An attention over context tokens and perhaps a window, of queries `[B, Lq, H, D]`.
struct Seen {
    partition: Option<Partition>,
    q: Id,
    /// Keys and values of the window.
    window: Option<[Id; 2]>,
    /// Keys and values of the context, `[n, H, D]`.
    context: [Id; 2],
}

/// The attention whose result a class is.
fn attention(site: &Site<'_>, id: Id) -> Vec<Seen> {
    let mut out = Vec::new();
    for (op, c) in site.first_output_of(id) {
        match op {
            Op::PartitionedContextAttention(p) if p.splits == 1 => out.push(Seen {
                partition: Some(p.partition),
                q: c[0],
                window: Some([c[1], c[2]]),
                context: [c[3], c[4]],
            }),
            Op::Attention(a) if !a.masked && !a.counted && site.ty(c[0]).rank() == 4 => {
                for k in shared_tokens(site, c[1]) {
                    for v in shared_tokens(site, c[2]) {
                        out.push(Seen { partition: None, q: c[0], window: None, context: [k, v] });
                    }
                }
            }
            _ => {}
        }
    }
    out
}

/// Tokens `[n, H, D]` that every batch entry sees as `[B, n, H, D]`.
fn shared_tokens(site: &Site<'_>, id: Id) -> Vec<Id> {
    let tokens = |(op, c): (Op, Vec<Id>)| {
        let shared = matches!(op, Op::Expand(_)) && site.ty(c[0]).shape[..] == site.ty(id).shape[1..];
        shared.then(|| c[0])
    };
    site.ops(id).into_iter().filter_map(tokens).collect()
}

fn absorb_output(site: &mut Site<'_>, root: Id) {
    for (op, c) in site.ops(root) {
        let Op::Linear(l) = op else { continue };
        if l.epilogue.is_some() || l.out.is_some() {
            continue;
        }
        for joined in site.through_reshape(c[0]) {
            for seen in attention(site, joined) {
                absorb(site, root, &l, &c, &seen);
            }
        }
    }
}

fn absorb(site: &mut Site<'_>, root: Id, l: &ops::Linear, c: &[Id], seen: &Seen) -> Option<()> {
    let &[batch, lq, heads, dim] = site.shape(seen.q).as_slice() else { return None };
    let (w, bias) = (c[1], c.get(2).copied());
    let width = site.shape(w)[0];
    if site.shape(c[0]) != [batch, lq, heads * dim] {
        return None;
    }
    if !site.is_loaded(w) || !site.is_loaded(seen.context[1]) {
        site.refuse(root, "the projection or the context changes with the clip");
        return None;
    }
    let n = site.shape(seen.context[0])[0];
    let s = seen.partition.map_or(0, |p| p.widest());
    site.begin(root);
    let below = if (n + s) * heads < width { "below" } else { "not below" };
    site.say(format!("{} keys x {heads} heads are {below} the width {width}", n + s));
    let p = probabilities(site, seen)?;
    // W [d, H D] to [H, d, D].
    let by_head = site.reshape(w, [width, heads, dim])?;
    let by_head = site.transpose(by_head, &[1, 0, 2])?;
    // Context values through the projection, as the weight of a linear map of n H inputs: known with the weights.
    let values = site.transpose(seen.context[1], &[1, 0, 2])?;
    let absorbed = site.add(ops::MatMul { transpose_b: true, out: None }, &[values, by_head])?;
    let absorbed = site.transpose(absorbed, &[2, 1, 0])?;
    let absorbed = site.reshape(absorbed, [width, n * heads])?;
    let of_context = site.slice(p, 2, 0, n)?;
    let of_context = site.reshape(of_context, [batch, lq, n * heads])?;
    let inputs: Vec<Id> = [of_context, absorbed].into_iter().chain(bias).collect();
    let mut result = site.add(l.clone(), &inputs)?;
    if let (Some(partition), Some([_, v])) = (seen.partition, seen.window)
        && s > 0
    {
        let lk = site.shape(v)[1];
        let values = site.reshape(v, [batch * lk, heads, dim])?;
        let values = site.transpose(values, &[1, 0, 2])?;
        let wide = site.add(ops::MatMul { transpose_b: true, out: None }, &[values, by_head])?;
        let wide = site.transpose(wide, &[1, 0, 2])?;
        let wide = site.reshape(wide, [batch, lk, heads, width])?;
        let of_window = site.slice(p, 2, n, s)?;
        let of_window = site.reshape(of_window, [batch, lq, 1, s * heads])?;
        let mixed = site.add(ops::WindowMix { partition }, &[of_window, wide])?;
        let mixed = site.reshape(mixed, [batch, lq, width])?;
        result = site.binary(BinaryKind::Add, result, mixed)?;
    }
    site.replace(root, result);
    Some(())
}

fn probabilities(site: &mut Site<'_>, seen: &Seen) -> Option<Id> {
    let keys = seen.window.map(|[k, _]| k);
    let inputs: Vec<Id> = [seen.q, seen.context[0]].into_iter().chain(keys).collect();
    site.add(ops::ContextProbabilities { partition: seen.partition }, &inputs)
}

fn project_after(site: &mut Site<'_>, whole: Id) {
    // The rule's root is the operator; what is rewritten is its first output.
    for root in site.ports(whole, 0) {
        for seen in attention(site, root) {
            let Some([_, v]) = seen.window else { continue };
            for joined in site.through_reshape(v) {
                for (op, c) in site.ops(joined) {
                    if let Op::Linear(l) = op
                        && l.epilogue.is_none()
                        && l.out.is_none()
                    {
                        project(site, root, &c, &seen);
                    }
                }
            }
        }
    }
}

fn project(site: &mut Site<'_>, root: Id, c: &[Id], seen: &Seen) -> Option<()> {
    let &[batch, lq, heads, dim] = site.shape(seen.q).as_slice() else { return None };
    let (partition, [_, v]) = (seen.partition?, seen.window?);
    let (y, w, bias) = (c[0], c[1], c.get(2).copied());
    let (lk, n, s) = (site.shape(v)[1], site.shape(seen.context[0])[0], partition.widest());
    let inner = site.shape(w)[1];
    if site.shape(y) != [batch, lk, inner] || s == 0 {
        return None;
    }
    let context = seen.context[1];
    if !site.is_loaded(w) || bias.is_some_and(|b| !site.is_loaded(b)) || !site.is_loaded(context) {
        site.refuse(root, "the projection or the context changes with the clip");
        return None;
    }
    site.begin(root);
    let (pairs, tokens) = (partition.pairs() * heads as u64, (lk * heads * dim) as u64);
    site.say(format!("{pairs} pairs of a query, a key and a head, {tokens} values to project"));
    let p = probabilities(site, seen)?;
    // What each head sees of the window, before any projection: [H, B Lq, inner].
    let of_window = site.slice(p, 2, n, s)?;
    let of_window = site.transpose(of_window, &[0, 1, 3, 2])?;
    let tokens = site.reshape(y, [batch, lk, 1, inner])?;
    let mixed = site.add(ops::WindowMix { partition }, &[of_window, tokens])?;
    let mixed = site.reshape(mixed, [batch * lq, heads, inner])?;
    let mixed = site.transpose(mixed, &[1, 0, 2])?;
    let by_head = site.reshape(w, [heads, dim, inner])?;
    let projected = site.add(ops::MatMul { transpose_b: true, out: None }, &[mixed, by_head])?;
    // The context has no bias to share.
    let bias = match bias {
        Some(b) => Some(site.reshape(b, [heads, dim])?),
        None => None,
    };
    let own = match bias {
        Some(b) => site.binary(BinaryKind::Sub, context, b)?,
        None => context,
    };
    let own = site.transpose(own, &[1, 0, 2])?;
    let of_context = site.slice(p, 2, 0, n)?;
    let of_context = site.reshape(of_context, [batch * lq, n, heads])?;
    let of_context = site.transpose(of_context, &[2, 0, 1])?;
    let from_context = site.add(ops::MatMul { transpose_b: false, out: None }, &[of_context, own])?;
    let sum = site.binary(BinaryKind::Add, projected, from_context)?;
    let sum = site.transpose(sum, &[1, 0, 2])?;
    let mut result = site.reshape(sum, [batch, lq, heads, dim])?;
    if let Some(b) = bias {
        result = site.binary(BinaryKind::Add, result, b)?;
    }
    site.replace(root, result);
    Some(())
}

fn bias_through(site: &mut Site<'_>, whole: Id) {
    for root in site.ports(whole, 0) {
        for (op, c) in site.first_output_of(root) {
            if matches!(op, Op::Attention(_)) {
                for values in site.through_reshape(c[2]) {
                    pull_bias(site, root, &op, &c, values);
                }
            }
        }
    }
}

fn pull_bias(site: &mut Site<'_>, root: Id, op: &Op, c: &[Id], values: Id) -> Option<()> {
    let shape = site.shape(c[2]);
    let [heads, dim] = [shape[shape.len() - 2], shape[shape.len() - 1]];
    for (linear, inputs) in site.ops(values) {
        let Op::Linear(l) = linear else { continue };
        if !l.bias || l.epilogue.is_some() || l.out.is_some() || site.shape(inputs[2]) != [heads * dim] {
            continue;
        }
        site.begin(root);
        let plain = site.add(ops::Linear::plain(), &inputs[..2])?;
        let plain = site.reshape(plain, shape.clone())?;
        let mut operands = c.to_vec();
        operands[2] = plain;
        let whole = site.add(op.clone(), &operands)?;
        let first = site.port(whole, 0);
        let bias = site.reshape(inputs[2], [heads, dim])?;
        let result = site.binary(BinaryKind::Add, first, bias)?;
        site.replace(root, result);
    }
    Some(())
}
