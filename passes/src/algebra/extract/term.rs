//! What pricing asks of terms and classes, computed once: choices are priced thousands of times.

use ccl_ir::{Binding, Op, TensorType, Work};

use super::super::language::{Region, Term};
use crate::cost::{CostModel, Lie, lie_of_view, wants_copy};
use crate::layout::is_view;

/// A term with what pricing needs.
pub(super) struct Node {
    pub term: Term,
    pub children: Vec<usize>,
    pub picoseconds: u64,
    pub work: Work,
    /// For a view, how it lies where its source lies in each of the ways ([`Lie::ALL`]).
    pub view: Option<[Lie; 3]>,
    /// For each operand, whether it is copied where it lies in each of the ways.
    pub copied: Vec<[bool; 3]>,
}

impl Node {
    /// Of a term in a region, whose operator is `op`, and whose results have these types.
    pub fn new(
        term: &Term,
        children: Vec<usize>,
        op: Option<&Op>,
        types: &[TensorType],
        cx: (&Region, &CostModel),
    ) -> Self {
        let (region, model) = cx;
        let (term, mut work) = (term.clone(), Work::default());
        let Some(op) = op else {
            return Self { term, children, picoseconds: 0, work, view: None, copied: Vec::new() };
        };
        let inputs: Vec<&TensorType> = term.children.iter().map(|&c| &region[c].data.types[0]).collect();
        let picoseconds = model.picoseconds(op, &inputs, types);
        let view = is_view(op).then(|| Lie::ALL.map(|lies| lie_of_view(op, inputs[0], lies)));
        if view.is_none() {
            work = op.work(&inputs, types);
        }
        let copied = (0..inputs.len()).map(|i| Lie::ALL.map(|lies| wants_copy(op, i, lies))).collect();
        Self { term, children, picoseconds, work, view, copied }
    }
}

/// A class of the e-graph.
pub(super) struct Class {
    pub nodes: Vec<Node>,
    pub types: Vec<TensorType>,
    /// Bytes of all its results.
    pub bytes: u64,
    /// Bytes of the first.
    pub first: u64,
    /// Picoseconds of copying the first.
    pub copy: u64,
    /// The earliest moment at which it may be known.
    pub binding: Binding,
}
