//! Passes on random graphs: each with the interpreter before and after it, and every plan is checked.

mod common;

use ccl_ir::random_graph::{Failure, Recipe, answers, found, hunt};
use ccl_ir::{DType, Graph};
use ccl_passes::algebra::{Choose, Settings};
use ccl_passes::{DeviceSpec, Options, compile};
use common::about;

fn passed(outcome: Result<(), Box<Failure>>) {
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

fn options(half_activations: bool, parallelism: usize) -> Options {
    Options { validate: true, schedule_rows: 4, half_activations, parallelism, ..Options::default() }
}

fn compiles(graph: &Graph, options: &Options) -> Result<(), String> {
    compile(graph, &answers(), about(), options).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn no_pass_changes_a_result() {
    passed(hunt(0..300, &Recipe::default(), |g| compiles(g, &options(false, 0))));
}

#[test]
fn no_pass_for_gpus_changes_a_result() {
    for (half, seeds) in [(DType::F16, 300..420), (DType::Bf16, 420..540)] {
        let recipe = Recipe { half: Some(half), ..Recipe::default() };
        passed(hunt(seeds, &recipe, |g| compiles(g, &options(true, 64))));
    }
}

#[test]
fn no_pass_changes_a_result_of_large_graphs() {
    let recipe = Recipe { nodes: 60, ..Recipe::default() };
    passed(hunt(540..580, &recipe, |g| compiles(g, &options(false, 8))));
}

#[test]
fn no_rule_of_the_algebra_changes_a_result() {
    for (target, seeds) in [("cpu", 580..700), ("cuda", 700..780)] {
        let settings = Settings::new(DeviceSpec::for_target(target));
        let algebra = Some(Settings { choose: Choose::Always, keep_share: 10.0, ..settings });
        let options = Options { algebra, ..options(false, 0) };
        passed(hunt(seeds, &Recipe::default(), |g| compiles(g, &options)));
        let half = Recipe { half: Some(DType::Bf16), ..Recipe::default() };
        let options = Options { half_activations: true, parallelism: 64, ..options };
        passed(hunt(780..840, &half, |g| compiles(g, &options)));
    }
}

#[test]
fn what_was_found_stays_mended() {
    for (name, graph) in found() {
        for options in [options(false, 0), options(true, 64)] {
            compiles(&graph, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
