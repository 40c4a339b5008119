//! A call with memory of its own: a plan that is this call and nothing else, as often as there are copies of its inputs.

use std::sync::Arc;

use ccl_codegen::gpu::tensor::library::Constants;
use ccl_ir::ops::{Attention, AttentionGrad};
use ccl_ir::plan::{About, Buffer, Call, Operand, Place, PlanState, PlanWeight, Port, Region};
use ccl_ir::types::dense_strides;
use ccl_ir::{Binding, DType, Op, Plan, TensorType};
use ccl_runtime::backend::Instance;

use super::data::{self, Like};
use crate::error::Error;

/// What the names of states begin with that the call only writes.
pub const RESULT: &str = "result.";
/// Most copies of a call's memory in a plan.
const MOST_COPIES: u64 = 256;

/// A call whose operands lie in memory that nothing else uses.
#[derive(Clone, Debug)]
pub struct Lone {
    /// The call, and what puts its parts together. A place is the position of a [`Holder`].
    calls: Vec<Call>,
    holders: Vec<Holder>,
}

/// Memory of a call.
#[derive(Clone, Debug)]
struct Holder {
    /// Shape and element type of all of it.
    ty: TensorType,
    /// Whether it is a weight of the model.
    weight: bool,
    /// Whether the call reads it.
    read: bool,
    /// Whether the call writes over what it reads.
    updated: bool,
}

/// An input of a call.
#[derive(Clone, Debug)]
pub struct Input {
    ty: TensorType,
    weight: bool,
    /// Elements of the memory, first element of the view and its strides, where that is not all of it in order.
    view: Option<(u64, u64, Vec<u64>)>,
}

impl From<TensorType> for Input {
    fn from(ty: TensorType) -> Self {
        Self { ty, weight: false, view: None }
    }
}

impl Input {
    /// A weight of the model.
    pub fn weight(ty: TensorType) -> Self {
        Self { weight: true, ..ty.into() }
    }

    /// A matrix that lies in memory column by column.
    pub fn columns(ty: TensorType) -> Self {
        let strides = vec![1, ty.shape[0] as u64];
        Self::view(ty.clone(), ty.elements(), 0, strides)
    }

    /// A view of so many elements.
    pub fn view(ty: TensorType, elements: u64, first: u64, strides: Vec<u64>) -> Self {
        Self { view: Some((elements, first, strides)), ..ty.into() }
    }
}

/// Where a plan has what the call reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Inputs and weights, as in the plans of models.
    Given,
    /// State, which the instances of several plans can share, but for weights that are vectors, and so are results; what is read in half precision and is
    /// no weight is state in either case.
    Shared,
}

impl Lone {
    /// A call by its operator and inputs.
    ///
    /// # Errors
    /// When the operator refuses the inputs.
    pub fn new(at: &str, op: &Op, inputs: &[Input]) -> Result<Self, Error> {
        let types: Vec<&TensorType> = inputs.iter().map(|i| &i.ty).collect();
        let outputs = op.infer(&types).map_err(|e| Error::Failed(format!("{at}: {}", e.0)))?;
        let (mut holders, mut operands) = (Vec::new(), Vec::new());
        let mut hold = |ty: &TensorType, view: Option<&(u64, u64, Vec<u64>)>, weight: bool, read: bool| {
            let all = view.map_or_else(|| ty.clone(), |(elements, ..)| flat(*elements, ty.dtype));
            let place = Place::Buffer(holders.len() as u32);
            holders.push(Holder { ty: all, weight, read, updated: false });
            let (offset, strides) =
                view.map_or_else(|| (0, dense(ty)), |(_, first, strides)| (*first, strides.clone()));
            operands.push(Operand { place, ty: ty.clone(), offset, strides });
        };
        inputs.iter().for_each(|i| hold(&i.ty, i.view.as_ref(), i.weight, true));
        outputs.iter().for_each(|ty| hold(ty, None, false, false));
        let mut outputs = operands.split_off(inputs.len());
        // What the operator updates it updates in place, as in the plans of training.
        for (o, output) in outputs.iter_mut().enumerate() {
            if let Some(i) = op.updates(o) {
                *output = operands[i].clone();
                holders[i].updated = true;
            }
        }
        let call = Call { op: op.clone(), inputs: operands, outputs, at: at.into() };
        Ok(Self { calls: vec![call], holders })
    }

