//! Extraction by the cost of the DAG: a shared term counts once.
//!
//! The cheapest choice is hard to find (and egg's own extractor, which counts a shared term once for every path to it, is far off on
//! residual chains), so this one searches: it starts from the region as it was and from a bottom-up guess, then tries the rewrites one
//! by one. Every candidate is priced as a whole. What comes out never costs more than what went in.

mod backward;
mod search;
mod term;

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::{Binding, Op, TensorType, Work};
use egg::Id;

use self::backward::Gradients;
use self::term::{Class, Node};
use super::language::{Kind, Move, Region, Term};
use super::region::Plain;
use crate::cost::{CostModel, Lie, SCALE, counted};

/// Keeping a byte from one step to the next costs a fourth of moving it: memory is not free.
const KEEP: f64 = 0.25;

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
                let op = match term.kind {
                    Kind::Op(n) => Some(&region.analysis.ops[n as usize]),
                    _ => None,
                };
                Node::new(term, children, op, &facts.types, (region, model))
            };
            let (nodes, types) = (region[id].nodes.iter().map(node).collect(), facts.types.clone());
            let bytes = types.iter().map(TensorType::bytes).sum();
            let (first, copy) = types.first().map_or((0, 0), |ty| (ty.bytes(), model.copy(ty)));
            Class { nodes, types, bytes, first, copy, binding: facts.binding }
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
            let Kind::Op(_) = node.term.kind else { continue };
            if let Some(view) = node.view {
                let source = node.children[0];
                lies[class] = view[lies[source] as usize];
                bases[class] = bases[source];
                continue;
            }
            total.cost += u128::from(node.picoseconds) * self.weight(binding);
            total.work = total.work + self.counted(node.work, binding);
            for (i, &child) in node.children.iter().enumerate() {
                let mut base = bases[child];
                if node.copied.get(i).is_some_and(|copied| copied[lies[child] as usize]) {
                    let Class { copy, first, .. } = self.classes[child];
                    total.cost += u128::from(copy) * self.weight(bindings[child]);
                    total.work = total.work + self.counted(Work { flops: 0, bytes: 2 * first }, bindings[child]);
                    // The copy is kept in its source's place.
                    if bindings[child] == Binding::Load && binding != Binding::Load {
                        total.kept += first;
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
        total.kept += kept.iter().zip(&self.classes).filter(|(k, _)| **k).map(|(_, c)| c.bytes).sum::<u64>();
        if total.kept > self.budget {
            return Err(Unpriced::Kept(total.kept));
        }
        let picoseconds = total.kept as f64 * KEEP / self.model.spec.bandwidth * 1e12;
        total.cost += (picoseconds * SCALE as f64) as u128;
        Ok(total)
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
