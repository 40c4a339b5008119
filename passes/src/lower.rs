//! From graph to plan: calls, order, buffers.

use std::collections::BTreeMap;

use ccl_ir::plan::{ALIGNMENT, About, Buffer, Call, Operand, Place, PlanState, PlanWeight, Port, Region};
use ccl_ir::{Binding, Graph, NodeId, Op, Plan, TensorType, Value};

use crate::layout::{Layout, is_view, layouts};
use crate::memory::{Lifetime, place};
use crate::order;
use crate::record::Record;

/// Lowers a graph that [`crate::layout::run`] has passed. The report is filled in but for `flops_before` and the events.
///
/// `states` are laid out first, in their order, so that plans which share a table share their memory.
pub fn run(graph: &Graph, about: About, states: &[(String, TensorType)], record: &mut Record) -> Plan {
    let site = Site::new(graph);
    let mut plan = Plan::empty(about);
    // Where each stored value lives.
    let mut places: BTreeMap<Value, Place> = BTreeMap::new();
    place_states(graph, states, &mut plan, &mut places);
    for (id, node) in graph.iter() {
        let v = Value { node: id, port: 0 };
        match &node.op {
            Op::Weight(w) => {
                places.insert(v, Place::Weight(plan.weights.len() as u32));
                plan.weights.push(PlanWeight { name: w.name.clone(), ty: w.ty.clone() });
            }
            Op::Input(_) => {
                places.insert(v, persistent(&mut plan, &node.types[0]));
            }
            _ => {}
        }
    }
    for binding in Binding::ALL {
        let calls = site.calls(binding);
        if calls.is_empty() {
            continue;
        }
        let order = site.order(binding, &calls, record);
        site.allocate(&order, &mut plan, &mut places);
        let lowered = order.iter().map(|&id| site.call(id, &places)).collect();
        plan.entries.insert(binding, lowered);
    }
    for (id, node) in graph.iter() {
        if let Op::Input(i) = &node.op {
            let operand = site.operand(Value { node: id, port: 0 }, &places);
            plan.inputs.push(Port { name: i.name.clone(), binding: i.binding, operand });
        }
    }
    for o in graph.outputs.iter().filter(|o| o.updates.is_none()) {
        let operand = site.operand(o.value, &places);
        let binding = site.bindings[o.value.node.index()];
        plan.outputs.push(Port { name: o.name.clone(), binding, operand });
    }
    fill_report(&mut plan);
    plan
}

/// Gives every state of the graph its place, and the values that update it the same place.
fn place_states(graph: &Graph, table: &[(String, TensorType)], plan: &mut Plan, places: &mut BTreeMap<Value, Place>) {
    let own = graph.nodes().iter().filter_map(|n| match &n.op {
        Op::State(s) if !table.iter().any(|(name, _)| *name == s.name) => Some((s.name.clone(), s.ty.clone())),
        _ => None,
    });
    for (name, ty) in table.iter().cloned().chain(own) {
        let offset = plan.state_bytes;
        plan.state_bytes += ty.bytes().next_multiple_of(ALIGNMENT);
        let Some(v) = graph.find(&name) else { continue };
        let mut put = |v: Value| {
            let buffer = plan.buffers.len() as u32;
            plan.buffers.push(Buffer { region: Region::State, offset, bytes: ty.bytes() });
            places.insert(v, Place::Buffer(buffer));
            buffer
        };
        let buffer = put(v);
        // A buffer of its own, so that the checker can tell the next value from the one before.
        graph.outputs.iter().filter(|o| o.updates.as_ref() == Some(&name)).for_each(|o| {
            put(o.value);
        });
        plan.states.push(PlanState { name, ty, buffer });
    }
}

fn persistent(plan: &mut Plan, ty: &TensorType) -> Place {
    let buffer = Buffer { region: Region::Persistent, offset: plan.persistent_bytes, bytes: ty.bytes() };
    plan.persistent_bytes += ty.bytes().next_multiple_of(ALIGNMENT);
    plan.buffers.push(buffer);
    Place::Buffer(plan.buffers.len() as u32 - 1)
}