    /// The same, and a call that reads what this one writes.
    ///
    /// # Errors
    /// When the operator refuses that.
    pub fn then(mut self, op: impl Into<Op>) -> Result<Self, Error> {
        let (op, last) = (op.into(), self.calls.len() - 1);
        let Call { outputs: inputs, at, .. } = self.calls[last].clone();
        let types: Vec<&TensorType> = inputs.iter().map(|o| &o.ty).collect();
        let outputs = op.infer(&types).map_err(|e| Error::Failed(format!("{at}: {}", e.0)))?;
        let outputs = outputs.iter().map(|ty| {
            self.holders.push(Holder { ty: ty.clone(), weight: false, read: false, updated: false });
            Operand {
                place: Place::Buffer(self.holders.len() as u32 - 1),
                ty: ty.clone(),
                offset: 0,
                strides: dense(ty),
            }
        });
        let outputs = outputs.collect();
        self.calls.push(Call { op, inputs, outputs, at });
        Ok(self)
    }

    /// A call of a plan, taken out of it. What is computed of weights once, when the plan is loaded, is a weight of it.
    pub fn of(plan: &Plan, constants: &Constants, call: &Call) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut holders: Vec<Holder> = Vec::new();
        let mut call = call.clone();
        let reads = call.inputs.len();
        for (i, operand) in call.inputs.iter_mut().chain(&mut call.outputs).enumerate() {
            let at = places.iter().position(|p| *p == operand.place).unwrap_or_else(|| {
                let dtype = operand.ty.dtype;
                let (ty, weight) = match operand.place {
                    Place::Weight(w) => (plan.weights[w as usize].ty.clone(), true),
                    Place::Buffer(_) if dtype == DType::I32 && operand.ty.rank() == 0 => (operand.ty.clone(), false),
                    Place::Buffer(b) => {
                        let vector = operand.ty.rank() == 1 && constants.has(operand);
                        (flat(plan.buffers[b as usize].bytes / dtype.bytes(), dtype), vector)
                    }
                };
                places.push(operand.place);
                holders.push(Holder { ty, weight, read: false, updated: false });
                places.len() - 1
            });
            holders[at].read |= i < reads;
            holders[at].updated |= i >= reads && holders[at].read;
            operand.place = Place::Buffer(at as u32);
        }
        Self { calls: vec![call], holders }
    }

    /// The call.
    pub fn call(&self) -> &Call {
        &self.calls[0]
    }

    /// Bytes of what the call reads.
    pub fn read_bytes(&self) -> u64 {
        self.holders.iter().filter(|h| h.read).map(|h| h.ty.bytes()).sum()
    }

    /// How many copies read `rotate` bytes together, without taking more than `memory` with what they write.
    pub fn copies(&self, rotate: u64, memory: Option<u64>) -> usize {
        let all: u64 = self.holders.iter().map(|h| h.ty.bytes()).sum();
        let fits = memory.map_or(MOST_COPIES, |bytes| bytes / all.max(1));
        rotate.div_ceil(self.read_bytes().max(1)).min(fits).clamp(1, MOST_COPIES) as usize
    }

    /// A plan whose step is the call, once for each of `copies` copies of its memory.
    pub fn plan(&self, copies: usize, from: Inputs) -> Plan {
        let mut plan = Plan::empty(About::no_model("kernel", 1, DType::F32));
        let calls = (0..copies).flat_map(|copy| self.copy(&mut plan, [copy, copies], from)).collect();
        plan.entries.insert(Binding::Step, calls);
        let work = self.call().work();
        plan.report.flops.insert(Binding::Step.name().into(), work.flops * copies as u64);
        plan.report.bytes.insert(Binding::Step.name().into(), work.bytes * copies as u64);
        plan
    }

    /// The calls with one more copy of their memory.
    fn copy(&self, plan: &mut Plan, [copy, copies]: [usize; 2], from: Inputs) -> Vec<Call> {
        let places: Vec<Place> =
            (0..self.holders.len()).map(|i| self.hold(plan, i, &format!("{i}.{copy}"), from)).collect();
        let mut calls = self.calls.clone();
        for operand in calls.iter_mut().flat_map(|c| c.inputs.iter_mut().chain(&mut c.outputs)) {
            if let Place::Buffer(at) = operand.place {
                operand.place = places[at as usize];
            }
        }
        // Of the last copy, which other work comes before.
        if copy + 1 == copies
            && let Some(operand) = calls.last().and_then(|c| c.outputs.first())
        {
            plan.outputs.push(Port { name: "out".into(), binding: Binding::Step, operand: operand.clone() });
        }
        calls
    }

    fn hold(&self, plan: &mut Plan, i: usize, name: &str, from: Inputs) -> Place {
        let Holder { ty, weight, read, updated } = &self.holders[i];
        // Vectors are weights in either case: what is done with them once, as their values stay, is done in measurements too.
        if *weight && (from == Inputs::Given || ty.rank() == 1) {
            plan.weights.push(PlanWeight { name: name.into(), ty: ty.clone() });
            return Place::Weight(plan.weights.len() as u32 - 1);
        }
        // A number that a kernel is told has to be an input: then it is known without asking the device. Inputs are never of half precision.
        let state = ty.dtype != DType::I32 && (from == Inputs::Shared || *read && (ty.dtype.is_half() || *updated));
        let (region, end) = match state {
            true => (Region::State, &mut plan.state_bytes),
            false => (Region::Persistent, &mut plan.persistent_bytes),
        };
        let (offset, bytes) = (end.next_multiple_of(ccl_ir::plan::ALIGNMENT), ty.bytes());
        plan.buffers.push(Buffer { region, offset, bytes });
        *end = offset + bytes;
        let buffer = plan.buffers.len() as u32 - 1;
        if state {
            let name = if *read { name.to_owned() } else { format!("{RESULT}{name}") };
            plan.states.push(PlanState { name, ty: ty.clone(), buffer });
        } else if *read {
            let operand = Operand { place: Place::Buffer(buffer), ty: ty.clone(), offset: 0, strides: dense(ty) };
            plan.inputs.push(Port { name: name.into(), binding: Binding::Step, operand });
        }
        Place::Buffer(buffer)
    }

    /// The whole number that the call takes, if it takes one: as many keys as there are.
    fn number(&self) -> i32 {
        match &self.call().op {
            Op::Attention(Attention { counted: true, .. }) | Op::AttentionGrad(AttentionGrad { counted: true, .. }) => {
                let keys = &self.call().inputs[1].ty.shape;
                keys[keys.len() - 3] as i32
            }
            _ => 0,
        }
    }

    /// Writes the inputs, and the state unless another instance that shares it has.
    ///
    /// # Errors
    /// When the device fails.
    pub fn fill(&self, instance: &mut dyn Instance, state: bool) -> Result<(), Error> {
        let plan = Arc::clone(instance.plan());
        // The name of a copy of a holder begins with its number.
        let holder = |name: &str| name.split('.').next().and_then(|i| self.holders.get(i.parse::<usize>().ok()?));
        let like = |name: &str| match self.call().op {
            Op::AdamW(_) => Like::Positive,
            _ if holder(name).is_some_and(|h| h.weight) => Like::Weight,
            _ => Like::Normal,
        };
        for (i, port) in plan.inputs.iter().enumerate() {
            instance.write(i, &data::tensor(&port.name, &port.operand.ty, like(&port.name), self.number()))?;
        }
        let read = plan.states.iter().enumerate().filter(|(_, kept)| !kept.name.starts_with(RESULT));
        for (i, kept) in read.filter(|_| state) {
            instance.write_state(i, &data::tensor(&kept.name, &kept.ty, like(&kept.name), 0))?;
        }
        Ok(())
    }
}

fn dense(ty: &TensorType) -> Vec<u64> {
    dense_strides(&ty.shape).into_iter().map(|s| s as u64).collect()
}

fn flat(elements: u64, dtype: DType) -> TensorType {
    TensorType::new(dtype, [elements as usize])
}
