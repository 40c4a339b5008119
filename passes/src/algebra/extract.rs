//! Extraction by the cost of the DAG: a shared term counts once.
//!
//! The cheapest choice is hard to find (and egg's own extractor, which counts a shared term once for every path to it, is far off on
//! residual chains), so this one searches: it starts from the region as it was and from a bottom-up guess, then tries the rewrites one
//! by one. Every candidate is priced as a whole. What comes out never costs more than what went in.

mod backward;

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::{Binding, Op, TensorType, Work};
use egg::Id;

use self::backward::Gradients;
use super::language::{Kind, Move, Region, Term};
use super::region::Plain;
use crate::cost::{CostModel, Lie, SCALE, counted, lie_of_view, wants_copy};
use crate::layout::is_view;

/// Rounds over all rewrites.
const ROUNDS: usize = 6;
/// Rewrites up to which pairs are tried too: one may pay only after another that does not pay by itself.
const PAIRS: usize = 40;
/// Keeping a byte from one step to the next costs a fourth of moving it: memory is not free.
const KEEP: f64 = 0.25;

/// A term with what pricing needs.
struct Node {
    term: Term,
    children: Vec<usize>,
    picoseconds: u64,
    work: Work,
}

/// A class of the e-graph.
struct Class {
    nodes: Vec<Node>,
    types: Vec<TensorType>,
    /// The earliest moment at which it may be known.
    binding: Binding,
}

/// A saturated region, ready to be priced.
pub(super) struct Prices<'a> {
    region: &'a Region,
    classes: Vec<Class>,
    /// Canonical id of each class, and the other way round.
    ids: Vec<Id>,
    index: BTreeMap<Id, usize>,
    outputs: Vec<usize>,
    model: &'a CostModel,
    /// Most bytes that may be kept of what is computed once per model.
    budget: u64,
    /// Whether parameters change with every step.
    learns: bool,
    /// Where gradients flow.
    gradients: Gradients,
}

/// A term for each class.
pub(super) type Choice = Vec<usize>;

/// What a choice costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    /// In parts of a picosecond a step.
    pub cost: u128,
    /// Work in each step and once per clip.
    pub work: Work,
    /// Bytes kept of what is computed once per model.
    pub kept: u64,
}

/// Why a choice has no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpriced {
    /// A term would need its own result.
    Cycle,
    /// It would keep this many bytes, more than the budget.
    Kept(u64),
    /// A gradient would have to go through an operator that has no rule for it.
    NoGradient(&'static str),
    /// Gradients would go to other values from outside: what is not learnt would be, or the other way round.
    Learns,
}

impl<'a> Prices<'a> {
    /// Prices every term of a region; `outputs` are read from outside.
    pub fn new(region: &'a Region, plain: &Plain, outputs: &[Id], model: &'a CostModel, budget: u64) -> Self {
        let mut ids: Vec<Id> = region.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        let index: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let at = |id: Id| index[&region.find(id)];
        let class = |&id: &Id| {
            let facts = &region[id].data;
            let node = |term: &Term| {
                let children: Vec<usize> = term.children.iter().map(|&c| at(c)).collect();
                let (mut picoseconds, mut work) = (0, Work::default());
                if let Kind::Op(n) = term.kind {
                    let op = &region.analysis.ops[n as usize];
                    let inputs: Vec<&TensorType> = term.children.iter().map(|&c| &region[c].data.types[0]).collect();
                    picoseconds = model.picoseconds(op, &inputs, &facts.types);
                    if !is_view(op) {
                        work = op.work(&inputs, &facts.types);
                    }
                }
                Node { term: term.clone(), children, picoseconds, work }
            };
            let nodes = region[id].nodes.iter().map(node).collect();
            Class { nodes, types: facts.types.clone(), binding: facts.binding }
        };
        let classes = ids.iter().map(class).collect();
        let outputs: Vec<usize> = outputs.iter().map(|&id| at(id)).collect();
        let gradients = Gradients::new(region, plain, &outputs, at);
        Self { region, classes, ids, index, outputs, model, budget, learns: plain.learns, gradients }
    }

    /// What a picosecond at a moment costs, as [`CostModel::weight`] says; where parameters change with every step, all work is a step's.
    fn weight(&self, binding: Binding) -> u128 {
        u128::from(CostModel::weight(if self.learns { Binding::Step } else { binding }))
    }

    /// Work that counts.
    fn counted(&self, work: Work, binding: Binding) -> Work {
        if self.learns { work } else { counted(work, binding) }
    }

    fn class(&self, id: Id) -> usize {
        self.index[&self.region.find(id)]
    }

