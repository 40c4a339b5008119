//! Every rule of the algebra by itself: left against right in f64, on random sizes and values.

use crate::left_sides::{Left, left};
use ccl_ir::interp::{evaluate, random_bindings};
use ccl_ir::ops::{self, BinaryKind, UnaryKind};
use ccl_ir::partition::Edge;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Binding, DType, Graph, IrError, Partition, TensorType, Value};
use ccl_passes::algebra::{self, Choose, Settings, rules};
use ccl_passes::cost::CostModel;
use ccl_passes::{DeviceSpec, Record};

#[test]
fn both_sides_of_every_rule_are_equal() {
    for rule in rules::all() {
        for seed in 0..24 {
            let mut l = Left::new(seed * 7919 + 3);
            let results = left(rule.name, &mut l).unwrap_or_else(|e| panic!("{}: {e}", rule.name));
            for (i, v) in results.into_iter().enumerate() {
                l.g.output(format!("y{i}"), v, None);
            }
            let settings = Settings {
                rules: vec![rule],
                choose: Choose::Always,
                keep_share: 1e9,
                ..Settings::new(DeviceSpec::for_target("cpu"))
            };
            let mut record = Record::default();
            let right = algebra::run(&l.g, &settings, &mut record).unwrap_or_else(|e| panic!("{}: {e}", rule.name));
            let applied = record.events.iter().any(|e| e.applied && e.rule == rule.name);
            assert!(applied && right != l.g, "`{}` was not applied to\n{}", rule.name, l.g);
            ccl_ir::verify::verify(&right).unwrap();
            let values = random_bindings(&l.g, seed);
            let (want, got) = (evaluate(&l.g, &values).unwrap(), evaluate(&right, &values).unwrap());
            for (name, want) in &want {
                assert_eq!(got[name].shape, want.shape, "{}", rule.name);
                let error = relative_l2(&got[name].data, &want.data);
                assert!(error <= 1e-11, "`{}`, {name}: {error:e}\n{}\nbecame\n{right}", rule.name, l.g);
            }
        }
    }
}

#[test]
fn rules_have_names_and_laws_of_their_own() {
    let all = rules::all();
    for (i, rule) in all.iter().enumerate() {
        assert!(rule.law.len() > 10, "{rule:?}");
        assert!(all[..i].iter().all(|r| r.name != rule.name && r.law != rule.law), "{rule:?}");
    }
    let lossy = |name: &str| Settings::new(DeviceSpec::for_target("cpu")).rules.iter().any(|r| r.name == name);
    assert!(lossy("absorb output") && !lossy("fold norm into half projection"));
}

/// What a graph costs, with the copies that its views need: work in each step and once per clip, and the model's price of all of it.
fn counted(g: &Graph, cost: &CostModel) -> (i64, i64, u128) {
    let g = &ccl_passes::layout::run(g, &mut Record::default()).unwrap();
    let (bindings, live) = (g.bindings(), g.live());
    let (mut work, mut price) = (ccl_ir::Work::default(), 0);
    for (id, node) in g.iter().filter(|(id, n)| live[id.index()] && !n.inputs.is_empty()) {
        let types: Vec<&TensorType> = node.inputs.iter().map(|v| g.ty(*v)).collect();
        let binding = bindings[id.index()];
        let weight = u128::from(CostModel::weight(binding));
        price += u128::from(cost.picoseconds(&node.op, &types, &node.types)) * weight;
        if binding != Binding::Load && !ccl_passes::layout::is_view(&node.op) {
            work = work + g.work(id);
        }
    }
    (work.flops as i64, work.bytes as i64, price)
}

/// A device on which one thing is dear: arithmetic, traffic, or calls.
fn devices() -> [DeviceSpec; 3] {
    let free = DeviceSpec {
        matrix_flops: [("f32".to_string(), 1e18)].into(),
        vector_flops: 1e18,
        bandwidth: 1e18,
        call_seconds: 0.0,
        ..DeviceSpec::for_target("cpu")
    };
    [
        DeviceSpec { matrix_flops: [("f32".to_string(), 1e6)].into(), ..free.clone() },
        DeviceSpec { bandwidth: 1e6, ..free.clone() },
        DeviceSpec { call_seconds: 1e-3, ..free },
    ]
}

#[test]
fn a_rule_that_pays_changes_the_counted_work_as_its_event_says() {
    let mut paid = std::collections::BTreeSet::new();
    for rule in rules::all() {
        for (seed, spec) in (0..24).flat_map(|seed| devices().map(|d| (seed, d))) {
            let mut l = Left::new(seed * 7919 + 3);
            // A reader that takes any view, as a model's are: an output of the graph would have to be copied.
            for (i, v) in left(rule.name, &mut l).unwrap().into_iter().enumerate() {
                let sum = l.g.add("reader", ops::Reduce::to([]), &[v]).unwrap();
                l.g.output(format!("y{i}"), sum, None);
            }
            let on = Settings { rules: vec![rule], keep_share: 1e9, ..Settings::new(spec) };
            let mut record = Record::default();
            let with = algebra::run(&l.g, &on, &mut record).unwrap();
            let Some(event) = record.events.iter().find(|e| e.applied && e.rule == rule.name) else {
                assert!(with == l.g, "`{}` rewrote without an event", rule.name);
                continue;
            };
            paid.insert(rule.name);
            let off = algebra::run(&l.g, &on.clone().without(rule.name), &mut Record::default()).unwrap();
            assert!(off == l.g, "no rule, no change");
            let ((flops, bytes, price), (flops_off, bytes_off, price_off)) =
                (counted(&with, &on.cost), counted(&off, &on.cost));
            let what = format!("`{}` on {seed}: {event:?}\n{}\n{with}", rule.name, l.g);
            assert_eq!(flops - flops_off, event.flops_delta, "flops of {what}");
            assert_eq!(bytes - bytes_off, event.bytes_delta, "bytes of {what}");
            assert!(price < price_off, "{price_off} to {price}: {what}");
        }
    }
    println!("paid: {paid:?}");
    for name in ["absorb output", "project after attention", "merge projections", "projection of projection"] {
        assert!(paid.contains(name), "`{name}` never pays");
    }
}