struct Site<'a> {
    graph: &'a Graph,
    bindings: Vec<Binding>,
    layouts: Vec<Vec<Layout>>,
    /// For every node, the latest entry that reads one of its outputs, views followed.
    read_until: Vec<Binding>,
    /// Nodes whose outputs are results of the graph.
    result: Vec<bool>,
}

impl<'a> Site<'a> {
    fn new(graph: &'a Graph) -> Self {
        let bindings = graph.bindings();
        let layouts = layouts(graph);
        let mut read_until = bindings.clone();
        for (id, node) in graph.iter().filter(|(_, n)| !is_view(&n.op)) {
            for v in &node.inputs {
                let base = layouts[v.node.index()][v.port as usize].base.node.index();
                read_until[base] = read_until[base].max(bindings[id.index()]);
            }
        }
        let mut result = vec![false; graph.nodes().len()];
        for o in &graph.outputs {
            result[layouts[o.value.node.index()][o.value.port as usize].base.node.index()] = true;
        }
        Self { graph, bindings, layouts, read_until, result }
    }

    /// The nodes that run in an entry, in the graph's order.
    fn calls(&self, binding: Binding) -> Vec<NodeId> {
        let runs = |op: &Op| !is_view(op) && !matches!(op, Op::Input(_) | Op::Weight(_) | Op::State(_));
        self.graph
            .iter()
            .filter(|(id, n)| runs(&n.op) && self.bindings[id.index()] == binding)
            .map(|(id, _)| id)
            .collect()
    }

    fn is_scratch(&self, id: NodeId) -> bool {
        self.read_until[id.index()] == self.bindings[id.index()]
    }

