//! What a rule sees of the e-graph, and how it adds to it.

use ccl_ir::{Binding, Op, TensorType, ops};
use egg::{Id, Language};

use super::language::{Facts, Kind, Move, Region, Term};

/// One place where a rule looks for its pattern.
pub struct Site<'a> {
    region: &'a mut Region,
    rule: usize,
    picks: Vec<(Id, Term)>,
    said: String,
}

impl<'a> Site<'a> {
    /// A place for a rule, by its position in the table in use.
    pub(super) fn new(region: &'a mut Region, rule: usize) -> Self {
        Self { region, rule, picks: Vec::new(), said: String::new() }
    }

    /// What is known of a class.
    pub fn facts(&self, id: Id) -> &Facts {
        &self.region[id].data
    }

    /// Type of a class's only, or first, output.
    pub fn ty(&self, id: Id) -> &TensorType {
        &self.facts(id).types[0]
    }

    /// Sizes of a class's only, or first, output.
    pub fn shape(&self, id: Id) -> Vec<usize> {
        self.ty(id).shape.clone()
    }

    /// Whether a class is known with the weights.
    pub fn is_loaded(&self, id: Id) -> bool {
        self.facts(id).binding == Binding::Load
    }

    /// Whether two ids name one class.
    pub fn same(&self, a: Id, b: Id) -> bool {
        self.region.find(a) == self.region.find(b)
    }

    /// The operators of a class with their operands.
    pub fn ops(&self, id: Id) -> Vec<(Op, Vec<Id>)> {
        let known = &self.region.analysis;
        let op = |t: &Term| match t.kind {
            Kind::Op(n) => Some((known.ops[n as usize].clone(), t.children.clone())),
            _ => None,
        };
        self.region[id].nodes.iter().filter_map(op).collect()
    }

    /// What class `id` is the first output of, for operators with several.
    pub fn first_output_of(&self, id: Id) -> Vec<(Op, Vec<Id>)> {
        let wholes: Vec<Id> =
            self.region[id].nodes.iter().filter(|t| t.kind == Kind::Port(0)).map(|t| t.children[0]).collect();
        wholes.into_iter().flat_map(|w| self.ops(w)).collect()
    }

    /// Classes that are output `port` of a class of several outputs.
    pub fn ports(&self, whole: Id, port: u8) -> Vec<Id> {
        let parents = self.region[whole].parents();
        let mut out: Vec<Id> = parents
            .filter(|&p| self.region.id_to_node(p).kind == Kind::Port(port))
            .map(|p| self.region.find(p))
            .collect();
        out.dedup();
        out
    }

    /// Output `port` of a class of several outputs.
    pub fn port(&mut self, whole: Id, port: u8) -> Id {
        self.term(Term { kind: Kind::Port(port), children: vec![whole] })
    }

    /// Sources of the class through one reshape, and the class itself.
    pub fn through_reshape(&self, id: Id) -> Vec<Id> {
        let sources = self.ops(id).into_iter().filter(|(op, _)| matches!(op, Op::Reshape(_))).map(|(_, c)| c[0]);
        std::iter::once(id).chain(sources).collect()
    }

    /// Operators that read a class, with their class and operands, in the order in which they were added.
    pub fn users(&self, id: Id) -> Vec<(Id, Op, Vec<Id>)> {
        let mut out: Vec<(Id, u32, Vec<Id>)> = Vec::new();
        for parent in self.region[id].parents() {
            let term = self.region.id_to_node(parent).clone().map_children(|c| self.region.find(c));
            if let Kind::Op(n) = term.kind {
                let user = (self.region.find(parent), n, term.children);
                if !out.contains(&user) {
                    out.push(user);
                }
            }
        }
        let known = &self.region.analysis;
        out.into_iter().map(|(id, n, children)| (id, known.ops[n as usize].clone(), children)).collect()
    }

    /// How many terms of such operators read a class, at most.
    pub fn count_users(&self, id: Id, of: impl Fn(&Op) -> bool) -> usize {
        let is_one = |&parent: &Id| match self.region.id_to_node(parent).kind {
            Kind::Op(n) => of(&self.region.analysis.ops[n as usize]),
            _ => false,
        };
        self.region[id].parents().filter(is_one).count()
    }

    /// Adds an operator; `None` where it cannot take these operands.
    pub fn add(&mut self, op: impl Into<Op>, children: &[Id]) -> Option<Id> {
        let op = op.into();
        let types: Vec<&TensorType> = children.iter().map(|&c| self.ty(c)).collect();
        let types = op.infer(&types).ok()?;
        if types.iter().any(|t| t.checked_elements().is_none()) {
            return None;
        }
        let kind = Kind::Op(self.region.analysis.number(&op));
        Some(self.term(Term { kind, children: children.to_vec() }))
    }

    fn term(&mut self, term: Term) -> Id {
        let term = term.map_children(|c| self.region.find(c));
        let id = self.region.add(term.clone());
        self.picks.push((id, term));
        id
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: Id, shape: impl Into<Vec<usize>>) -> Option<Id> {
        let shape = shape.into();
        if self.ty(x).shape == shape { Some(x) } else { self.add(ops::Reshape { shape }, &[x]) }
    }

    /// Dimensions in another order.
    pub fn transpose(&mut self, x: Id, perm: &[usize]) -> Option<Id> {
        self.add(ops::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// `len` indices of a dimension from `start` on.
    pub fn slice(&mut self, x: Id, axis: usize, start: usize, len: usize) -> Option<Id> {
        if start == 0 && self.ty(x).shape[axis] == len {
            return Some(x);
        }
        self.add(ops::Slice { axis, start, len }, &[x])
    }

    /// Two numbers to one, element by element.
    pub fn binary(&mut self, kind: ops::BinaryKind, a: Id, b: Id) -> Option<Id> {
        self.add(ops::Binary { kind }, &[a, b])
    }

    /// Sets the node that the terms to come belong to, and forgets those of a match that failed.
    pub fn begin(&mut self, root: Id) {
        self.region.analysis.origin = self.facts(root).origin;
        self.picks.clear();
        self.said.clear();
    }

    /// Numbers for people that say why the rule pays here, or does not.
    pub fn say(&mut self, text: impl Into<String>) {
        self.said = text.into();
    }

    /// Declares `new` to be the same value as `root`, as one of several of one rewrite.
    pub fn equate(&mut self, root: Id, new: Id) -> bool {
        if self.facts(root).types != self.facts(new).types {
            return false;
        }
        self.region.union(root, new);
        true
    }

    /// Declares `new` to be the same value as `root`: the rule applies.
    pub fn replace(&mut self, root: Id, new: Id) {
        if self.equate(root, new) {
            self.found(root);
        }
    }

    /// Notes what was added since [`Site::begin`] as one rewrite.
    pub fn found(&mut self, root: Id) {
        let (picks, said) = (std::mem::take(&mut self.picks), std::mem::take(&mut self.said));
        self.region.analysis.note(Move { rule: self.rule, root, picks, said });
    }

    /// Notes why the rule nearly applied, and did not.
    pub fn refuse(&mut self, root: Id, reason: impl Into<String>) {
        let origin = self.facts(root).origin;
        self.region.analysis.refusals.insert((self.rule, origin, reason.into()));
    }
}
