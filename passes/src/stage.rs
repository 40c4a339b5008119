//! The pipeline as a time line: operations, work, traffic and memory of the program after each pass, and of every module
//! as built.

use std::collections::{BTreeMap, HashMap};

use ccl_ir::plan::{Call, Count, Module, Report, Stage};
use ccl_ir::{Binding, Graph, Node, Op, Plan, TensorType, Value};

use crate::layout::is_view;
use crate::record::module;

/// Collects stages while the passes run.
#[derive(Debug)]
pub struct Stages {
    list: Vec<Stage>,
    modules: Vec<Module>,
    /// Place of a module in the list.
    place: HashMap<String, usize>,
    /// Whether values have their binding times yet; before, everything belongs to the step.
    bound: bool,
}

impl Stages {
    /// Starts with the graph as built.
    pub fn new(built: &Graph) -> Self {
        let mut stages = Self { list: Vec::new(), modules: Vec::new(), place: HashMap::new(), bound: false };
        for (id, node) in built.iter().filter(|(_, n)| runs(n)) {
            let m = stages.module(&node.at);
            m.built.add(built.work(id));
            *m.operators.entry(node.op.name().into()).or_default() += 1;
        }
        stages.push("build", built, 0);
        stages
    }

    fn module(&mut self, at: &str) -> &mut Module {
        let at = module(at);
        let i = match self.place.get(at) {
            Some(&i) => i,
            None => {
                self.place.insert(at.into(), self.modules.len());
                self.modules.push(Module { at: at.into(), ..Module::default() });
                self.modules.len() - 1
            }
        };
        &mut self.modules[i]
    }

    /// Notes the graph that a pass left. `events` is the number of events so far.
    pub fn push(&mut self, pass: &str, graph: &Graph, events: usize) {
        self.bound |= pass == "hoist";
        let bindings = if self.bound { graph.bindings() } else { vec![Binding::Step; graph.nodes().len()] };
        let mut work: BTreeMap<Binding, Count> = BTreeMap::new();
        for (id, _) in graph.iter().filter(|(_, n)| runs(n)) {
            work.entry(bindings[id.index()]).or_default().add(graph.work(id));
        }
        let weight_bytes = weight_bytes(graph);
        self.list.push(Stage {
            pass: pass.into(),
            nodes: work.values().map(|c| c.nodes).sum(),
            flops: by_name(&work, |c| c.flops),
            bytes: by_name(&work, |c| c.bytes),
            weight_bytes,
            peak_bytes: weight_bytes.saturating_add(live_bytes(graph, &bindings)),
            events,
        });
    }

    /// Notes what the task needs of each module.
    pub fn specialised(&mut self, graph: &Graph) {
        for (id, node) in graph.iter().filter(|(_, n)| runs(n)) {
            self.module(&node.at).specialised.add(graph.work(id));
        }
    }

    /// Writes the stages into the report of the finished plan, which is the last of them.
    pub fn finish(mut self, plan: &mut Plan, events: usize) {
        let mut work: BTreeMap<Binding, Count> = BTreeMap::new();
        for (&entry, calls) in &plan.entries {
            let count = work.entry(entry).or_default();
            calls.iter().map(Call::work).for_each(|w| count.add(w));
        }
        let Report { weight_bytes, peak_bytes, .. } = plan.report;
        self.list.push(Stage {
            pass: "lower".into(),
            nodes: work.values().map(|c| c.nodes).sum(),
            flops: by_name(&work, |c| c.flops),
            bytes: by_name(&work, |c| c.bytes),
            weight_bytes,
            peak_bytes,
            events,
        });
        plan.report.stages = self.list;
        plan.report.modules = self.modules;
    }
}

/// Whether a node becomes a call, as far as can be told before lowering.
fn runs(node: &Node) -> bool {
    !is_view(&node.op) && !matches!(node.op, Op::Input(_) | Op::Weight(_) | Op::State(_))
}

fn by_name(work: &BTreeMap<Binding, Count>, of: impl Fn(&Count) -> u64) -> BTreeMap<String, u64> {
    Binding::ALL.iter().map(|b| (b.name().to_string(), work.get(b).map_or(0, &of))).collect()
}

