//! The algebra in graphs that are differentiated: gradients stay what they were, and a program is priced with its backward pass.

use std::collections::BTreeMap;

use crate::common::{about, small, wan14b};
use ccl_ir::interp::{evaluate, random_bindings};
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Event, Graph, Op, Plan, Tensor};
use ccl_model::{Config, Guidance, Spec, Task, answers, build_loss};
use ccl_passes::algebra::{self, Choose, Settings};
use ccl_passes::{
    DeviceSpec, Options, Record, Training, compile, cse, dead, differentiate, raise, simplify, specialise,
};

fn loss(config: &Config, task: Task, clip: &str, tokens: usize) -> Graph {
    let mut spec = Spec::new(task, clip.parse().unwrap(), Guidance::None);
    spec.text_tokens = tokens;
    build_loss(config, &spec).unwrap()
}

/// The loss of a task as the algebra gets it.
fn forward(config: &Config, task: Task) -> Graph {
    let r = &mut Record::default();
    let g = specialise::run(&loss(config, task, "3x4x4@13", 5), &answers(task, Guidance::None), r).unwrap();
    let g = cse::run(&dead::run(&g, r).unwrap(), r).unwrap();
    let g = simplify::run(&raise::run(&g, r).unwrap(), r).unwrap();
    dead::run(&cse::run(&g, r).unwrap(), r).unwrap()
}

fn settings(choose: Choose) -> Settings {
    Settings { choose, ..Settings::new(DeviceSpec::for_target("cpu")) }
}

/// Loss and gradients.
fn evaluated(g: &Graph) -> BTreeMap<String, Tensor<f64>> {
    let g = differentiate::run(g, None, &mut Record::default()).unwrap();
    evaluate(&g, &random_bindings(&g, 7)).unwrap()
}

#[test]
fn gradients_are_those_of_the_plain_form() {
    for extra in ["", r#", "window_center": "proportional", "window_edge": "shift""#, r#", "window_edge": "replicate""#]
    {
        let config = small(extra);
        for task in
            [Task::Joint, Task::A2v, Task::V2a, Task::T2v].into_iter().filter(|t| extra.is_empty() || *t == Task::Joint)
        {
            let plain = forward(&config, task);
            let want = evaluated(&plain);
            // Where an output is absorbed, its attention has no values left to project.
            for without in ["", "absorb output"] {
                let mut record = Record::default();
                let flow = differentiate::flow(&plain, None).unwrap();
                let settings = settings(Choose::Always).without(without);
                let new = algebra::run_differentiable(&plain, &settings, &flow, &mut record).unwrap();
                let halves = |g: &Graph| g.nodes().iter().any(|n| matches!(n.op, Op::ContextProbabilities(_)));
                assert!(halves(&new) || (task == Task::T2v && !without.is_empty()), "{task}: attention is whole");
                let got = evaluated(&new);
                assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{task}");
                for (name, want) in &want {
                    let error = relative_l2(&got[name].data, &want.data);
                    assert!(error <= 1e-10, "{task} {extra} {name}: {error:e}");
                }
            }
        }
    }
}

fn applied<'a>(plan: &'a Plan, rule: &'a str) -> impl Iterator<Item = &'a Event> {
    plan.report.events.iter().filter(move |e| e.pass == "algebra" && e.rule == rule && e.applied)
}

fn training(task: Task, algebra: Option<Settings>) -> Plan {
    let options = Options { schedule_rows: 0, training: Some(Training::default()), algebra, ..Options::default() };
    let graph = loss(&wan14b(), task, "21x44x80@158", 512);
    compile(&graph, &answers(task, Guidance::None), about(), &options).unwrap()
}

/// Three times what it saves in the forward pass: gradients of the projections' inputs and weights are saved too.
#[test]
fn absorbing_pays_three_times_in_training() {
    let default = || settings(Choose::Cheapest);
    let (with, without) = (training(Task::Joint, Some(default())), training(Task::Joint, None));
    let step = |plan: &Plan| plan.report.flops["step"] as i64;
    let (lost, told) = (
        step(&with) - step(&without),
        ["absorb output", "project after attention"].map(|rule| {
            let events: Vec<&Event> = applied(&with, rule).collect();
            assert_eq!(events.len(), 40, "{rule}");
            let deltas = |f: fn(&Event) -> i64| events.iter().map(|&e| f(e)).sum::<i64>();
            assert!(events.iter().all(|e| e.reason.contains("a step, with its backward pass, by the cost model")));
            println!("{rule}: {} flops, {} bytes", deltas(|e| e.flops_delta), deltas(|e| e.bytes_delta));
            // Turning the rule off takes as much more as its events say.
            let off = training(Task::Joint, Some(default().without(rule)));
            let changed = step(&with) - step(&off);
            assert!(
                (changed - deltas(|e| e.flops_delta)).abs() as f64 <= 0.01 * changed.abs() as f64,
                "{rule}: {changed}"
            );
            deltas(|e| e.flops_delta)
        }),
    );
    println!("{} to {}: {lost}", step(&without), step(&with));
    assert!(
        (lost - told.iter().sum::<i64>()).abs() as f64 <= 0.01 * lost.abs() as f64,
        "{lost} counted, {told:?} told"
    );
    assert!(-lost as f64 >= 0.043 * step(&without) as f64);
    // The forward pass alone, as a validation computes it.
    let options = |algebra| Options { schedule_rows: 0, algebra, ..Options::default() };
    let forward = |algebra| {
        let graph = loss(&wan14b(), Task::Joint, "21x44x80@158", 512);
        step(&compile(&graph, &answers(Task::Joint, Guidance::None), about(), &options(algebra)).unwrap())
    };
    let saved = forward(Some(default())) - forward(None);
    assert!((lost as f64 / saved as f64 - 3.0).abs() < 0.1, "{lost} in training, {saved} forward");
    // What needs weights that stay is refused with what it would cost: nothing is computed once per model where models change.
    for rule in ["merge projections", "fold norm into projection"] {
        let mut refused = with.report.events.iter().filter(|e| e.rule == rule && !e.applied);
        let first = refused.next().unwrap_or_else(|| panic!("{rule} is passed over in silence"));
        assert!(first.reason.contains("us more a step, with its backward pass, by the cost model"), "{first:?}");
        assert_eq!(applied(&with, rule).count(), 0);
    }
}
