//! Values seen in another way: views, repetitions and casts that turn a value of one type into one of another.

use super::grow::{Grower, Grown};
use crate::graph::Value;
use crate::ops::{Cast, Concat, Copy, Expand, Reshape, Slice, Transpose};
use crate::types::{TensorType, broadcast};

/// The value as one of another type. `None` where that takes too much.
pub(super) fn to_type(g: &mut Grower<'_>, v: Value, ty: &TensorType) -> Grown {
    let shaped = to_shape(g, v, &ty.shape)?;
    if g.graph.ty(shaped).dtype == ty.dtype { Some(shaped) } else { g.add(Cast { to: ty.dtype }, &[shaped]) }
}

fn to_shape(g: &mut Grower<'_>, v: Value, shape: &[usize]) -> Grown {
    let from = g.graph.ty(v).clone();
    let (have, want) = (from.elements() as usize, shape.iter().product::<usize>());
    if from.shape == shape {
        return Some(v);
    }
    if want == 0 || have == 0 {
        return None;
    }
    if from.rank() == shape.len() && sorted(&from.shape) == sorted(shape) {
        return g.add(Transpose { perm: permutation(&from.shape, shape) }, &[v]);
    }
    if have == want {
        return g.add(Reshape { shape: shape.into() }, &[v]);
    }
    if from.rank() == shape.len() && from.shape.iter().zip(shape).all(|(a, b)| a >= b) {
        // A box inside of it.
        let mut part = v;
        for (axis, (&n, &len)) in from.shape.iter().zip(shape).enumerate().filter(|(_, (n, len))| n != len) {
            let start = g.dice.below(n - len + 1);
            part = g.add(Slice { axis, start, len }, &[part])?;
        }
        return Some(part);
    }
    if have < want {
        if broadcast(&from.shape, shape).as_deref() == Some(shape) {
            return g.add(Expand { shape: shape.into() }, &[v]);
        }
        if want.div_ceil(have) > 4 {
            return None;
        }
    }
    // A run of it, or of several of it one after the other.
    let mut run = g.add(Reshape { shape: vec![have] }, &[v])?;
    let mut length = have;
    if have < want {
        let copies = want.div_ceil(have);
        run = g.add(Concat { axis: 0 }, &vec![run; copies])?;
        length = copies * have;
    }
    if length > want {
        let start = g.dice.below(length - want + 1);
        run = g.add(Slice { axis: 0, start, len: want }, &[run])?;
    }
    g.add(Reshape { shape: shape.into() }, &[run])
}

fn sorted(shape: &[usize]) -> Vec<usize> {
    let mut sorted = shape.to_vec();
    sorted.sort_unstable();
    sorted
}

/// Which dimension of `from` each dimension of `to` is, the last ones first, so that equal sizes change places.
fn permutation(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..from.len()).collect();
    let mut perm = Vec::new();
    for n in to {
        if let Some(at) = left.iter().rposition(|&axis| from[axis] == *n) {
            perm.push(left.remove(at));
        }
    }
    perm
}

/// Any view of a value, or a copy.
pub(super) fn any_view(g: &mut Grower<'_>, v: Value) -> Grown {
    let ty = g.graph.ty(v).clone();
    let rank = ty.rank();
    match g.dice.below(5) {
        0 if rank > 1 => {
            let mut left: Vec<usize> = (0..rank).collect();
            let perm = (0..rank).map(|_| left.remove(g.dice.below(left.len()))).collect();
            g.add(Transpose { perm }, &[v])
        }
        1 if rank > 0 => {
            let axis = g.dice.below(rank);
            let len = 1 + g.dice.below(ty.shape[axis].max(1));
            let start = g.dice.below(ty.shape[axis].saturating_sub(len) + 1);
            g.add(Slice { axis, start, len }, &[v])
        }
        2 => {
            // Another dimension in front, or repetition of those of size 1.
            let mut shape = ty.shape.clone();
            let repeats = shape.iter().any(|&n| n == 1);
            shape.iter_mut().filter(|n| **n == 1).for_each(|n| *n = 2);
            if !repeats {
                shape.insert(0, 2);
            }
            g.add(Expand { shape }, &[v])
        }
        3 => {
            let mut shape = ty.shape.clone();
            match (g.dice.below(3), rank) {
                // Two neighbours joined, one cut in two, or one of size 1 more.
                (0, 2..) => {
                    let axis = g.dice.below(rank - 1);
                    shape[axis] *= shape.remove(axis + 1);
                }
                (1, 1..) => {
                    let axis = g.dice.below(rank);
                    let n = shape[axis];
                    let parts = (2..=n).find(|p| n.is_multiple_of(*p)).unwrap_or(1);
                    shape[axis] = parts;
                    shape.insert(axis + 1, n / parts);
                }
                _ => shape.insert(g.dice.below(rank + 1), 1),
            }
            g.add(Reshape { shape }, &[v])
        }
        _ => g.add(Copy {}, &[v]),
    }
}
