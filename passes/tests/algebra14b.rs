//! Equality saturation on the 14B model at the paper's clip: what it finds, what it saves, what it costs. A program of its own, because it looks at
//! what a process ever held.

#[path = "passes/common.rs"]
mod common;

use std::collections::BTreeMap;
use std::time::Instant;

use ccl_ir::plan::{Call, Plan};
use ccl_ir::{Binding, DType, Event};
use ccl_model::{Guidance, Task};
use ccl_passes::algebra::Settings;
use ccl_passes::cost::{CostModel, SCALE};
use ccl_passes::{DeviceSpec, Options};
use common::{plan, wan14b};

const CLIP: &str = "21x44x80@158";

fn tflop(n: u64) -> f64 {
    n as f64 / 1e12
}

/// Work of the cross-modal attention in a plan's step and prologue, by guidance pass.
fn cca(plan: &Plan, pass: &str) -> f64 {
    let calls = plan.entries.iter().filter(|(b, _)| **b != ccl_ir::Binding::Load).flat_map(|(_, calls)| calls);
    let of = |c: &&Call| c.at.starts_with(&format!("{pass}/")) && c.at.contains(".cca");
    tflop(calls.filter(of).map(|c| c.work().flops).sum())
}

/// Seconds that this thread has computed, whatever else the machine does.
fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<u64>().ok()? as f64 * 1e-9)
}

/// Most memory that the process ever held, in bytes.
fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse::<u64>();
    Some(kib.ok()? * 1024)
}

#[test]
fn projections_are_absorbed_where_it_pays() {
    let compile = |options: &Options| plan(&wan14b(), Task::Joint, Guidance::TwoPass, CLIP, options);
    let off = compile(&Options { algebra: None, ..Options::default() });
    let begin = (thread_seconds(), Instant::now());
    let on = compile(&Options::default());
    match (thread_seconds(), begin.0, peak_memory()) {
        (Some(now), Some(then), Some(bytes)) => {
            let (s, wall) = (now - then, begin.1.elapsed().as_secs_f64());
            println!("{s:.2} s of computing, {wall:.2} s by the clock, {:.2} GB at most", bytes as f64 / 1e9);
            assert!(s < 3.0, "compiling takes {s} s");
            assert!(bytes < 1_000_000_000, "compiling takes {bytes} bytes");
        }
        _ => eprintln!("not measured: this system does not say what a thread computes and what a process holds"),
    }
    let (before, after) = (on.report.flops_before["step"], on.report.flops["step"]);
    println!("step {:.1} -> {:.1} TFLOP, {:.1} without", tflop(before), tflop(after), tflop(off.report.flops["step"]));
    for (pass, was, is) in [("cond", 101.6, 61.0), ("uncond", 77.8, 41.3)] {
        println!("{pass}: {:.1} -> {:.1} TFLOP", cca(&off, pass), cca(&on, pass));
        assert!((cca(&off, pass) - was).abs() < 0.6 && (cca(&on, pass) - is).abs() < 0.6, "{pass}");
    }
    assert!((before - after) as f64 >= 0.043 * before as f64, "{before} to {after}");
    // The events add up to what the plan lost.
    let events = on.report.events.iter().filter(|e| e.pass == "algebra" && e.applied);
    let told: i64 = events.map(|e| e.flops_delta).sum();
    let lost = after as i64 - off.report.flops["step"] as i64;
    assert!((told - lost).abs() as f64 <= 0.02 * lost.abs() as f64, "events say {told}, the step lost {lost}");
    let blocks = on.report.events.iter().find(|e| e.rule == "saturate").expect("a summary");
    println!("{}", blocks.reason);
    assert!(blocks.reason.starts_with("85 regions, 9 of them different"), "{}", blocks.reason);
}

/// What a step and a prologue do: FLOPs and bytes.
fn counted(plan: &Plan) -> [f64; 2] {
    let of = |by_entry: &BTreeMap<String, u64>| (by_entry["step"] + by_entry["prologue"]) as f64;
    [of(&plan.report.flops), of(&plan.report.bytes)]
}

/// What they take by the roofline, in microseconds a step: a clip's steps share its prologue.
fn microseconds(plan: &Plan, spec: &DeviceSpec, matrices: DType) -> f64 {
    let of = |binding: Binding| {
        let works = plan.calls(binding).iter().map(Call::work);
        let seconds: f64 = works.map(|w| spec.seconds(w.flops as f64, w.bytes as f64, matrices)).sum();
        1e6 * seconds * CostModel::weight(binding) as f64 / SCALE as f64
    };
    of(Binding::Step) + of(Binding::Prologue)
}

/// The microseconds that an event says a rule saves.
fn saved(e: &Event) -> f64 {
    let before = e.reason.split(" us a step by the cost model").next().unwrap_or_default();
    before.rsplit(": ").next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no time in {e:?}"))
}

/// Work, traffic and time move as a rule's events say when it is left out, each by itself.
#[test]
fn every_rule_that_is_used_changes_the_plan_as_it_says() {
    for (target, half) in [("cpu", None), ("cuda", Some(DType::Bf16))] {
        let spec = DeviceSpec::for_target(target);
        let mut settings = Settings::new(spec.clone());
        settings.cost.half = half;
        let compile = |algebra: &Settings, half_activations: bool| {
            let options = Options { algebra: Some(algebra.clone()), half_activations, ..Options::default() };
            plan(&wan14b(), Task::Joint, Guidance::TwoPass, CLIP, &options)
        };
        let both = |algebra: &Settings| {
            // The events' traffic is that of the graph, in f32; their time is that of the types that the target stores.
            let (single, stored) = (compile(algebra, false), half.map(|_| compile(algebra, true)));
            let time = microseconds(stored.as_ref().unwrap_or(&single), &spec, half.unwrap_or(DType::F32));
            (single, time)
        };
        let (all, time) = both(&settings);
        let mut told: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
        for e in all.report.events.iter().filter(|e| e.pass == "algebra" && e.applied && e.rule != "saturate") {
            let sums = told.entry(e.rule.as_str()).or_default();
            let here = [e.flops_delta as f64, e.bytes_delta as f64, -saved(e)];
            sums.iter_mut().zip(here).for_each(|(sum, x)| *sum += x);
        }
        let mut wanted = vec!["absorb output", "project after attention"];
        if half.is_some() {
            wanted.extend(["fold norm into projection", "merge projections"]);
        }
        assert!(wanted.iter().all(|rule| told.contains_key(rule)), "{target}: {told:?}");
        for (rule, [flops, bytes, us]) in told {
            let (without, slower) = both(&settings.clone().without(rule));
            let (with, without, changed) = (counted(&all), counted(&without), time - slower);
            let [work, traffic] = [0, 1].map(|i| with[i] - without[i]);
            let what =
                format!("{target} {rule}: told {flops} {bytes} {us} us, counted {work} {traffic} {changed:.3} us");
            println!("{what}");
            assert!((work - flops).abs() <= 0.001 * flops.abs(), "flops: {what}");
            // Fusion, and merging across blocks, save more of what a rule leaves; never less.
            assert!(traffic <= bytes + 0.02 * bytes.abs(), "bytes: {what}");
            assert!(changed <= 0.8 * us, "time: {what}");
        }
    }
}
