//! Equality saturation on the 14B model at the paper's clip: what it finds, what it saves, what it costs.

mod common;

use std::collections::BTreeMap;
use std::time::Instant;

use ccl_ir::DType;
use ccl_ir::plan::{Call, Plan};
use ccl_model::{Guidance, Task};
use ccl_passes::algebra::Settings;
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

#[test]
fn every_rule_that_is_used_changes_the_plan_as_it_says() {
    for (target, half) in [("cpu", None), ("cuda", Some(DType::Bf16))] {
        let mut settings = Settings::new(DeviceSpec::for_target(target));
        settings.cost.half = half;
        let compile = |algebra: Settings| {
            let options = Options { algebra: Some(algebra), ..Options::default() };
            plan(&wan14b(), Task::Joint, Guidance::TwoPass, CLIP, &options)
        };
        let all = compile(settings.clone());
        let mut told: BTreeMap<&str, i64> = BTreeMap::new();
        for e in all.report.events.iter().filter(|e| e.pass == "algebra" && e.applied && e.rule != "saturate") {
            *told.entry(e.rule.as_str()).or_default() += e.flops_delta;
        }
        assert!(told.len() >= 2, "{told:?}");
        for (rule, told) in told {
            let without = compile(settings.clone().without(rule));
            let work = |plan: &Plan| (plan.report.flops["step"] + plan.report.flops["prologue"]) as i64;
            let changed = work(&all) - work(&without);
            println!("{target} {rule}: {told} told, {changed} counted");
            assert!(changed.signum() == told.signum(), "{rule} on {target}: {told} told, {changed} counted");
            assert!(
                (changed - told).abs() as f64 <= 0.02 * changed.abs() as f64,
                "{rule}: {told} told, {changed} counted"
            );
        }
    }
}
