//! Passes on random graphs: each with the interpreter before and after it, and every plan is checked.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::common::about;
use ccl_ir::interp::{evaluate, random_bindings};
use ccl_ir::ops::{self, BinaryKind};
use ccl_ir::random_graph::{Failure, Recipe, answers, found, hunt};
use ccl_ir::{Binding, DType, Graph, Op, Tensor, TensorType, Value};
use ccl_passes::algebra::{self, Choose, Settings};
use ccl_passes::rebuild::Rebuild;
use ccl_passes::{DeviceSpec, Options, Record, compile, differentiate, specialise};

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

/// The graph with its weights as parameters that are learnt, and a random sum of its results as the loss.
fn loss(graph: &Graph) -> Graph {
    let mut re = Rebuild::new(graph);
    for (id, node) in graph.iter() {
        match &node.op {
            Op::Weight(w) if w.ty.dtype == DType::F32 => {
                re.put(id, ops::State { name: w.name.clone(), ty: w.ty.clone() }.into(), &[])
            }
            _ => re.keep(id),
        }
        .unwrap();
    }
    let outputs: Vec<Value> = graph.outputs.iter().map(|o| re.get(o.value)).collect();
    let mut g = re.new;
    let mut loss = g.add("loss", ops::Constant { ty: TensorType::f32([]), value: 0.0 }, &[]).unwrap();
    for (i, v) in outputs.into_iter().enumerate().filter(|(_, v)| g.ty(*v).dtype.is_float()).collect::<Vec<_>>() {
        let r = g.input(&format!("r{i}"), TensorType::f32(g.ty(v).shape.clone()), Binding::Step).unwrap();
        let product = g.add("loss", ops::Binary { kind: BinaryKind::Mul }, &[v, r]).unwrap();
        let sum = g.add("loss", ops::Reduce::to([]), &[product]).unwrap();
        loss = g.add("loss", ops::Binary { kind: BinaryKind::Add }, &[loss, sum]).unwrap();
    }
    g.output("loss", loss, None);
    g
}

/// Loss and gradients of all parameters.
fn gradients(g: &Graph) -> Result<BTreeMap<String, Tensor<f64>>, String> {
    let g = differentiate::run(g, None, &mut Record::default()).map_err(|e| e.to_string())?;
    evaluate(&g, &random_bindings(&g, 3)).map_err(|e| e.to_string())
}

#[test]
fn no_rewrite_before_differentiation_changes_a_gradient() {
    let settings = Settings { choose: Choose::Always, ..Settings::new(DeviceSpec::for_target("cpu")) };
    let (tried, rewritten) = (Cell::new(0), Cell::new(0));
    passed(hunt(840..1440, &Recipe::default(), |graph| {
        let mut record = Record::default();
        let graph = specialise::run(graph, &answers(), &mut record).map_err(|e| e.to_string())?;
        let plain = loss(&graph);
        // Some operators have no gradient, and no need of one.
        let Ok(want) = gradients(&plain) else { return Ok(()) };
        let flow = differentiate::flow(&plain, None).map_err(|e| e.to_string())?;
        let new = algebra::run_differentiable(&plain, &settings, &flow, &mut record).map_err(|e| e.to_string())?;
        let got = gradients(&new)?;
        tried.set(tried.get() + 1);
        rewritten.set(rewritten.get() + usize::from(new != plain));
        if got.keys().ne(want.keys()) {
            return Err(format!("gradients of {:?}, not of {:?}", got.keys(), want.keys()));
        }
        let size = want.values().flat_map(|t| &t.data).fold(1.0f64, |m, x| m.max(x.abs()));
        for (name, want) in &want {
            let apart = got[name].data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            // NaN is no agreement.
            if !(apart <= 1e-9 * size) {
                return Err(format!("`{name}` is off by {apart:e} of {size:e}"));
            }
        }
        Ok(())
    }));
    println!("{} graphs, {} rewritten", tried.get(), rewritten.get());
    assert!(tried.get() > 200 && rewritten.get() > 100, "{} graphs, {} rewritten", tried.get(), rewritten.get());
}
