//! What the backward pass of a choice costs, and what it may not change.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::ops::{Binary, BinaryKind};
use ccl_ir::{Binding, Op, TensorType, Work};
use egg::Id;

use super::super::language::{Kind, Region, Term};
use super::super::region::Plain;
use super::{Choice, Node, Prices, Total, Unpriced};

/// Class and term, and which operands want a gradient.
type Key = (usize, usize, Vec<bool>);

/// Where gradients flow through a region; nowhere if it is not differentiated.
pub(super) struct Gradients {
    /// Classes from outside that want a gradient.
    wanted: BTreeSet<usize>,
    /// Outputs that get one.
    reached: BTreeSet<usize>,
    /// Which values from outside get one, by position.
    learnt: Vec<bool>,
    /// Backward passes priced so far; `None` where a term's operator has no rule.
    known: RefCell<BTreeMap<Key, Option<(u64, Work)>>>,
}

impl Gradients {
    /// Of a region's outputs, by class, and of its values from outside; `at` gives the class of a term.
    pub fn new(region: &Region, plain: &Plain, outputs: &[usize], at: impl Fn(Id) -> usize) -> Self {
        let leaf = |(n, _): (usize, &bool)| region.lookup(Term { kind: Kind::Leaf(n as u32), children: Vec::new() });
        Self {
            wanted: plain.wanted.iter().enumerate().filter(|(_, w)| **w).filter_map(leaf).map(at).collect(),
            reached: plain.reached.iter().zip(outputs).filter(|(r, _)| **r).map(|(_, &o)| o).collect(),
            learnt: plain.learnt(),
            known: RefCell::default(),
        }
    }
}

impl Prices<'_> {
    /// Adds what the backward pass of a choice costs: that of every term which a gradient goes through, and the sums of gradients of what is
    /// read more than once.
    pub(super) fn add_backward(&self, choice: &Choice, order: &[usize], total: &mut Total) -> Result<(), Unpriced> {
        if self.gradients.wanted.is_empty() {
            return if self.gradients.learnt.contains(&true) { Err(Unpriced::Learns) } else { Ok(()) };
        }
        let mut wanted = vec![false; self.classes.len()];
        let chosen = |class: usize| &self.classes[class].nodes[choice[class]];
        // Whether a gradient passes to each operand of a term.
        let passes = |wanted: &[bool], node: &Node, i: usize| {
            wanted[node.children[i]] && self.op(node).is_none_or(|op| op.differentiable(i))
        };
        for &class in order {
            let node = chosen(class);
            let below = (0..node.children.len()).any(|i| passes(&wanted, node, i));
            wanted[class] = below || self.gradients.wanted.contains(&class);
        }
        // Gradients that meet at a class.
        let mut gradients = vec![0u64; self.classes.len()];
        self.gradients.reached.iter().filter(|&&class| wanted[class]).for_each(|&class| gradients[class] = 1);
        for &class in order.iter().rev().filter(|&&class| wanted[class]) {
            if gradients[class] == 0 {
                continue;
            }
            let (node, ty) = (chosen(class), &self.classes[class].types[0]);
            let add = Op::from(Binary { kind: BinaryKind::Add });
            let more = gradients[class] - 1;
            let sum = self.model.picoseconds(&add, &[ty, ty], std::slice::from_ref(ty));
            total.cost += u128::from(more * sum) * self.weight(Binding::Step);
            total.work = total.work + Work { flops: 0, bytes: more * 3 * ty.bytes() };
            if let Kind::Port(p) = node.term.kind
                && p > 0
            {
                return Err(Unpriced::NoGradient("a result other than the first"));
            }
            let mask: Vec<bool> = (0..node.children.len()).map(|i| passes(&wanted, node, i)).collect();
            node.children.iter().zip(&mask).filter(|(_, m)| **m).for_each(|(&c, _)| gradients[c] += 1);
            let Some(op) = self.op(node).filter(|_| mask.contains(&true)) else { continue };
            let key = (class, choice[class], mask);
            let known = self.gradients.known.borrow().get(&key).copied();
            let price = known.unwrap_or_else(|| {
                let inputs: Vec<&TensorType> = node.children.iter().map(|&c| &self.classes[c].types[0]).collect();
                let price = self.model.backward(op, &inputs, &key.2);
                self.gradients.known.borrow_mut().insert(key, price);
                price
            });
            let (picoseconds, work) = price.ok_or(Unpriced::NoGradient(op.name()))?;
            total.cost += u128::from(picoseconds) * self.weight(Binding::Step);
            total.work = total.work + work;
        }
        // A sum of nothing is a gradient too: an optimiser would see it.
        let mut learnt = vec![false; self.gradients.learnt.len()];
        for &class in order {
            if let Kind::Leaf(n) = chosen(class).term.kind {
                learnt[n as usize] = gradients[class] > 0;
            }
        }
        if learnt == self.gradients.learnt { Ok(()) } else { Err(Unpriced::Learns) }
    }
}
