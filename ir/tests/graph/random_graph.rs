//! Random graphs are valid, the same for a seed, of every operator, and well conditioned; what fails becomes small.

use std::collections::BTreeSet;

use ccl_ir::interp::{evaluate, random_bindings};
use ccl_ir::random_graph::{Expected, Failure, Recipe, VALUES, found, grow, hunt, shrink};
use ccl_ir::{DType, Graph, Op, text, verify::verify};

fn names(graph: &Graph) -> Vec<&'static str> {
    graph.nodes().iter().map(|n| n.op.name()).collect()
}

#[test]
fn graphs_are_valid_and_the_same_for_a_seed() {
    let recipe = Recipe { half: Some(DType::F16), ..Recipe::default() };
    for seed in 0..60 {
        let graph = grow(seed, &recipe);
        verify(&graph).unwrap();
        assert_eq!(graph, grow(seed, &recipe));
        assert_eq!(text::parse(&text::print(&graph)).as_ref(), Ok(&graph));
        assert!(graph.outputs.iter().any(|o| o.wanted_if.is_none()));
    }
}

#[test]
fn every_operator_is_in_them() {
    let all: BTreeSet<&str> = Op::samples().iter().map(|s| s.op.name()).collect();
    let mut seen = BTreeSet::new();
    let (mut operations, graphs) = (0, 150);
    for seed in 0..graphs {
        let graph = grow(seed, &Recipe::default());
        seen.extend(names(&graph));
        operations += graph.nodes().iter().filter(|n| n.op.given_name().is_none()).count();
    }
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(operations > 15 * graphs as usize, "{operations} operations");
}

#[test]
fn single_precision_is_within_the_bounds() {
    let recipe = Recipe::default();
    let outcome = hunt(0..100, &recipe, |graph| {
        let expected = Expected::of(graph, None).map_err(|e| e.to_string())?;
        let given = random_bindings(graph, VALUES);
        let single = given.iter().map(|(name, t)| (name.clone(), t.convert::<f32>())).collect();
        let single = evaluate(graph, &single).map_err(|e| e.to_string())?;
        for (name, bound) in &expected.bounds {
            if *bound > 0.05 {
                return Err(format!("`{name}` may be {bound} wrong: the graph is ill conditioned"));
            }
            expected.check(name, &single[name].data)?;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn wrong_results_are_outside_the_bounds() {
    for seed in 0..30 {
        let expected = Expected::of(&grow(seed, &Recipe::default()), None).unwrap();
        for (name, want) in &expected.values {
            // Another number everywhere, and one that is no number.
            let shifted: Vec<f64> = want.data.iter().map(|x| 1.5 * x + 0.5).collect();
            assert!(expected.check(name, &shifted).is_err(), "{seed} {name}");
            let mut broken = want.data.clone();
            broken[0] = f64::NAN;
            assert!(expected.check(name, &broken).is_err(), "{seed} {name}");
        }
    }
}

#[test]
fn failures_are_shrunk_to_what_matters() {
    // A fault that needs a softmax below a product.
    let faulty = |g: &Graph| {
        let below = |i: usize| g.nodes()[i].inputs.iter().any(|v| matches!(g.op(*v), Op::Softmax(_)));
        g.nodes().iter().enumerate().any(|(i, n)| matches!(n.op, Op::Binary(_)) && below(i))
    };
    let check = |g: &Graph| if faulty(g) { Err("fault".to_owned()) } else { Ok(()) };
    let failure = hunt(0..500, &Recipe::default(), check).unwrap_err();
    let operations = |g: &Graph| g.nodes().iter().filter(|n| n.op.given_name().is_none()).count();
    assert!(faulty(&failure.graph) && operations(&failure.graph) == 2, "{failure}");
    let Failure { seed, .. } = *failure;
    let told = failure.to_string();
    assert!(told.starts_with(&format!("random graph {seed}: fault\ngraph \"random {seed}\"\n")), "{told}");
    let (_, graph) = told.split_once('\n').unwrap();
    assert_eq!(text::parse(graph).as_ref(), Ok(&failure.graph));
    // What does not fail any smaller stays as it is.
    let whole = grow(1, &Recipe::default());
    let same = shrink(whole.clone(), |g| *g == whole);
    assert_eq!(same, whole);
}

#[test]
fn a_check_that_panics_fails() {
    let failure = hunt(0..1, &Recipe::default(), |_| panic!("index out of bounds")).unwrap_err();
    assert!(failure.problem.contains("index out of bounds"), "{failure}");
}

#[test]
fn graphs_that_were_found_are_graphs() {
    for (name, graph) in found() {
        verify(&graph).unwrap();
        let expected = Expected::of(&graph, None).unwrap();
        assert!(expected.bounds.values().all(|bound| *bound < 0.05), "{name}: {expected:?}");
    }
}