    /// Stored values that a call reads.
    fn bases(&self, id: NodeId) -> impl Iterator<Item = Value> + '_ {
        self.graph.node(id).inputs.iter().map(|v| self.layouts[v.node.index()][v.port as usize].base)
    }

    fn order(&self, binding: Binding, calls: &[NodeId], record: &mut Record) -> Vec<NodeId> {
        let bytes = |id: NodeId| {
            let own = self.graph.node(id).types.iter().map(TensorType::bytes).sum();
            if self.is_scratch(id) { own } else { 0 }
        };
        let mut here = vec![false; self.graph.nodes().len()];
        calls.iter().for_each(|c| here[c.index()] = true);
        let reads = |id: NodeId| self.bases(id).map(|v| v.node).filter(|n| here[n.index()]).collect();
        let kept = |id: NodeId| self.result[id.index()];
        let (order, [program, depth]) = order::choose(self.graph, calls, &bytes, &reads, &kept);
        let reason = format!("program order keeps {program} bytes alive, depth first {depth}");
        let rule = if depth < program { "depth first" } else { "program order" };
        record.applied("schedule", rule, binding.name(), reason, 0, 0);
        order
    }

    /// Gives every result of the calls a place.
    fn allocate(&self, order: &[NodeId], plan: &mut Plan, places: &mut BTreeMap<Value, Place>) {
        let mut last: BTreeMap<Value, usize> = BTreeMap::new();
        for (i, &id) in order.iter().enumerate() {
            for v in self.bases(id) {
                last.insert(v, i);
            }
        }
        let end = order.len();
        let mut lifetimes: Vec<Lifetime> = Vec::new();
        // Lifetime that holds a value; several values in turn where one overwrites the other.
        let mut slot: BTreeMap<Value, usize> = BTreeMap::new();
        // The buffers of each lifetime, one for each value: so the checker can tell an overwritten value from its successor.
        let mut slots: Vec<Vec<u32>> = Vec::new();
        for (i, &id) in order.iter().enumerate() {
            let node = self.graph.node(id);
            let kept = self.result[id.index()];
            for (p, ty) in node.types.iter().enumerate() {
                let v = Value { node: id, port: p as u8 };
                // The next value of a state has the state's place.
                if places.contains_key(&v) {
                    continue;
                }
                if !self.is_scratch(id) {
                    places.insert(v, persistent(plan, ty));
                    continue;
                }
                let until = if kept { end } else { last.get(&v).copied().unwrap_or(i) };
                let buffer = plan.buffers.len() as u32;
                plan.buffers.push(Buffer { region: Region::Scratch, offset: 0, bytes: ty.bytes() });
                places.insert(v, Place::Buffer(buffer));
                let reused = (p == 0).then(|| self.overwritten(id, i, &last, &slot)).flatten();
                match reused {
                    Some(s) => {
                        lifetimes[s].last = until;
                        slots[s].push(buffer);
                        slot.insert(v, s);
                    }
                    None => {
                        slot.insert(v, lifetimes.len());
                        slots.push(vec![buffer]);
                        lifetimes.push(Lifetime { bytes: ty.bytes(), first: i, last: until });
                    }
                }
            }
        }
        let (offsets, size) = place(&lifetimes, ALIGNMENT);
        for (buffers, offset) in slots.iter().zip(offsets) {
            for &b in buffers {
                plan.buffers[b as usize].offset = offset;
            }
        }
        plan.scratch_bytes = plan.scratch_bytes.max(size);
    }

    /// The lifetime of an input that dies at call `i` and that the call's result may overwrite.
    fn overwritten(
        &self,
        id: NodeId,
        i: usize,
        last: &BTreeMap<Value, usize>,
        slot: &BTreeMap<Value, usize>,
    ) -> Option<usize> {
        let node = self.graph.node(id);
        let ty = &node.types[0];
        let same = |v: Value| {
            let layout = &self.layouts[v.node.index()][v.port as usize];
            self.graph.ty(v) == ty
                && layout.offset == 0
                && layout.is_dense(&ty.shape)
                && self.graph.ty(layout.base).bytes() == ty.bytes()
        };
        node.inputs.iter().enumerate().find_map(|(n, &v)| {
            let base = self.layouts[v.node.index()][v.port as usize].base;
            let dies = last.get(&base) == Some(&i) && !self.result[base.node.index()];
            // Every other view of the same memory must be read element by element too.
            let others =
                node.inputs.iter().all(|&o| self.layouts[o.node.index()][o.port as usize].base != base || same(o));
            (node.op.may_overwrite(n) && same(v) && dies && others).then(|| slot.get(&base).copied()).flatten()
        })
    }

    fn operand(&self, v: Value, places: &BTreeMap<Value, Place>) -> Operand {
        let layout = &self.layouts[v.node.index()][v.port as usize];
        Operand {
            place: places[&layout.base],
            ty: self.graph.ty(v).clone(),
            offset: layout.offset,
            strides: layout.strides.clone(),
        }
    }

    fn call(&self, id: NodeId, places: &BTreeMap<Value, Place>) -> Call {
        let node = self.graph.node(id);
        let outputs = (0..node.types.len()).map(|p| self.operand(Value { node: id, port: p as u8 }, places));
        Call {
            op: node.op.clone(),
            inputs: node.inputs.iter().map(|&v| self.operand(v, places)).collect(),
            outputs: outputs.collect(),
            at: node.at.clone(),
        }
    }
}

fn fill_report(plan: &mut Plan) {
    for binding in Binding::ALL {
        let work: ccl_ir::Work = plan.calls(binding).iter().map(Call::work).sum();
        plan.report.flops.insert(binding.name().into(), work.flops);
        plan.report.bytes.insert(binding.name().into(), work.bytes);
    }
    plan.report.weight_bytes = plan.weights.iter().map(|w| w.ty.bytes()).sum();
    // A plan of training has its parameters in the state; what else is there belongs to other plans.
    let states: u64 = plan.states.iter().map(|s| s.ty.bytes()).sum();
    let fixed = plan.report.weight_bytes + states + plan.persistent_bytes;
    plan.report.peak_bytes = fixed + plan.scratch_bytes;
    plan.report.live_lower_bound_bytes = fixed + plan.live_scratch_lower_bound();
}
