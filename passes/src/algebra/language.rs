//! The language of the e-graph: tensor operators over values from outside a region, and what is known of each class.

use std::collections::{BTreeMap, BTreeSet};

use ccl_ir::ops::{BinaryKind, UnaryKind};
use ccl_ir::{Binding, Op, TensorType};
use egg::{Analysis, DidMerge, EGraph, Id, Language};

/// What a term is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A value from outside the region, by position.
    Leaf(u32),
    /// An operator, by position in [`Known::ops`].
    Op(u32),
    /// An output of an operator with several.
    Port(u8),
}

/// One e-node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// What it is.
    pub kind: Kind,
    /// Its operands.
    pub children: Vec<Id>,
}

impl Language for Term {
    type Discriminant = (Kind, usize);

    fn discriminant(&self) -> Self::Discriminant {
        (self.kind, self.children.len())
    }

    fn matches(&self, other: &Self) -> bool {
        self.discriminant() == other.discriminant()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// The e-graph of a region.
pub type Region = EGraph<Term, Known>;

/// What is known of a class: of the value that all its terms compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Types of the outputs; one for all operators but those with several.
    pub types: Vec<TensorType>,
    /// The earliest moment at which one of the terms is known.
    pub binding: Binding,
    /// The number that every element is.
    pub constant: Option<f64>,
    /// No element is larger in magnitude, nor NaN; `None` where nothing is known.
    pub bound: Option<f64>,
    /// The region's node that it comes from: for its place in the model.
    pub origin: u32,
}

/// A rewrite that a rule found: choosing these terms in their classes applies it.
#[derive(Clone, Debug)]
pub struct Move {
    /// Position of the rule in the table in use.
    pub rule: usize,
    /// The class that is rewritten.
    pub root: Id,
    /// Terms to choose, operands before their users.
    pub picks: Vec<(Id, Term)>,
    /// Numbers for people.
    pub said: String,
}

/// What the region's terms mean, and what the rules found.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Operators by number.
    pub ops: Vec<Op>,
    numbers: BTreeMap<String, u32>,
    /// Types and moments of the values from outside.
    pub leaves: Vec<(TensorType, Binding)>,
    /// The node whose rewriting adds terms now.
    pub origin: u32,
    /// All rewrites found, in order.
    pub moves: Vec<Move>,
    seen: BTreeSet<(usize, Vec<(Id, Term)>)>,
    /// Places where a rule nearly applied, and why it did not: rule, node, reason.
    pub refusals: BTreeSet<(usize, u32, String)>,
}

impl Known {
    /// Nothing yet but the values from outside.
    pub fn new(leaves: Vec<(TensorType, Binding)>) -> Self {
        Self { leaves, ..Self::default() }
    }

    /// The number of an operator.
    pub fn number(&mut self, op: &Op) -> u32 {
        let key = serde_json::to_string(op).unwrap_or_default();
        if let Some(&n) = self.numbers.get(&key) {
            return n;
        }
        let n = self.ops.len() as u32;
        self.ops.push(op.clone());
        self.numbers.insert(key, n);
        n
    }

    /// Notes a rewrite, once.
    pub fn note(&mut self, found: Move) {
        if self.seen.insert((found.rule, found.picks.clone())) {
            self.moves.push(found);
        }
    }
}

impl Analysis<Term> for Known {
    type Data = Facts;

    fn make(region: &mut Region, term: &Term, _: Id) -> Facts {
        let origin = region.analysis.origin;
        let of = |id: &Id| &region[*id].data;
        match term.kind {
            Kind::Leaf(n) => {
                let (ty, binding) = region.analysis.leaves[n as usize].clone();
                Facts { types: vec![ty], binding, constant: None, bound: None, origin }
            }
            Kind::Port(p) => {
                let whole = of(&term.children[0]);
                Facts { types: vec![whole.types[p as usize].clone()], constant: None, bound: None, ..whole.clone() }
            }
            Kind::Op(n) => {
                let op = &region.analysis.ops[n as usize];
                let inputs: Vec<&Facts> = term.children.iter().map(of).collect();
                let types: Vec<&TensorType> = inputs.iter().map(|f| &f.types[0]).collect();
                // Terms are checked before they are added.
                let types = op.infer(&types).unwrap_or_default();
                let binding = inputs.iter().map(|f| f.binding).fold(Binding::Load, Binding::max);
                let (constant, bound) = (constant(op, &inputs), bound(op, &inputs));
                Facts { types, binding, constant, bound: bound.or(constant.map(f64::abs)), origin }
            }
        }
    }

    /// As [`Known::make`]; a class stays where it is in the model.
    fn remake(region: &mut Region, term: &Term, id: Id) -> Facts {
        let origin = region[id].data.origin;
        Facts { origin, ..Self::make(region, term, id) }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        let known = |f: &Facts| (f.binding, f.constant, f.bound, f.origin);
        let before = known(a);
        a.binding = a.binding.min(b.binding);
        a.constant = a.constant.or(b.constant);
        a.bound = match (a.bound, b.bound) {
            (Some(x), Some(y)) => Some(x.min(y)),
            (x, y) => x.or(y),
        };
        a.origin = a.origin.min(b.origin);
        DidMerge(known(a) != before, known(a) != known(&b) || a.types != b.types)
    }
}

/// The number that all elements of a result are.
fn constant(op: &Op, inputs: &[&Facts]) -> Option<f64> {
    let of = |i: usize| inputs.get(i).and_then(|f: &&Facts| f.constant);
    let value = match op {
        Op::Constant(c) => c.value,
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) | Op::Copy(_) => of(0)?,
        Op::Unary(u) => u.kind.apply(of(0)?),
        Op::Binary(b) => b.kind.apply(of(0)?, of(1)?),
        _ => return None,
    };
    value.is_finite().then_some(value)
}

/// A bound on the magnitude of a result's elements.
fn bound(op: &Op, inputs: &[&Facts]) -> Option<f64> {
    let of = |i: usize| inputs.get(i).and_then(|f: &&Facts| f.bound);
    let bound = match op {
        Op::Softmax(_) | Op::ContextProbabilities(_) | Op::RopeTable(_) | Op::TimeFeatures(_) => 1.0,
        // Of d numbers with mean square 1, none is above sqrt(d).
        Op::LayerNorm(n) if !n.affine => (inputs[0].types[0].last() as f64).sqrt(),
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) | Op::Copy(_) | Op::Index(_) => of(0)?,
        Op::Concat(_) => (0..inputs.len()).map(of).try_fold(0.0f64, |m, b| b.map(|b| m.max(b)))?,
        Op::Unary(u) => match u.kind {
            UnaryKind::Neg | UnaryKind::Silu | UnaryKind::GeluTanh | UnaryKind::GeluErf => of(0)?,
            UnaryKind::Exp => of(0)?.exp(),
            // At most 1.10, 1.13 and 1.13, whatever the operand.
            UnaryKind::SiluGrad | UnaryKind::GeluTanhGrad | UnaryKind::GeluErfGrad => 1.2,
        },
        Op::Binary(b) => match b.kind {
            BinaryKind::Mul => of(0)? * of(1)?,
            BinaryKind::Add | BinaryKind::Sub => of(0)? + of(1)?,
        },
        _ => return None,
    };
    bound.is_finite().then_some(bound)
}
