//! One region: from its nodes to an e-graph, saturated, and the terms that are chosen in it.

use std::time::Duration;

use ccl_ir::Op;
use egg::{
    Applier, EGraph, Id, PatternAst, Rewrite, Runner, SearchMatches, Searcher, SimpleScheduler, StopReason, Subst,
    Symbol, Var,
};

use super::extract::{Choice, Prices, Total, Unpriced};
use super::language::{Kind, Known, Move, Region, Term};
use super::region::{Plain, Ref};
use super::rules::Rule;
use super::site::Site;
use super::{Choose, Settings};

/// Looks at every class that has an operator which can be a rule's root.
struct Everywhere {
    root: fn(&Op) -> bool,
}

impl Searcher<Term, Known> for Everywhere {
    fn search_eclass_with_limit(&self, region: &Region, id: Id, _: usize) -> Option<SearchMatches<'_, Term>> {
        let here = region[id].nodes.iter().any(|t| match t.kind {
            Kind::Op(n) => (self.root)(&region.analysis.ops[n as usize]),
            Kind::Leaf(_) => (self.root)(&Op::Copy(ccl_ir::ops::Copy {})),
            Kind::Port(_) => false,
        });
        here.then(|| SearchMatches { eclass: id, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

/// Lets a rule look at a class.
struct Apply {
    rule: usize,
    find: fn(&mut Site<'_>, Id),
}

impl Applier<Term, Known> for Apply {
    fn apply_one(&self, region: &mut Region, id: Id, _: &Subst, _: Option<&PatternAst<Term>>, _: Symbol) -> Vec<Id> {
        let before = region.total_size();
        (self.find)(&mut Site::new(region, self.rule), id);
        if region.total_size() == before { Vec::new() } else { vec![id] }
    }
}

/// A region as an e-graph.
pub(super) struct Built {
    pub region: Region,
    /// The original terms with their classes, in the region's order.
    pub originals: Vec<(Id, Term)>,
    pub outputs: Vec<Id>,
}

fn build(plain: &Plain) -> Built {
    let mut region: Region = EGraph::new(Known::new(plain.leaves.clone()));
    let mut originals = Vec::new();
    let add = |region: &mut Region, originals: &mut Vec<(Id, Term)>, term: Term| {
        let id = region.add(term.clone());
        originals.push((id, term));
        id
    };
    let leaves: Vec<Id> = (0..plain.leaves.len())
        .map(|n| add(&mut region, &mut originals, Term { kind: Kind::Leaf(n as u32), children: Vec::new() }))
        .collect();
    let mut nodes: Vec<Id> = Vec::new();
    for (i, (op, inputs, _)) in plain.nodes.iter().enumerate() {
        region.analysis.origin = i as u32;
        let mut children = Vec::new();
        for input in inputs {
            children.push(value(&mut region, &mut originals, &leaves, &nodes, *input));
        }
        let kind = Kind::Op(region.analysis.number(op));
        nodes.push(add(&mut region, &mut originals, Term { kind, children }));
    }
    let outputs: Vec<Id> =
        plain.outputs.iter().map(|r| value(&mut region, &mut originals, &leaves, &nodes, *r)).collect();
    region.rebuild();
    Built { region, originals, outputs }
}

/// The class of a reference: outputs of operators with several go through a port.
fn value(region: &mut Region, originals: &mut Vec<(Id, Term)>, leaves: &[Id], nodes: &[Id], r: Ref) -> Id {
    match r {
        Ref::Leaf(n) => leaves[n as usize],
        Ref::Node(n, port) => {
            let whole = nodes[n as usize];
            if region[whole].data.types.len() == 1 {
                return whole;
            }
            region.analysis.origin = region[whole].data.origin;
            let term = Term { kind: Kind::Port(port), children: vec![whole] };
            let id = region.add(term.clone());
            originals.push((id, term));
            id
        }
    }
}

/// A saturated region and what was chosen in it.
pub(super) struct Chosen {
    pub built: Built,
    /// What the original terms come to.
    pub before: Total,
    pub choice: Choice,
    /// What the chosen ones come to.
    pub total: Total,
    /// Whether saturation stopped at its limit.
    pub full: bool,
}

/// Saturates a region with some of the rules and chooses terms.
pub(super) fn choose(plain: &Plain, rules: &[Rule], settings: &Settings) -> Result<Chosen, Unpriced> {
    let mut built = build(plain);
    let start = Prices::new(&built.region, plain, &built.outputs, &settings.cost, u64::MAX);
    let before = start.price(&start.original(&built.originals))?;
    let rewrite = |(i, rule): (usize, &Rule)| {
        let (searcher, applier) = (Everywhere { root: rule.root }, Apply { rule: i, find: rule.find });
        Rewrite::new(rule.name, searcher, applier).ok()
    };
    let rewrites: Vec<Rewrite<Term, Known>> = rules.iter().enumerate().filter_map(rewrite).collect();
    // No limit on time: the same input gives the same plan on a slow machine.
    let runner = Runner::<Term, Known, ()>::new(Known::default())
        .with_egraph(std::mem::take(&mut built.region))
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(settings.iterations)
        .with_node_limit(settings.terms)
        .with_time_limit(Duration::MAX)
        .run(&rewrites);
    let full = matches!(runner.stop_reason, Some(StopReason::NodeLimit(_)));
    built.region = runner.egraph;
    let budget = before.kept + (plain.weight_bytes() as f64 * settings.keep_share) as u64;
    let prices = Prices::new(&built.region, plain, &built.outputs, &settings.cost, budget);
    let original = prices.original(&built.originals);
    let price = prices.price(&original)?;
    let moves = &built.region.analysis.moves;
    let (choice, total) = match settings.choose {
        Choose::Cheapest => prices.cheapest(original, price, moves),
        Choose::Always => always(plain, &built, settings, original, price),
    };
    Ok(Chosen { built, before, choice, total, full })
}

/// Every rewrite that can be applied at all, whatever it costs, each after the others. Rules that come early in the table, which do more,
/// have the last word.
fn always(plain: &Plain, built: &Built, settings: &Settings, original: Choice, price: Total) -> (Choice, Total) {
    let prices = Prices::new(&built.region, plain, &built.outputs, &settings.cost, u64::MAX);
    let mut best = (original, price);
    let mut moves: Vec<&Move> = built.region.analysis.moves.iter().collect();
    moves.sort_by_key(|m| std::cmp::Reverse(m.rule));
    for found in moves {
        let candidate = prices.with(&best.0, found);
        if let Ok(price) = prices.price(&candidate) {
            best = (candidate, price);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use ccl_ir::ops::{Binary, BinaryKind, Linear};
    use ccl_ir::{Binding, Graph, TensorType};
    use egg::{CostFunction, Extractor, Language};

    use super::*;
    use crate::algebra::outcome::outcome;
    use crate::algebra::{Settings, region, rules};
    use crate::device::DeviceSpec;

    /// egg's cost of a tree: what a sensible person would write, in whole picoseconds that do not wrap around.
    struct TreeCost<'a>(&'a Region, &'a Settings);

    impl CostFunction<Term> for TreeCost<'_> {
        type Cost = u64;

        fn cost<C: FnMut(Id) -> u64>(&mut self, term: &Term, mut costs: C) -> u64 {
            let own = match term.kind {
                Kind::Op(n) => {
                    let types: Vec<_> = term.children.iter().map(|&c| &self.0[c].data.types[0]).collect();
                    let op = &self.0.analysis.ops[n as usize];
                    let out = op.infer(&types).unwrap();
                    self.1.cost.picoseconds(op, &types, &out)
                }
                _ => 0,
            };
            term.fold(own, |sum, child| sum.saturating_add(costs(child)))
        }
    }

    /// Blocks `x + f(x) g(x) h(x)` with `f` a projection of a projection, which is cheaper folded into one.
    fn residual(blocks: usize) -> Plain {
        let d = 512;
        let mut g = Graph::new("residual");
        let mut x = g.input("x", TensorType::f32([4096, d]), Binding::Step).unwrap();
        for n in 0..blocks {
            let linear = |g: &mut Graph, name: &str, x| {
                let w = g.weight(&format!("{name}{n}"), TensorType::f32([d, d])).unwrap();
                g.add("", Linear::plain(), &[x, w]).unwrap()
            };
            let inner = linear(&mut g, "a", x);
            let f = linear(&mut g, "b", inner);
            let (k, h) = (linear(&mut g, "c", x), linear(&mut g, "d", x));
            let mut both = |kind, a, b| g.add("", Binary { kind }, &[a, b]).unwrap();
            let y = both(BinaryKind::Mul, f, k);
            let y = both(BinaryKind::Mul, y, h);
            x = both(BinaryKind::Add, x, y);
        }
        g.output("y", x, None);
        region::cut(&g, None).remove(0).plain
    }

    /// Costs of the whole program by the DAG: what egg's extractor takes, and what ours does; and what was there.
    fn extracted(blocks: usize) -> [u128; 3] {
        let plain = residual(blocks);
        let settings = Settings {
            rules: vec![rules::named("projection of projection").unwrap()],
            keep_share: 10.0,
            ..Settings::new(DeviceSpec::for_target("cpu"))
        };
        let found = choose(&plain, &settings.rules, &settings).unwrap();
        let region = &found.built.region;
        let prices = Prices::new(region, &plain, &found.built.outputs, &settings.cost, u64::MAX);
        let extractor = Extractor::new(region, TreeCost(region, &settings));
        let terms: Vec<(Id, Term)> = region.classes().map(|c| (c.id, extractor.find_best_node(c.id).clone())).collect();
        let theirs = prices.price(&prices.original(&terms)).unwrap();
        [theirs.cost, found.total.cost, found.before.cost]
    }

    #[test]
    fn the_cost_of_a_tree_fails_on_residual_chains_and_that_of_the_dag_does_not() {
        let [theirs, ours, before] = extracted(3);
        assert_eq!(theirs, ours, "a short chain shows no difference");
        assert!(ours < before);
        // Each block reads its input four times: from some block on, all trees cost as much as a number can say.
        for blocks in [16, 24] {
            let [theirs, ours, before] = extracted(blocks);
            println!("{blocks} blocks: {before} before, {theirs} by trees, {ours} by the DAG");
            assert!(ours < theirs, "{blocks} blocks: {ours}, by trees {theirs}");
            // Ours folds every block as it does in a short chain.
            let [_, short, _] = extracted(1);
            assert!(ours.abs_diff(short * blocks as u128) <= blocks as u128, "{ours}, {short} a block");
        }
    }

    #[test]
    fn equal_regions_look_equal_and_give_equal_results() {
        let settings = Settings::new(DeviceSpec::for_target("cuda"));
        let (a, b) = (residual(3), residual(3));
        assert_eq!(a.key(), b.key());
        assert_ne!(a.key(), residual(4).key());
        assert_eq!(format!("{:?}", outcome(&a, &settings)), format!("{:?}", outcome(&b, &settings)));
    }

    #[test]
    fn saturation_stops_at_its_limit_and_says_so() {
        let settings = Settings { terms: 20, keep_share: 10.0, ..Settings::new(DeviceSpec::for_target("cpu")) };
        let outcome = outcome(&residual(6), &settings);
        let note = outcome.notes.iter().find(|n| n.rule == "saturate").expect("a note");
        assert!(!note.applied && note.reason.starts_with("stopped at "), "{}", note.reason);
    }
}