    fn op(&self, node: &Node) -> Option<&'a Op> {
        match node.term.kind {
            Kind::Op(n) => Some(&self.region.analysis.ops[n as usize]),
            _ => None,
        }
    }

    /// The choice that takes these terms where it can, earlier ones first.
    pub fn original(&self, terms: &[(Id, Term)]) -> Choice {
        let mut choice = vec![usize::MAX; self.classes.len()];
        for (id, term) in terms {
            let class = self.class(*id);
            if choice[class] == usize::MAX
                && let Some(n) = self.position(class, term)
            {
                choice[class] = n;
            }
        }
        // Classes that only rules made.
        choice.iter_mut().filter(|c| **c == usize::MAX).for_each(|c| *c = 0);
        choice
    }

    fn position(&self, class: usize, term: &Term) -> Option<usize> {
        let term = self.canonical(term);
        self.classes[class].nodes.iter().position(|n| n.term == term)
    }

    fn canonical(&self, term: &Term) -> Term {
        let children = term.children.iter().map(|&c| self.region.find(c)).collect();
        Term { kind: term.kind, children }
    }

    /// The choice with a rewrite applied.
    pub fn with(&self, choice: &Choice, found: &Move) -> Choice {
        let mut out = choice.clone();
        for (id, term) in &found.picks {
            let class = self.class(*id);
            if let Some(n) = self.position(class, term) {
                out[class] = n;
            }
        }
        out
    }

    /// Positions of the rewrites that a choice uses: those which were the first to add one of its terms, and those which only found two
    /// values to be one. `original` terms were there before any rewrite.
    pub fn used(&self, choice: &Choice, original: &[(Id, Term)], moves: &[Move]) -> Vec<usize> {
        let Ok(order) = self.order(choice) else { return Vec::new() };
        let mut fresh: BTreeSet<(usize, usize)> = order.iter().map(|&c| (c, choice[c])).collect();
        for (id, term) in original {
            let class = self.class(*id);
            if let Some(n) = self.position(class, term) {
                fresh.remove(&(class, n));
            }
        }
        let mut used = Vec::new();
        for (i, found) in moves.iter().enumerate() {
            let mut own = found.picks.is_empty() && order.contains(&self.class(found.root));
            for (id, term) in &found.picks {
                let class = self.class(*id);
                own |= self.position(class, term).is_some_and(|n| fresh.remove(&(class, n)));
            }
            if own {
                used.push(i);
            }
        }
        used
    }

    /// Classes that a choice computes, operands first.
    ///
    /// # Errors
    /// When a term needs its own result.
    pub fn order(&self, choice: &Choice) -> Result<Vec<usize>, Unpriced> {
        let mut state = vec![0u8; self.classes.len()];
        let mut order = Vec::with_capacity(self.classes.len());
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for &output in &self.outputs {
            if state[output] == 0 {
                state[output] = 1;
                stack.push((output, 0));
            }
            while let Some((class, next)) = stack.last_mut() {
                let children = &self.classes[*class].nodes[choice[*class]].children;
                match children.get(*next) {
                    Some(&child) => {
                        *next += 1;
                        match state[child] {
                            0 => {
                                state[child] = 1;
                                stack.push((child, 0));
                            }
                            1 => return Err(Unpriced::Cycle),
                            _ => {}
                        }
                    }
                    None => {
                        state[*class] = 2;
                        order.push(*class);
                        stack.pop();
                    }
                }
            }
        }
        Ok(order)
    }

    /// What a choice costs.
    ///
    /// # Errors
    /// When a term needs its own result, or more than the budget would be kept.
    pub fn price(&self, choice: &Choice) -> Result<Total, Unpriced> {
        let mut total = Total::default();
        let mut bindings = vec![Binding::Load; self.classes.len()];
        let mut lies = vec![Lie::Dense; self.classes.len()];
        // The class that stores what a view shows.
        let mut bases: Vec<usize> = (0..self.classes.len()).collect();
        let mut kept = vec![false; self.classes.len()];
        let order = self.order(choice)?;
        for &class in &order {
            let node = &self.classes[class].nodes[choice[class]];
            let of_children = node.children.iter().map(|&c| bindings[c]).fold(Binding::Load, Binding::max);
            let binding = match node.term.kind {
                Kind::Leaf(_) => self.classes[class].binding,
                _ => of_children,
            };
            bindings[class] = binding;
            if matches!(node.term.kind, Kind::Port(_)) {
                bases[class] = bases[node.children[0]];
            }
            let Some(op) = self.op(node) else { continue };
            if is_view(op) {
                let source = node.children[0];
                lies[class] = lie_of_view(op, &self.classes[source].types[0], lies[source]);
                bases[class] = bases[source];
                continue;
            }
            total.cost += u128::from(node.picoseconds) * self.weight(binding);
            total.work = total.work + self.counted(node.work, binding);
            for (i, &child) in node.children.iter().enumerate() {
                let mut base = bases[child];
                if wants_copy(op, i, lies[child]) {
                    let ty = &self.classes[child].types[0];
                    total.cost += u128::from(self.model.copy(ty)) * self.weight(bindings[child]);
                    total.work = total.work + self.counted(Work { flops: 0, bytes: 2 * ty.bytes() }, bindings[child]);
                    // The copy is kept in its source's place.
                    if bindings[child] == Binding::Load && binding != Binding::Load {
                        total.kept += ty.bytes();
                        base = usize::MAX;
                    }
                }
                if binding != Binding::Load && base != usize::MAX && bindings[base] == Binding::Load {
                    let computed = self.op(&self.classes[base].nodes[choice[base]]);
                    kept[base] |= computed.is_some_and(|op| !matches!(op, Op::Constant(_)));
                }
            }
        }
        self.add_backward(choice, &order, &mut total)?;
        if self.learns {
            // Nothing outlives a step.
            return Ok(Total { kept: 0, ..total });
        }
        let bytes = |class: usize| self.classes[class].types.iter().map(TensorType::bytes).sum::<u64>();
        total.kept += kept.iter().enumerate().filter(|(_, k)| **k).map(|(c, _)| bytes(c)).sum::<u64>();
        if total.kept > self.budget {
            return Err(Unpriced::Kept(total.kept));
        }
        let picoseconds = total.kept as f64 * KEEP / self.model.spec.bandwidth * 1e12;
        total.cost += (picoseconds * SCALE as f64) as u128;
        Ok(total)
    }

    /// The cheapest choice found, and its price; `start` must have one.
    pub fn cheapest(&self, start: Choice, before: Total, moves: &[Move]) -> (Choice, Total) {
        let mut best = self.climb(start, before, moves);
        let guess = self.bottom_up();
        if let Ok(price) = self.price(&guess) {
            let other = self.climb(guess, price, moves);
            if other.1.cost < best.1.cost {
                best = other;
            }
        }
        best
    }

    /// Applies rewrites, alone and in pairs, as long as one makes the choice cheaper.
    fn climb(&self, choice: Choice, total: Total, moves: &[Move]) -> (Choice, Total) {
        let mut best = (choice, total);
        let better = |candidate: Choice, best: &mut (Choice, Total)| match self.price(&candidate) {
            Ok(price) if price.cost < best.1.cost => {
                *best = (candidate, price);
                true
            }
            _ => false,
        };
        for _ in 0..ROUNDS {
            let mut improved = false;
            for found in moves {
                improved |= better(self.with(&best.0, found), &mut best);
            }
            if !improved && moves.len() <= PAIRS {
                for (i, first) in moves.iter().enumerate() {
                    let one = self.with(&best.0, first);
                    for second in moves.iter().skip(i + 1) {
                        improved |= better(self.with(&one, second), &mut best);
                    }
                }
            }
            if !improved {
                break;
            }
        }
        best
    }

    /// For each class the term whose operands' DAG is cheapest, as far as one walk up can tell: sets of classes are joined, so that what
    /// the operands of one term share counts once.
    fn bottom_up(&self) -> Choice {
        let words = self.classes.len().div_ceil(64);
        let own = |class: usize, n: usize| {
            let node = &self.classes[class].nodes[n];
            u128::from(node.picoseconds) * self.weight(self.classes[class].binding)
        };
        let mut best: Vec<Option<(u128, Vec<u64>, usize)>> = vec![None; self.classes.len()];
        for _ in 0..self.classes.len() {
            let mut changed = false;
            for (class, c) in self.classes.iter().enumerate() {
                for (n, node) in c.nodes.iter().enumerate() {
                    let mut set = vec![0u64; words];
                    let known = node.children.iter().all(|&child| match &best[child] {
                        Some((_, below, _)) => {
                            set.iter_mut().zip(below).for_each(|(a, b)| *a |= b);
                            true
                        }
                        None => false,
                    });
                    if !known || set[class / 64] >> (class % 64) & 1 == 1 {
                        continue;
                    }
                    let mut cost = own(class, n);
                    for (word, &bits) in set.iter().enumerate() {
                        let mut bits = bits;
                        while bits != 0 {
                            let member = word * 64 + bits.trailing_zeros() as usize;
                            bits &= bits - 1;
                            cost += best[member].as_ref().map_or(0, |(_, _, n)| own(member, *n));
                        }
                    }
                    if best[class].as_ref().is_none_or(|(known, ..)| cost < *known) {
                        set[class / 64] |= 1 << (class % 64);
                        best[class] = Some((cost, set, n));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        best.into_iter().map(|b| b.map_or(0, |(_, _, n)| n)).collect()
    }

    /// The chosen term of a class, with its operands' classes.
    pub fn chosen(&self, choice: &Choice, class: usize) -> (Kind, &[usize], &TensorType) {
        let node = &self.classes[class].nodes[choice[class]];
        (node.term.kind, &node.children, &self.classes[class].types[0])
    }

    /// Classes that are read from outside.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }

    /// The region's node that a class comes from.
    pub fn origin(&self, class: usize) -> u32 {
        self.region[self.ids[class]].data.origin
    }
}
