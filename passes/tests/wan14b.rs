//! The 14B model at the paper's clip: what plans cost.

mod common;

use ccl_ir::Op;
use ccl_model::{Guidance, Task};
use ccl_passes::Options;
use common::{plan, wan14b};

const CLIP: &str = "21x44x80@158";

fn tflop(n: u64) -> f64 {
    n as f64 / 1e12
}

#[test]
fn flops_of_one_pass_are_the_papers() {
    let expected =
        [(Task::Joint, 833.8), (Task::A2v, 810.5), (Task::V2a, 833.3), (Task::T2v, 809.1), (Task::T2a, 0.86)];
    for (task, want) in expected {
        let plan = plan(&wan14b(), task, Guidance::None, CLIP, &Options::default());
        let got = tflop(plan.report.flops_before["step"]);
        println!("{task}: {got:.3} TFLOP before, step {:.3}", tflop(plan.report.flops["step"]));
        assert!((got - want).abs() / want < 0.015, "{task}: {got} TFLOP, expected {want}");
    }
}

#[test]
fn a_reference_video_stream_leaves_the_step() {
    let plan = plan(&wan14b(), Task::V2a, Guidance::TwoPass, CLIP, &Options::default());
    assert!(tflop(plan.report.flops["step"]) < 20.0, "{}", tflop(plan.report.flops["step"]));
    // One pass of the video stream, less what the algebra saves.
    assert!(tflop(plan.report.flops["prologue"]) > 750.0);
}

#[test]
fn every_task_and_guidance_plans_within_the_memory_bound() {
    for task in Task::ALL {
        for guidance in Guidance::ALL {
            let begin = std::time::Instant::now();
            let plan = plan(&wan14b(), task, guidance, CLIP, &Options::default());
            let (peak, bound) = (plan.report.peak_bytes, plan.report.live_lower_bound_bytes);
            println!(
                "{task} {guidance}: {:.2} s, step {:.1} TFLOP, peak {:.2} GB, bound {:.2} GB, scratch {:.3} of {:.3} GB, weights {:.1} GB, {} calls, {} events",
                begin.elapsed().as_secs_f64(),
                tflop(plan.report.flops["step"]),
                peak as f64 / 1e9,
                bound as f64 / 1e9,
                plan.scratch_bytes as f64 / 1e9,
                plan.live_scratch_lower_bound() as f64 / 1e9,
                plan.report.weight_bytes as f64 / 1e9,
                plan.entries.values().map(Vec::len).sum::<usize>(),
                plan.report.events.len()
            );
            assert!(peak as f64 <= 1.25 * bound as f64, "{task} {guidance}: {peak} bytes, bound {bound}");
            assert!(
                plan.scratch_bytes as f64 <= 1.25 * plan.live_scratch_lower_bound() as f64,
                "{task} {guidance}: scratch {} bytes, bound {}",
                plan.scratch_bytes,
                plan.live_scratch_lower_bound()
            );
            let gathers =
                plan.entries.values().flatten().filter(|c| matches!(c.op, Op::WindowGather(_) | Op::Concat(_)));
            assert_eq!(gathers.count(), 0, "{task} {guidance}: keys are copied");
        }
    }
}
