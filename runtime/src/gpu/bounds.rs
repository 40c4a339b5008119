//! Numbers that choose what a kernel reads.
//!
//! A row of a table or a count of keys is given at run time. A kernel cannot refuse a wrong one, so the host looks at
//! it before the launch: at what the caller wrote, or, for a number that some call computed, at the device's memory.

use std::collections::BTreeMap;

use ccl_ir::ops::{Attention, AttentionGrad};
use ccl_ir::plan::{Call, Operand, Place};
use ccl_ir::{DType, Op, Plan, TensorType};

use crate::host::HostTensor;

/// The whole number that a call takes, and what it may be.
pub(super) struct Bound<'p> {
    /// The operand that holds it.
    pub operand: &'p Operand,
    least: usize,
    most: usize,
}

impl<'p> Bound<'p> {
    /// The number that this call takes, if it takes one.
    pub(super) fn of(call: &'p Call) -> Option<Self> {
        let (operand, least, most) = match &call.op {
            Op::Index(_) => (call.inputs.get(1)?, 0, call.inputs[0].ty.shape.first()?.checked_sub(1)?),
            Op::Attention(Attention { counted: true, .. }) | Op::AttentionGrad(AttentionGrad { counted: true, .. }) => {
                let keys = &call.inputs.get(1)?.ty.shape;
                (call.inputs.last()?, 1, *keys.get(keys.len().checked_sub(3)?)?)
            }
            _ => return None,
        };
        Some(Self { operand, least, most })
    }

    /// Accepts a number within the bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, n: i32) -> Result<(), String> {
        let (least, most) = (self.least, self.most);
        let fits = usize::try_from(n).is_ok_and(|n| (least..=most).contains(&n));
        if fits { Ok(()) } else { Err(format!("is given {n}, it takes from {least} to {most}")) }
    }
}

/// Whole numbers that only the caller writes.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By buffer; `None` before the first writing.
    values: BTreeMap<u32, Option<i32>>,
}

impl Known {
    /// Finds a plan's scalar inputs whose memory no call writes.
    pub(super) fn of(plan: &Plan) -> Self {
        let written: Vec<u32> = plan.entries.values().flatten().flat_map(|c| &c.outputs).filter_map(buffer).collect();
        let shares = |a: u32, b: u32| {
            let (a, b) = (&plan.buffers[a as usize], &plan.buffers[b as usize]);
            a.region == b.region && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
        };
        let scalar = TensorType::new(DType::I32, []);
        let inputs = plan.inputs.iter().filter(|p| p.operand.ty == scalar && p.operand.offset == 0);
        let values = inputs.filter_map(|p| buffer(&p.operand)).filter(|&b| !written.iter().any(|&w| shares(b, w)));
        Self { values: values.map(|b| (b, None)).collect() }
    }

    /// Notes what the caller writes.
    pub(super) fn write(&mut self, o: &Operand, tensor: &HostTensor) {
        if let (Some(b), Some(&[n])) = (buffer(o), tensor.as_i32())
            && let Some(value) = self.values.get_mut(&b)
        {
            *value = Some(n);
        }
    }

    /// Whether an operand holds what the caller writes, and nothing else.
    pub(super) fn knows(&self, o: &Operand) -> bool {
        o.offset == 0 && buffer(o).is_some_and(|b| self.values.contains_key(&b))
    }

    /// What an operand holds, where that is known.
    pub(super) fn value(&self, o: &Operand) -> Option<i32> {
        *self.values.get(&buffer(o).filter(|_| o.offset == 0)?)?
    }
}

fn buffer(o: &Operand) -> Option<u32> {
    match o.place {
        Place::Buffer(b) => Some(b),
        Place::Weight(_) => None,
    }
}
