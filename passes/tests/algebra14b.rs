//! Equality saturation on the 14B model at the paper's clip: what it finds, what it saves, what it costs.

mod common;

use std::time::Instant;

use ccl_ir::plan::{Call, Plan};
use ccl_model::{Guidance, Task};
use ccl_passes::Options;
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

#[test]
fn projections_are_absorbed_where_it_pays() {
    let begin = Instant::now();
    let off = plan(&wan14b(), Task::Joint, Guidance::TwoPass, CLIP, &Options { algebra: None, ..Options::default() });
    println!("{:.2} s without", begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    let on = plan(&wan14b(), Task::Joint, Guidance::TwoPass, CLIP, &Options::default());
    println!("{:.2} s", begin.elapsed().as_secs_f64());
    let before = on.report.flops_before["step"];
    let after = on.report.flops["step"];
    println!("step {:.1} -> {:.1} TFLOP, without {:.1}", tflop(before), tflop(after), tflop(off.report.flops["step"]));
    println!("cond {:.1} -> {:.1}", cca(&off, "cond"), cca(&on, "cond"));
    println!("uncond {:.1} -> {:.1}", cca(&off, "uncond"), cca(&on, "uncond"));
    let shown = |e: &&ccl_ir::Event| e.pass == "algebra" && (!e.at.contains("blocks.") || e.at.contains("blocks.3."));
    for e in on.report.events.iter().filter(shown) {
        println!("{} {} at {}: {} [{} {}]", e.applied, e.rule, e.at, e.reason, e.flops_delta, e.bytes_delta);
    }
    assert!((before - after) as f64 >= 0.043 * before as f64, "{before} to {after}");
    assert!((cca(&off, "cond") - 101.6).abs() < 1.0 && (cca(&on, "cond") - 61.0).abs() < 1.0);
    assert!((cca(&off, "uncond") - 77.8).abs() < 1.0 && (cca(&on, "uncond") - 41.0).abs() < 1.0);
}