fn weight_bytes(graph: &Graph) -> u64 {
    // In training the parameters are in the state.
    let weights = graph.nodes().iter().filter(|n| matches!(n.op, Op::Weight(_) | Op::State(_)));
    weights.map(|n| n.types[0].bytes()).fold(0, u64::saturating_add)
}

/// Bytes of inputs and of values that outlive their entry, and the most bytes of all other values that are alive at once. Views
/// take no memory and keep what they look at alive.
fn live_bytes(graph: &Graph, bindings: &[Binding]) -> u64 {
    let nodes = graph.nodes();
    let mut base: Vec<usize> = (0..nodes.len()).collect();
    // Of each stored node: its last reader and the latest entry that reads it.
    let mut last: Vec<usize> = (0..nodes.len()).collect();
    let mut read_until = bindings.to_vec();
    for (i, node) in nodes.iter().enumerate() {
        if is_view(&node.op) {
            base[i] = node.inputs.first().map_or(i, |v| base[v.node.index()]);
            continue;
        }
        for &Value { node: n, .. } in &node.inputs {
            let b = base[n.index()];
            last[b] = last[b].max(i);
            read_until[b] = read_until[b].max(bindings[i]);
        }
    }
    for o in &graph.outputs {
        last[base[o.value.node.index()]] = nodes.len();
    }
    let size = |i: usize| nodes[i].types.iter().map(TensorType::bytes).fold(0, u64::saturating_add);
    let mut kept = 0u64;
    // Bytes alive now, the most so far, and what is freed at each node, by entry.
    let mut live: BTreeMap<Binding, (u64, u64)> = BTreeMap::new();
    let mut freed = vec![0u64; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        match node.op {
            Op::Input(_) => kept = kept.saturating_add(size(i)),
            _ if !runs(node) => {}
            _ if read_until[i] > bindings[i] => kept = kept.saturating_add(size(i)),
            _ => {
                let (now, most) = live.entry(bindings[i]).or_default();
                *now = now.saturating_add(size(i));
                *most = (*most).max(*now);
                if let Some(f) = freed.get_mut(last[i]) {
                    *f = f.saturating_add(size(i));
                }
            }
        }
        // What this node read last belongs to its own entry, else it would be kept.
        if let Some((now, _)) = live.get_mut(&bindings[i]) {
            *now = now.saturating_sub(freed[i]);
        }
    }
    kept.saturating_add(live.values().map(|l| l.1).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use ccl_ir::ops::{self, UnaryKind};

    use super::*;

    /// `y = relu-like(relu-like(x))`, by hand: 8 bytes a value of two floats.
    #[test]
    fn memory_is_counted_by_hand() {
        let mut g = Graph::new("two");
        let x = g.input("x", TensorType::f32([2]), Binding::Step).unwrap();
        let unary = || ops::Unary { kind: UnaryKind::Silu };
        let a = g.add("m/a", unary(), &[x]).unwrap();
        let view = g.add("m/v", ops::Reshape { shape: vec![1, 2] }, &[a]).unwrap();
        let b = g.add("m/b", unary(), &[view]).unwrap();
        let c = g.add("m/c", unary(), &[b]).unwrap();
        g.output("y", c, None);
        // The input, and two values alive at once: never three, for `a` is dead when `c` is written.
        assert_eq!(live_bytes(&g, &vec![Binding::Step; g.nodes().len()]), 8 + 16);
        let stages = Stages::new(&g);
        assert_eq!(stages.list[0].nodes, 3);
        assert_eq!(stages.list[0].bytes["step"], 3 * 16);
        assert_eq!(stages.modules.len(), 3);
    }

    /// A value of the prologue that the step reads is kept, and takes no working memory.
    #[test]
    fn what_the_step_reads_is_kept() {
        let mut g = Graph::new("kept");
        let early = g.input("early", TensorType::f32([4]), Binding::Prologue).unwrap();
        let late = g.input("late", TensorType::f32([4]), Binding::Step).unwrap();
        let a = g.add("m/a", ops::Unary { kind: UnaryKind::Silu }, &[early]).unwrap();
        let y = g.add("m/y", ops::Binary { kind: ops::BinaryKind::Add }, &[a, late]).unwrap();
        g.output("y", y, None);
        assert_eq!(live_bytes(&g, &g.bindings()), 3 * 16 + 16);
    }
}
